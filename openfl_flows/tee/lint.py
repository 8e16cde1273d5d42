"""What a manifest lets a host do: every weakness by key, with why it is one and what is better.

A manifest passes only as a whole: a key that is not known here is a finding, too.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from openfl_flows.tee.expected import FIXED_ENV, RISKY_ENV, RULES
from openfl_flows.tee.lint_files import lint_files
from openfl_flows.tee.lint_mounts import lint_mounts
from openfl_flows.tee.manifest import START, Finding, at, fx_of, role_of

# Gramine's own C library before the system's others.
_LIBRARIES = re.compile(r"/lib:/lib/([a-z0-9_]+-linux-gnu):/usr/lib/\1")
_LISTS = ("fs.mounts", "sgx.trusted_files", "sgx.allowed_files", "loader.argv")


def lint(manifest: Mapping[str, Any]) -> list[Finding]:
    """Every weakness of a manifest, in the order of its keys."""
    found = [*_lint_keys(manifest), *_lint_argv(manifest), *_lint_env(manifest)]
    found += [*lint_mounts(manifest), *lint_files(manifest)]
    return sorted(found, key=lambda finding: (finding.key, finding.rule, finding.value))


def _lint_keys(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    for key, rule in RULES.items():
        value = at(manifest, key)
        if not rule.holds(value):
            yield Finding(
                rule=rule.name, key=key, value=_said(value), why=rule.why, better=rule.better
            )
    for key, value in _leaves(manifest):
        if key in RULES or key in _LISTS or key.startswith("loader.env."):
            continue
        if key.startswith("fs.insecure__keys"):
            yield Finding(
                rule="key-in-manifest", key=key, value="…",
                why="who has the manifest reads and forges what the enclave stores",
                better="a key that the enclave gets once it is attested",
            )  # fmt: skip
        else:
            yield Finding(
                rule="unknown-key", key=key, value=_said(value),
                why="nobody has looked at what a host can do with it", better="leave it out",
            )  # fmt: skip


def _lint_argv(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    argv, entry = at(manifest, "loader.argv"), at(manifest, "libos.entrypoint")
    isolated = isinstance(argv, list) and argv[:5] == [entry, "-I", "-B", "-X", "utf8"]
    if not isolated:
        yield Finding(
            rule="python-not-isolated", key="loader.argv", value=_said(argv),
            why="variables and folders beside the program give Python other code",
            better="python -I -B -X utf8 fx …, in full",
        )  # fmt: skip
    if role_of(manifest) is None or not str(fx_of(manifest)[0]).endswith("/fx"):
        yield Finding(
            rule="no-role", key="loader.argv", value=_said(argv),
            why="who starts the enclave decides which party it is, or with which plan",
            better='"fx", "aggregator", "start" or "fx", "collaborator", "start", "-n", NAME, or '
            f'these after "-m", "{START}", "--keeper", ADDRESS, "--keeper-key", HEX',
        )  # fmt: skip


def _lint_env(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    given = at(manifest, "loader.env")
    env = given if isinstance(given, Mapping) else {}
    wanted = {**FIXED_ENV, "LD_LIBRARY_PATH": None, "OMP_NUM_THREADS": None}
    for name in sorted(wanted.keys() | env.keys()):
        key, value = f"loader.env.{name}", env.get(name)
        better = _better_env(name, wanted)
        if isinstance(value, Mapping):
            yield Finding(
                rule="variable-from-host", key=key, value=_said(value),
                why="the host sets it as it likes" + _steers(name), better=better,
            )  # fmt: skip
        elif name not in wanted:
            yield Finding(
                rule="unknown-variable", key=key, value=_said(value),
                why="nobody has looked at what it does" + _steers(name), better=better,
            )  # fmt: skip
        elif not _good_env(name, value):
            yield Finding(
                rule="variable", key=key, value=_said(value),
                why="the program runs otherwise than it was tested" + _steers(name), better=better,
            )  # fmt: skip


def _good_env(name: str, value: Any) -> bool:
    if name == "OMP_NUM_THREADS":
        return isinstance(value, str) and value.isdecimal() and 1 <= int(value) <= 1024
    if name == "LD_LIBRARY_PATH":
        return isinstance(value, str) and _LIBRARIES.fullmatch(value) is not None
    return bool(value == FIXED_ENV[name])


def _better_env(name: str, wanted: Mapping[str, str | None]) -> str:
    special = {"OMP_NUM_THREADS": "the plan's threads", "LD_LIBRARY_PATH": "/lib and the system's"}
    return special.get(name) or (repr(wanted[name]) if name in wanted else "leave it out")


def _steers(name: str) -> str:
    return ", and steers the program with it" if name.startswith(RISKY_ENV) else ""


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _said(value: Any) -> str:
    return "(nothing)" if value is None else str(value)
