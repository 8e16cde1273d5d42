"""attest: evidence of what runs somewhere, and the policy by which it is accepted."""

import argparse
from pathlib import Path
from typing import Any

from openfl_flows.cli.attest_keep import add_keep
from openfl_flows.cli.attest_rollback import add_rollback

EPILOG = """\
the parties, once:   openfl-flows attest sign policy.yaml --key a.key      adds to policy.sig
each party:          openfl-flows attest pin WORKSPACE
each party, monthly: openfl-flows attest collateral EVIDENCE --pccs URL --out collateral.json
anybody:             openfl-flows attest show EVIDENCE
                     openfl-flows attest verify EVIDENCE --policy policy.yaml \\
                       --signers signers.json --pin SHA256 --role aggregator --name HOST \\
                       --federation SHA384 --collateral collateral.json
who encrypts for an
enclave, elsewhere:  openfl-flows attest keep WORKSPACE --role collaborator --name SITE \
                       --secret party.secret --key keeper.key --listen HOST:PORT

keys and the list of signers are those of `openfl-flows release key` and `release signers`
"""


def add_attest(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "verify what runs somewhere, by the evidence of its hardware"
    attest = commands.add_parser(
        "attest",
        help=text,
        description=text,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    below = attest.add_subparsers(title="commands", metavar="COMMAND", required=True)

    _add_verify(below)

    show = below.add_parser("show", help="print what evidence says; verifies nothing")
    show.add_argument("evidence", metavar="EVIDENCE", type=Path)
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_show)

    sign = below.add_parser("sign", help="sign a policy")
    sign.add_argument("policy", metavar="POLICY", type=Path)
    sign.add_argument("--key", required=True, type=Path, metavar="FILE")
    sign.add_argument("--signatures", type=Path, metavar="FILE", help="(POLICY's name with .sig)")
    sign.set_defaults(run=_sign)

    text = "accept WORKSPACE/attestation/policy.yaml, by its hash, from now on"
    pin = below.add_parser("pin", help=text, description=text)
    pin.add_argument("workspace", metavar="WORKSPACE", type=Path)
    pin.add_argument("--signers", type=Path, metavar="FILE", help="(those that the plan names)")
    text = "SHA-256 of the policy's file that the others told you"
    pin.add_argument("--sha256", metavar="SHA256", help=text)
    pin.set_defaults(run=_pin)

    text = "fetch what platforms are judged by, or renew it"
    collateral = below.add_parser("collateral", help=text, description=text)
    text = "one or more, of any party: each says which platform it comes from"
    collateral.add_argument("evidence", metavar="EVIDENCE", type=Path, nargs="+", help=text)
    text = "a service of your own choice: your PCCS, or https://api.trustedservices.intel.com"
    collateral.add_argument("--pccs", required=True, metavar="URL", help=text)
    collateral.add_argument("--out", required=True, type=Path, metavar="FILE")
    collateral.set_defaults(run=_collateral)

    add_rollback(below)
    add_keep(below)


def _add_verify(below: Any) -> None:
    text = "accept evidence, or say in one line why not"
    verify = below.add_parser("verify", help=text, description=text)
    text = "a certificate in PEM that carries it, or a file of it"
    verify.add_argument("evidence", metavar="EVIDENCE", type=Path, help=text)
    verify.add_argument("--policy", required=True, type=Path, metavar="FILE")
    verify.add_argument("--signatures", type=Path, metavar="FILE", help="(the policy's, .sig)")
    verify.add_argument("--signers", required=True, type=Path, metavar="FILE")
    verify.add_argument("--pin", metavar="SHA256", help="of the policy's file, whole")
    verify.add_argument("--role", required=True, choices=("aggregator", "collaborator"))
    verify.add_argument(
        "--name", required=True, help="the aggregator's address, or the site's name"
    )
    verify.add_argument("--federation", required=True, metavar="SHA384", help="of the plan, whole")
    verify.add_argument("--collateral", type=Path, metavar="FILE")
    key = verify.add_mutually_exclusive_group()
    text = "that the party has shown to have the key of, where EVIDENCE is none"
    key.add_argument("--certificate", type=Path, metavar="FILE", help=text)
    key.add_argument("--key", metavar="SHA256", help="of that key (SubjectPublicKeyInfo in DER)")
    text = "whose attestation/verifiers.yaml names commands to verify with"
    verify.add_argument("--workspace", type=Path, metavar="DIR", help=text)
    verify.add_argument("--time", metavar="ISO", help="when it is to be valid (now)")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from openfl_flows.attestation.evidence import from_bytes
    from openfl_flows.attestation.refusal import RefusedEvidence
    from openfl_flows.attestation.signed_policy import read_policy
    from openfl_flows.attestation.verifiers import verifiers_of
    from openfl_flows.attestation.verify import verify
    from openfl_flows.release.keys import read_signers

    signatures = options.signatures or options.policy.with_suffix(".sig")
    policy, digest = read_policy(options.policy, signatures, read_signers(options.signers))
    if options.pin is not None and options.pin.lower() != digest:
        raise ValueError(f"{options.policy} has SHA-256 {digest}, expected {options.pin}")
    content = _read(options.evidence)
    try:
        verified = verify(
            from_bytes(content),
            policy,
            role=options.role,
            name=options.name,
            federation=options.federation.lower(),
            policy_digest=digest,
            public_key_sha256=_key(options, content),
            collateral=_read(options.collateral) if options.collateral else None,
            now=_moment(options.time),
            verifiers=verifiers_of(options.workspace),
        )
    except RefusedEvidence as error:
        if options.json:
            print(json.dumps({"accepted": False, "reason": str(error)}, indent=1))
        raise
    if options.json:
        print(json.dumps({"accepted": True, **asdict(verified)}, indent=1))
        return
    for name, value in asdict(verified).items():
        print(f"{name:<16} {', '.join(value) if isinstance(value, tuple) else value}")
    print(f"accepted: {options.role} {options.name}")


def _show(options: argparse.Namespace) -> None:
    import json

    from openfl_flows.attestation.evidence import from_bytes
    from openfl_flows.attestation.shown import fields_of

    found = fields_of(from_bytes(_read(options.evidence)))
    if options.json:
        print(json.dumps({"verified": False, **found}, indent=1))
        return
    for name, value in found.items():
        print(f"{name:<16} {value}")
    print("nothing was verified: anybody can write this (openfl-flows attest verify)")


def _sign(options: argparse.Namespace) -> None:
    from openfl_flows.attestation.signed_policy import sign_policy
    from openfl_flows.release.keys import read_private

    signatures = options.signatures or options.policy.with_suffix(".sig")
    digest = sign_policy(options.policy, signatures, read_private(options.key))
    print(f"written {signatures}")
    print(f"policy SHA-256 {digest}: compare it by telephone")


def _pin(options: argparse.Namespace) -> None:
    from openfl_flows.attestation.signed_policy import PIN, pin_policy

    expected = None if options.sha256 is None else options.sha256.lower()
    policy, digest = pin_policy(options.workspace, agreed(options), expected)
    print(f"policy SHA-256 {digest}, version {policy.version}")
    for role, alternatives in policy.roles.items():
        print(f"{role:<16} {', '.join(each.kind for each in alternatives)}")
    print(f"written {options.workspace / PIN}")


def _collateral(options: argparse.Namespace) -> None:
    from openfl_flows.atomic import write_atomically
    from openfl_flows.attestation.collateral import (
        fetch_collateral,
        merged,
        read_collateral,
        write_collateral,
    )
    from openfl_flows.attestation.evidence import from_bytes

    known = read_collateral(_read(options.out)) if options.out.exists() else []
    quotes = [from_bytes(_read(file)).quote for file in options.evidence]
    collateral = merged(known, [fetch_collateral(options.pccs, quote) for quote in quotes])
    write_atomically(options.out, write_collateral(collateral))
    for each in collateral:
        print(f"{each.kind} {each.fmspc}  issued {each.issued:%Y-%m-%d}, number {each.evaluation}")
    print(f"written {options.out}")


def agreed(options: argparse.Namespace) -> Any:
    """Whose signatures count: those of a file, or those that the workspace's plan names."""
    from openfl_flows.release.keys import read_signers

    if options.signers is not None:
        return read_signers(options.signers)
    from openfl_flows.taskrunner.attested_party import rules_of
    from openfl_flows.taskrunner.workspace import read_workspace

    return rules_of(read_workspace(options.workspace)).agreed_signers()


def _key(options: argparse.Namespace, evidence: bytes) -> bytes:
    """SHA-256 of the key that evidence must be of."""
    from cryptography import x509

    from openfl_flows.attestation.claims import key_digest

    if options.key is not None:
        try:
            return bytes.fromhex(options.key)
        except ValueError:
            raise ValueError(f"--key {options.key}, expected a SHA-256 in hexadecimal") from None
    is_certificate = evidence.lstrip().startswith(b"-----BEGIN")
    if options.certificate is None and not is_certificate:
        raise ValueError(
            "no key to hold the evidence against, expected --certificate or --key: evidence "
            "without it is anybody's who has seen it"
        )
    content = _read(options.certificate) if options.certificate else evidence
    key: Any = x509.load_pem_x509_certificate(content).public_key()
    return key_digest(key)


def _moment(text: str | None) -> Any:
    import datetime as dt

    if text is None:
        return dt.datetime.now(dt.UTC)
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"--time {text}, expected a time zone, too: 2026-01-31T12:00:00Z")
    return moment


def _read(path: Path) -> bytes:
    from openfl_flows.attestation.collateral import LARGEST
    from openfl_flows.release.folder import open_plain

    with open_plain(path.resolve()) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{path}: larger than {LARGEST} bytes")
    return content
