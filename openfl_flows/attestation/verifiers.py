"""Verifiers of what this package knows nothing of: a GPU's token, quotes of other processors.

A verifier is called with the bytes and the nonce that they must be bound to, and answers with
claims, which the policy judges. There are those that installed distributions name as entry points
of the group ``openfl_flows.verifiers``, and commands that a party has written into its own
``attestation/verifiers.yaml``, which is for verifiers that need an environment of their own::

    verifiers:
      nvidia-gpu: [/opt/nv-attestation/bin/python, /opt/nv-attestation/verify.py]

Neither the evidence nor a peer can choose what is run. A command gets one line of JSON on standard
input, ``{"nonce": HEX, "evidence": BASE64, "time": ISO}``, and accepts by exit status 0 and one
JSON object of claims on standard output; with any other status, what it wrote on standard error is
why the evidence is refused.
"""

import base64
import datetime as dt
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from openfl_flows.attestation.policy import Value, Wanted, checked
from openfl_flows.attestation.refusal import RefusedEvidence, one_line
from openfl_flows.strict_json import canonical, parse

GROUP = "openfl_flows.verifiers"
FILE = Path("attestation", "verifiers.yaml")
"""In a party's workspace, the commands that it verifies with."""
ENDORSERS = Path("attestation", "endorsers.yaml")
"""In a party's workspace, the commands that write its own endorsements."""

Claimed = Mapping[str, Value]
Verifier = Callable[[bytes, bytes, dt.datetime], Claimed]
"""Of (evidence, nonce of 32 bytes, now), its claims; raises ValueError where it is refused."""

_SECONDS = 120
_LONGEST = 2**20


@dataclass(frozen=True, kw_only=True)
class CommandVerifier:
    """A verifier that is another program.

    Attributes:
        argv: The program and its arguments; no shell sees them.
    """

    argv: tuple[str, ...]

    def __call__(self, evidence: bytes, nonce: bytes, now: dt.datetime) -> Claimed:
        """The claims that the program has found.

        Raises:
            ValueError: It refuses the evidence, or does not answer as it should.
        """
        asked = {
            "nonce": nonce.hex(),
            "evidence": base64.b64encode(evidence).decode(),
            "time": now.isoformat(),
        }
        found = parse(_run(self.argv, canonical(asked)))
        if not isinstance(found, dict):
            raise ValueError(f"{self.argv[0]} answers a {type(found).__name__}, expected claims")
        return found


class InstalledVerifiers(Mapping[str, Verifier]):
    """The verifiers of installed distributions; each is loaded when it is asked for."""

    def __getitem__(self, name: str) -> Verifier:
        """The verifier of that name."""
        for point in entry_points(group=GROUP, name=name):
            found: Verifier = point.load()
            return found
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({point.name for point in entry_points(group=GROUP)}))

    def __len__(self) -> int:
        return len(list(iter(self)))


def verifiers_of(workspace: Path | None) -> Mapping[str, Verifier]:
    """All verifiers that a party has: installed ones, and commands in its workspace's file.

    Raises:
        ValueError: The file is not readable, or a name has two verifiers.
    """
    installed = InstalledVerifiers()
    commands = read_commands(workspace, FILE, "verifiers")
    if not commands:
        return installed
    for name in commands.keys() & {*installed}:
        raise ValueError(f"{FILE}: {name} is an installed verifier's name, expected another")
    named = {name: CommandVerifier(argv=argv) for name, argv in commands.items()}
    return {**installed, **named}


def endorsements(workspace: Path | None, nonce: bytes) -> dict[str, bytes]:
    """What a party's own programs say of its other devices, by name.

    Each program in ``attestation/endorsers.yaml`` (key ``endorsers``) gets ``{"nonce": HEX}`` on
    standard input and writes an endorsement, such as a GPU's token, on standard output.

    Raises:
        ValueError: The file is not readable, or a program fails.
    """
    commands = read_commands(workspace, ENDORSERS, "endorsers")
    asked = canonical({"nonce": nonce.hex()})
    return {name: _run(argv, asked) for name, argv in commands.items()}


def claims_of(
    name: str, verifiers: Mapping[str, Verifier], evidence: bytes, nonce: bytes, now: dt.datetime
) -> Claimed:
    """What the verifier of that name finds.

    Raises:
        RefusedEvidence: There is no such verifier, or it refuses.
    """
    if name not in verifiers:
        raise RefusedEvidence(
            f"no verifier {name!r} here, expected it in {FILE} or as an entry point of {GROUP}"
        )
    try:
        return verifiers[name](evidence, nonce, now)
    except (ValueError, OSError) as error:
        raise RefusedEvidence(f"{name}: {error}") from None


def check_claims(name: str, found: Claimed, wanted: Wanted) -> None:
    """Make sure that claims are what a policy wants.

    Raises:
        RefusedEvidence: One is missing or another.
    """
    for key, value in wanted.items():
        accepted = value if isinstance(value, tuple) else (value,)
        # True is no 1 here.
        if not any(type(found.get(key)) is type(each) and found[key] == each for each in accepted):
            shown = repr(found[key]) if key in found else "missing"
            raise RefusedEvidence(
                f"{name}: claim {key} is {shown}, expected {' or '.join(map(repr, accepted))}"
            )


def read_commands(workspace: Path | None, file: Path, key: str) -> dict[str, tuple[str, ...]]:
    """The commands in a party's own file, by name; none where there is no file.

    Raises:
        ValueError: It is not readable.
    """
    if workspace is None or not (workspace / file).exists():
        return {}
    path = workspace / file
    try:
        document: Any = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML: {one_line(str(error))}") from None
    if not isinstance(document, dict) or document.keys() != {key}:
        raise ValueError(f"{path}: expected the key {key}, with a command for each name")
    commands = checked(f"{path}: {key}", dict[str, tuple[str, ...]], document[key])
    for name, argv in commands.items():
        if not argv or not Path(argv[0]).is_absolute():
            raise ValueError(f"{path}: {key}.{name}={list(argv)}, expected an absolute path first")
    return commands


def _run(argv: tuple[str, ...], asked: bytes) -> bytes:
    try:
        done = subprocess.run(argv, input=asked, capture_output=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{argv[0]} took more than {_SECONDS} seconds") from None
    if done.returncode:
        why = done.stderr[-_LONGEST:].decode(errors="replace").strip() or "it says nothing"
        raise ValueError(f"{argv[0]} ended with status {done.returncode}: {why}")
    if len(done.stdout) > _LONGEST:
        raise ValueError(f"{argv[0]} wrote {len(done.stdout)} bytes, expected at most {_LONGEST}")
    return done.stdout
