"""A policy's file: signed by N of the agreed signers, and pinned by each party for itself.

::

    attestation/policy.yaml      the policy; JSON is YAML, too
    attestation/policy.sig       a signature a line, as releases have them
    attestation/policy.sha256    what this party has pinned, as `sha256sum` writes it
    local_state/policy.version   the highest version that this party has gone by

Signatures say that the parties agreed on the file, the pin that this party means this one: whoever
holds the signers' keys still cannot put another one, or an older one, in its place unseen.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import yaml

from openfl_flows.atomic import write_atomically
from openfl_flows.attestation.policy import Policy, policy_of
from openfl_flows.attestation.refusal import one_line
from openfl_flows.attestation.signatures import add_signature, check_signatures, read_limited
from openfl_flows.release.keys import PrivateKey, Signers

FOLDER = Path("attestation")
POLICY = FOLDER / "policy.yaml"
SIGNATURES = FOLDER / "policy.sig"
PIN = FOLDER / "policy.sha256"
SEEN = Path("local_state", "policy.version")

SUBJECT = "openfl_flows.policy"
"""Name of what is signed: no release has a file of this name alone."""


def read_policy(path: Path, signatures: Path, signers: Signers) -> tuple[Policy, str]:
    """A policy that as many of the signers as are needed have signed, and SHA-256 of its file.

    Nothing in the file is parsed before that. Every signature that is there must be good.

    Raises:
        ValueError: A file is missing, is not signed so, or holds no policy.
    """
    content = read_limited(path, "a policy")
    digest = hashlib.sha256(content).hexdigest()
    check_signatures(signatures, signers, SUBJECT, digest)
    try:
        return policy_of(_parsed(content)), digest
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(str(error))}") from None


def pinned_policy(workspace: Path, signers: Signers) -> tuple[Policy, str]:
    """The policy that a party has pinned in its workspace, and SHA-256 of its file.

    Raises:
        ValueError: As :func:`read_policy`; or nothing is pinned, or another, or a newer one was.
    """
    pin, path = workspace / PIN, workspace / POLICY
    if not pin.is_file():
        raise ValueError(f"{pin}: no such file, expected a pin (openfl-flows attest pin)")
    pinned = re.fullmatch(r"([0-9a-f]{64})(  \S+)?", pin.read_text().strip())
    if pinned is None:
        raise ValueError(f"{pin}: expected a SHA-256 in hexadecimal, whole")
    policy, digest = read_policy(path, workspace / SIGNATURES, signers)
    if digest != pinned[1]:
        raise ValueError(f"{path} has SHA-256 {digest}, expected {pinned[1]}, which is pinned")
    # In an enclave the pin is the host's to put back, and its own state is not.
    _see_version(workspace, policy)
    return policy, digest


def pin_policy(
    workspace: Path, signers: Signers, expected: str | None = None
) -> tuple[Policy, str]:
    """Pin the policy that lies in a workspace, once it is signed and not older than the last one.

    Killed in between, it leaves a pin that is refused, never one of an older policy.

    Args:
        workspace: The party's.
        signers: Whose signatures count.
        expected: SHA-256 that its file must have; None for whatever it has.

    Raises:
        ValueError: It is not to be pinned.
    """
    policy, digest = read_policy(workspace / POLICY, workspace / SIGNATURES, signers)
    if expected not in (None, digest):
        raise ValueError(f"{workspace / POLICY} has SHA-256 {digest}, expected {expected}")
    seen = _seen_version(workspace, policy)
    pin = workspace / PIN
    if seen == policy.version and pin.exists() and digest not in pin.read_text():
        raise ValueError(
            f"{workspace / POLICY}: version {seen} is pinned with another content, expected a "
            "higher version"
        )
    _see_version(workspace, policy)
    write_atomically(pin, f"{digest}  {POLICY.name}\n".encode())
    return policy, digest


def sign_policy(path: Path, signatures: Path, key: PrivateKey) -> str:
    """Sign a policy, in place of an earlier signature with the same key.

    Returns:
        SHA-256 of the policy's file, which is what was signed.

    Raises:
        ValueError: It is no policy that could be used, or what is there are no signatures.
    """
    content = read_limited(path, "a policy")
    try:
        policy_of(_parsed(content))
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(str(error))}") from None
    digest = hashlib.sha256(content).hexdigest()
    add_signature(signatures, key, SUBJECT, digest)
    return digest


def _see_version(workspace: Path, policy: Policy) -> None:
    if _seen_version(workspace, policy) < policy.version:
        write_atomically(workspace / SEEN, f"{policy.version}\n".encode())


def _seen_version(workspace: Path, policy: Policy) -> int:
    """The highest version that this party has gone by, 0 for none; refuse an older one."""
    path = workspace / SEEN
    if not path.exists():
        return 0
    text = path.read_text().strip()
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"{path}: {one_line(text)!r}, expected a version")
    if policy.version < int(text):
        raise ValueError(
            f"{workspace / POLICY}: version {policy.version}, expected at least {text}, which was "
            "gone by before"
        )
    return int(text)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which no key stands twice: a reader sees the first, a parser takes the last."""


def _mapping(loader: Any, node: Any) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1 or key == "<<":
            raise ValueError(f"key {key!r} occurs twice, or merges others")
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _parsed(content: bytes) -> Any:
    try:
        return yaml.load(content.decode(), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not readable as YAML: {error}") from None
