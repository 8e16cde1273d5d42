"""attest keep, attest secret: the key of what is encrypted for an enclave, and who gives it."""

import argparse
import os
from pathlib import Path
from typing import Any


def add_keep(below: Any) -> None:
    """Add the commands to those of ``attest``."""
    text = "make the key of what is encrypted for one enclave"
    secret = below.add_parser("secret", help=text, description=text)
    secret.add_argument("file", metavar="FILE", type=Path, help="a new one, for its owner's eyes")
    secret.set_defaults(run=_secret)

    text = "give a party's key to its enclave, once its evidence is verified; to nobody else"
    keep = below.add_parser("keep", help=text, description=text)
    text = "with the plan and an attestation/ of your own; never on the enclave's machine"
    keep.add_argument("workspace", metavar="WORKSPACE", type=Path, help=text)
    keep.add_argument("--role", required=True, choices=("aggregator", "collaborator"))
    keep.add_argument("--name", metavar="SITE", help="of the site, with --role collaborator")
    text = "what the enclave gets (openfl-flows attest secret)"
    keep.add_argument("--secret", required=True, type=Path, metavar="FILE", help=text)
    text = "whose public half the enclave's manifest names (openfl-flows release key)"
    keep.add_argument("--key", required=True, type=Path, metavar="FILE", help=text)
    keep.add_argument("--listen", required=True, metavar="HOST:PORT")
    keep.add_argument("--signers", type=Path, metavar="FILE", help="(those that the plan names)")
    text = "a line for each request (WORKSPACE/logs/keeper.jsonl)"
    keep.add_argument("--log", type=Path, metavar="FILE", help=text)
    keep.set_defaults(run=_keep)


def _secret(options: argparse.Namespace) -> None:
    from openfl_flows.atomic import SECRET, write_atomically
    from openfl_flows.attestation.key_release import SECRET_BYTES

    if options.file.exists():
        raise ValueError(f"{options.file} exists: what it encrypts would be lost, choose another")
    write_atomically(options.file, os.urandom(SECRET_BYTES), SECRET)
    print(f"written {options.file}: keep a copy, what it encrypts cannot be read without it")


def _keep(options: argparse.Namespace) -> None:
    import asyncio

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from openfl_flows.attestation.keeper import Keeper, read_secret, serve
    from openfl_flows.attestation.signed_policy import pinned_policy
    from openfl_flows.cli.attest import agreed
    from openfl_flows.pki.plan import party_of
    from openfl_flows.release.keys import read_private
    from openfl_flows.taskrunner.workspace import read_workspace

    if (options.role == "collaborator") != (options.name is not None):
        raise ValueError(f"--role {options.role} --name {options.name}, expected a site's name "
                         "with --role collaborator, and none with aggregator")  # fmt: skip
    host, _, port = options.listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"--listen {options.listen}, expected HOST:PORT")
    key = read_private(options.key)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{options.key}: a key of another kind, expected Ed25519")
    policy, digest = pinned_policy(options.workspace, agreed(options))
    keeper = Keeper(
        party=party_of(options.workspace, options.name),
        federation=read_workspace(options.workspace).hash,
        policy=policy,
        policy_digest=digest,
        workspace=options.workspace,
        secret=read_secret(options.secret),
        key=key,
        log=options.log or options.workspace / "logs" / "keeper.jsonl",
    )
    try:
        asyncio.run(serve(keeper, host, int(port), lambda line: print(line, flush=True)))
    except KeyboardInterrupt:
        print("ended")
