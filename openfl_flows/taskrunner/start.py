"""How an enclave starts that needs a key: fetches it, hands it to the library OS, becomes ``fx``.

Its manifest pins these arguments, which are measured with the rest::

    python -I -B -X utf8 -m openfl_flows.taskrunner.start
        --keeper HOST:PORT --keeper-key HEX  /…/fx collaborator start -n site-1

The key has to be there before anything that it encrypts is opened: Gramine remembers a file that it
could not decrypt. So nothing here reads any, and ``fx`` runs in this very process afterwards. While
the keeper is away this waits for it; where it refuses, or another answers, it ends with a line.
"""

import argparse
import hashlib
import runpy
import socket
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from openfl_flows.attestation.claims import Claims, key_digest
from openfl_flows.attestation.key_release import LARGEST_ANSWER, opened, request
from openfl_flows.attestation.quoters import GRAMINE, make_evidence, quoter
from openfl_flows.attestation.refusal import one_line
from openfl_flows.attestation.signatures import read_limited
from openfl_flows.attestation.signed_policy import POLICY
from openfl_flows.pki.plan import party_of
from openfl_flows.taskrunner.attested_party import rules_of
from openfl_flows.taskrunner.workspace import read_workspace

KEY = "party"
"""Name of the key, as the manifest's encrypted mounts have it."""
SECONDS = 30.0
"""How long the keeper may take to answer."""
PAUSE_SECONDS = 5.0
"""Between two attempts to reach the keeper."""


def fetch(keeper: str, keeper_key: Ed25519PublicKey, site: str | None) -> bytes:
    """The secret of the party whose workspace this is, once its keeper is there.

    Args:
        keeper: HOST:PORT.
        keeper_key: Whose answer counts.
        site: The site's name; None for the aggregator.

    Raises:
        ValueError: The keeper refuses, or what answers is not the keeper.
    """
    workspace, own = Path(), X25519PrivateKey.generate()
    plan, party = read_workspace(workspace), party_of(workspace, site)
    source = quoter(rules_of(plan).quoter_of(party))
    claims = Claims(
        role=party.role,
        name=party.name,
        federation=plan.hash,
        # The keeper compares it with its own; nobody is judged by it here.
        policy=hashlib.sha256(read_limited(workspace / POLICY, "a policy")).hexdigest(),
        key=key_digest(own.public_key()),
    )
    asked = request(make_evidence(source, claims, workspace=workspace), own.public_key())
    told = ""
    while True:
        try:
            content = _asked(keeper, asked)
            break
        except OSError as error:
            if (why := one_line(str(error))) != told:
                sys.stderr.write(f"The keeper at {keeper} is away, waiting for it: {why}\n")
                told = why
            time.sleep(PAUSE_SECONDS)
    return opened(content, request=asked, key=own, keeper=keeper_key)


def main(arguments: list[str]) -> None:
    """Fetch the key, then run ``fx`` in this process."""
    parser = argparse.ArgumentParser(prog="start", allow_abbrev=False)
    parser.add_argument("--keeper", required=True, metavar="HOST:PORT")
    parser.add_argument("--keeper-key", required=True, metavar="HEX")
    parser.add_argument("--keys", type=Path, default=GRAMINE / "keys", metavar="DIR")
    parser.add_argument("fx")
    parser.add_argument("role", choices=("aggregator", "collaborator"))
    parser.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    site = options.words[-1] if options.role == "collaborator" else None
    try:
        if not options.keys.is_dir():
            raise ValueError(f"{options.keys}: no such folder, expected to run under Gramine")
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(options.keeper_key))
        secret = fetch(options.keeper, key, site)
        # In one write, to what is no file but the library OS.
        with (options.keys / KEY).open("wb", buffering=0) as file:
            file.write(secret)
    except (ValueError, OSError) as error:
        sys.exit(f"No key: {one_line(str(error))}")
    sys.argv[:] = [options.fx, options.role, *options.words]
    runpy.run_path(options.fx, run_name="__main__")


def _asked(keeper: str, content: bytes) -> bytes:
    """What the keeper answers.

    Raises:
        OSError: It cannot be reached, or hangs up before it has answered.
        ValueError: What answers is no keeper.
    """
    host, _, port = keeper.rpartition(":")
    end = time.monotonic() + SECONDS
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        connection.sendall(len(content).to_bytes(4, "big") + content)
        size = int.from_bytes(_received(connection, 4, end), "big")
        if size > LARGEST_ANSWER:
            raise ValueError(f"an answer of {size} bytes, expected at most {LARGEST_ANSWER}")
        return _received(connection, size, end)


def _received(connection: socket.socket, size: int, end: float) -> bytes:
    content = b""
    while len(content) < size:
        connection.settimeout(max(0.01, end - time.monotonic()))
        if not (more := connection.recv(size - len(content))):
            raise ConnectionError("it hangs up before it has answered")
        content += more
    return content


if __name__ == "__main__":
    main(sys.argv[1:])
