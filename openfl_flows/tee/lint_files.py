"""Which files an enclave reads as they were measured, and which as the host has them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from openfl_flows.tee.manifest import Finding, at, fx_of, host_path, is_under, role_of
from openfl_flows.tee.measured import sha256

MOST_FILES = 20_000
"""A study had 11 seconds to start with as many, which grow with the square of their number."""
SIGNED = {
    "aggregator": (
        "collateral.json", "policy.sha256", "policy.sig", "policy.yaml",
    ),
    "collaborator": (
        "collateral.json", "policy.sha256", "policy.sig", "policy.yaml",
        "rollback.json", "rollback.sig",
    ),
}  # fmt: skip
"""Files of ``attestation/`` that change while the measurement stays, by role.

Safe as the host's: policy and statement are signed by those whom the measured plan names,
collateral by the maker of the quotes; and evidence tells the full hash of the policy that its
party goes by, so that a host who pins an older one is found out by the other side.
"""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BYTECODE = re.compile(r".*(/__pycache__/|\.pyc$|\.pyo$)", re.DOTALL)
_ALLOWED = (
    ("plan", "plan-by-host", "the host edits the plan: use_tls: false, another member, any class"),
    ("cert", "keys-by-host", "the host has the private key, and answers in the party's place"),
    ("src", "code-by-host", "the host has its own code run inside"),
)


def lint_files(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Weaknesses of ``sgx.trusted_files`` and ``sgx.allowed_files``."""
    given = at(manifest, "sgx.trusted_files")
    entries = given if isinstance(given, list) else []
    measured: set[str] = set()
    for number, entry in enumerate(entries):
        key = f"sgx.trusted_files[{number}]"
        yield from _lint_trusted(key, entry)
        path = _path(entry)
        if path is not None and path in measured:
            yield _finding("measured-twice", key, path, "which content is meant?", "one entry")
        if path is not None:
            measured.add(path)
    if len(entries) >= MOST_FILES:
        yield _finding(
            "slow-start", "sgx.trusted_files", len(entries),
            "the time to start grows with the square", f"fewer than {MOST_FILES}",
        )  # fmt: skip
    for path, why in _needed(manifest):
        if (
            not any(is_under(one, path[:-1]) for one in measured)
            if path[-1:] == "/"
            else (path not in measured)
        ):
            yield _finding("not-measured", "sgx.trusted_files", path, why, "uri and sha256 of it")
    yield from _lint_sight(manifest, measured)
    yield from _lint_allowed(manifest)


def lint_contents(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Measured files of ``sgx.trusted_files`` that are not here as they were measured.

    Every one is read: gigabytes, where PyTorch is among them.
    """
    given = at(manifest, "sgx.trusted_files")
    for number, entry in enumerate(given if isinstance(given, list) else []):
        path = _path(entry)
        if path is None or not isinstance(entry, Mapping):
            continue  # A finding of lint_files.
        key = f"sgx.trusted_files[{number}]"
        try:
            found = sha256(Path(path))
        except OSError as error:
            yield _finding(
                "file-missing", key, path, f"{error.strerror}: the enclave does without it",
                "the file that was measured, or render anew",
            )  # fmt: skip
            continue
        if found != entry.get("sha256"):
            yield _finding(
                "other-content", key, path,
                f"it has SHA-256 {found}: the enclave does not open it, or somebody has "
                "measured another file", "the file that was measured, or render anew",
            )  # fmt: skip


def _lint_trusted(key: str, entry: Any) -> Iterator[Finding]:
    uri = entry.get("uri") if isinstance(entry, Mapping) else entry
    if isinstance(uri, str) and uri.endswith("/"):
        yield _finding(
            "measured-folder", key, uri,
            "whatever is in it when it is signed: bytecode, tests, what the host put there",
            "every file by name",
        )  # fmt: skip
    elif _path(entry) is None:
        yield _finding("path", key, uri, "which file is meant?", "file: and an absolute path")
    if (
        not isinstance(entry, Mapping)
        or entry.keys() != {"uri", "sha256"}
        or not isinstance(entry["sha256"], str)
        or _SHA256.fullmatch(entry["sha256"]) is None
    ):
        yield _finding(
            "no-hash", key, uri, "the content is whatever who signs has", "uri and sha256"
        )
    if isinstance(uri, str) and _BYTECODE.match(uri):
        yield _finding(
            "bytecode", key, uri, "it has the time of its source: nobody can make it again",
            "the source only: pip install --no-compile, python -B",
        )  # fmt: skip
    if isinstance(uri, str) and is_under(uri.removeprefix("file:"), "/etc/ssl"):
        yield _finding(
            "host-authorities", key, uri,
            "any public authority can issue a certificate that the party takes for its peer's",
            "the federation's own root only",
        )  # fmt: skip


def _needed(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    start, fx = str(at(manifest, "fs.start_dir")), fx_of(manifest)
    role = role_of(manifest) or "aggregator"
    why = "the host changes it, and the measurement stays"
    yield str(at(manifest, "libos.entrypoint")), why
    yield str(host_path(at(manifest, "loader.entrypoint.uri"))), why
    if fx:
        yield str(fx[0]), why
    for name in (
        "plan/plan.yaml",
        "plan/cols.yaml",
        "cert/cert_chain.crt",
        "save/init.pbuf",
        "src/",
    ):
        yield f"{start}/{name}", why
    if role == "collaborator":
        yield f"{start}/plan/data.yaml", why


def _lint_sight(manifest: Mapping[str, Any], measured: set[str]) -> Iterator[Finding]:
    """What is seen and was not measured, and what was measured for nothing."""
    given = at(manifest, "fs.mounts")
    mounts = [mount for mount in given if isinstance(mount, Mapping)] if given else []
    hosts = {host_path(mount.get("uri")) for mount in mounts if "key_name" not in mount}
    folders = {str(folder) for path in measured for folder in (path, *PurePosixPath(path).parents)}
    attestation = f"{at(manifest, 'fs.start_dir')}/attestation"
    for host in sorted(host for host in hosts if host is not None):
        if host not in folders and host != attestation:
            yield _finding(
                "unmeasured-mount", "fs.mounts", host,
                "nothing in it is measured, so that nothing in it can be read", "leave it out",
            )  # fmt: skip
    library_os = host_path(at(manifest, "loader.entrypoint.uri"))
    for path in sorted(measured - {str(library_os)}):
        if not {path, *map(str, PurePosixPath(path).parents)} & hosts:
            yield _finding(
                "unseen-file", "sgx.trusted_files", path,
                "no mount shows it: the party does without what was meant to be there",
                "a mount of it, or leave it out",
            )  # fmt: skip


def _lint_allowed(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    start = str(at(manifest, "fs.start_dir"))
    signed = {f"{start}/attestation/{name}" for name in SIGNED[role_of(manifest) or "aggregator"]}
    given = at(manifest, "sgx.allowed_files")
    for number, uri in enumerate(given if isinstance(given, list) else [given] if given else []):
        path = host_path(uri)
        if path in signed:
            continue
        rule, why = "file-by-host", "the host reads and changes what the party keeps"
        for folder, name, reason in _ALLOWED:
            if path is not None and is_under(path, f"{start}/{folder}"):
                rule, why = name, reason
        yield _finding(
            rule, f"sgx.allowed_files[{number}]", uri, why, "measure it, or an encrypted mount"
        )


def _path(entry: Any) -> str | None:
    return host_path(entry.get("uri") if isinstance(entry, Mapping) else entry)


def _finding(rule: str, key: str, value: Any, why: str, better: str) -> Finding:
    return Finding(rule=rule, key=key, value=str(value), why=why, better=better)
