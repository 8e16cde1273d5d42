"""What of the host's file system an enclave sees, and what of its own the host can read."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from openfl_flows.tee.manifest import (
    PARTY,
    START,
    Finding,
    at,
    has_keeper,
    host_path,
    is_under,
    role_of,
)

_KEYS = {
    "chroot": {"type", "path", "uri"},
    "encrypted": {"type", "path", "uri", "key_name"},
    "tmpfs": {"type", "path"},
}
_ELSEWHERE = ("/lib", "/etc/hosts")
_HOST_FOLDERS = re.compile(
    r"/[^/]*|/usr/(lib|lib64|local|share|bin)(/[^/]*-linux-gnu)?|/lib/[^/]*-linux-gnu|/etc/ssl(/.*)?"
)
SEALED = "_sgx_mrenclave"
"""The key that only this very enclave on this very machine has."""
ENCRYPTED = {
    "aggregator": ("local_state", "logs", "save"),
    "collaborator": ("local_state", "logs"),
}
"""Folders of a workspace that the host stores and must neither read nor change, by role."""
GIVEN = {"aggregator": ("cert/server",), "collaborator": ("data", "cert/client")}
"""Folders that come encrypted, by role; an aggregator that makes its keys itself has none."""


def lint_mounts(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Weaknesses of ``fs.mounts``."""
    mounts = at(manifest, "fs.mounts")
    if not isinstance(mounts, list) or not all(isinstance(mount, Mapping) for mount in mounts):
        mounts = []
    start = str(at(manifest, "fs.start_dir"))
    for number, mount in enumerate(mounts):
        yield from _lint_mount(f"fs.mounts[{number}]", mount, start)
        for later in mounts[number + 1 :]:
            if is_under(str(mount.get("path")), str(later.get("path"))):
                yield _finding(
                    "hidden-mount", f"fs.mounts[{number}]", mount,
                    f"a later mount at {later.get('path')} hides it", "the wider mount first",
                )  # fmt: skip
    keys = [mount.get("key_name") for mount in mounts if mount.get("type") == "encrypted"]
    if PARTY in keys and not has_keeper(manifest):
        yield _finding(
            "no-keeper", "loader.argv", at(manifest, "loader.argv"),
            "nothing brings the key of what is encrypted: somebody will put it there by hand",
            f'"-m", "{START}", "--keeper", ADDRESS, "--keeper-key", HEX before "fx"',
        )  # fmt: skip
    encrypted = {str(mount.get("path")) for mount in mounts if mount.get("type") == "encrypted"}
    role = role_of(manifest) or "aggregator"
    given = GIVEN[role] if role == "collaborator" or has_keeper(manifest) else ()
    for name in (*ENCRYPTED[role], *given):
        if f"{start}/{name}" not in encrypted:
            yield _finding(
                "not-encrypted", "fs.mounts", f"{start}/{name}",
                "the host reads it, changes it, or the party cannot write it",
                'a mount with type = "encrypted"',
            )  # fmt: skip
    secret = [f"{start}/{name}" for names in GIVEN.values() for name in names]
    for number, mount in enumerate(mounts):
        path = str(mount.get("path"))
        if mount.get("type") != "encrypted" and any(is_under(path, one) for one in secret):
            yield _finding(
                "not-encrypted", f"fs.mounts[{number}]", mount,
                "the host reads the party's keys or its data", 'type = "encrypted"',
            )  # fmt: skip
    if {"type": "tmpfs", "path": "/tmp"} not in mounts:
        yield _finding(
            "no-private-memory", "fs.mounts", "/tmp", "keys are written where the host sees them",
            '{ type = "tmpfs", path = "/tmp" }',
        )  # fmt: skip


def _lint_mount(key: str, mount: Mapping[str, Any], start: str) -> Iterator[Finding]:
    kind, path = str(mount.get("type", "chroot")), mount.get("path")
    host = host_path(mount.get("uri"))
    if kind not in _KEYS or not mount.keys() <= _KEYS[kind]:
        yield _finding(
            "mount-type", key, mount, "memory or devices of the host are used, or who knows what",
            "chroot, encrypted or tmpfs, with path and uri",
        )  # fmt: skip
        return
    if not isinstance(path, str) or host_path(f"file:{path}") is None:
        yield _finding("mount-path", key, mount, "where it appears is not said", "an absolute path")
    if kind == "tmpfs":
        return
    if host is None or (host != path and (kind == "encrypted" or path not in _ELSEWHERE)):
        yield _finding(
            "mount-elsewhere", key, mount,
            "what the program takes for one file is another, or the host chooses which",
            "the same path on both sides",
        )  # fmt: skip
    if kind == "encrypted":
        yield from _lint_key(key, mount)
    elif host is not None and (_HOST_FOLDERS.fullmatch(host) or host in (start, f"{start}/cert")):
        yield _finding(
            "wide-mount", key, mount, "the program looks for code in what nobody measured",
            "the files that are measured, one by one",
        )  # fmt: skip


def _lint_key(key: str, mount: Mapping[str, Any]) -> Iterator[Finding]:
    name = mount.get("key_name")
    if name == "_sgx_mrsigner":
        yield _finding(
            "sealed-to-signer", key, mount, "every enclave of this signer opens it, old ones too",
            "_sgx_mrenclave, or a key that is given after attestation",
        )  # fmt: skip
    elif name not in (SEALED, PARTY):
        yield _finding(
            "no-key", key, mount, "a key that nothing makes or brings encrypts it",
            f"key_name: {SEALED}, or {PARTY}, which the keeper gives",
        )  # fmt: skip


def _finding(rule: str, key: str, value: Any, why: str, better: str) -> Finding:
    return Finding(rule=rule, key=key, value=str(value), why=why, better=better)
