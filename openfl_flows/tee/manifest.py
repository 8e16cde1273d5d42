"""A rendered manifest as a document, and a weakness of it."""

import posixpath
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openfl_flows.tee.plan import Role

START = "openfl_flows.taskrunner.start"
"""The module that fetches a party's key before it starts ``fx``."""
PARTY = "party"
"""Name of that key."""
ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?:[1-9][0-9]{0,4}")
"""Where a keeper is reached."""
PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")
"""A keeper's public key: Ed25519, raw."""

# Of Jinja, in which templates are written.
_VALUE, _STATEMENT = re.compile(r"\{\{(.*?)\}\}", re.S), re.compile(r"\{%.*?%\}|\{#.*?#\}", re.S)
_WORD = re.compile(r"\w+")

_MOST = 120
_PYTHON = 5
"""How many arguments there are before the program: ``python -I -B -X utf8``."""
_KEEPER = 6
"""How many there are before ``fx`` where a keeper is asked: module, address, key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One weakness.

    Attributes:
        rule: Its name.
        key: Where it is.
        value: What is there.
        why: What a host can do with it.
        better: What to write.
    """

    rule: str
    key: str
    value: str
    why: str
    better: str

    def __str__(self) -> str:
        value = self.value if len(self.value) <= _MOST else f"{self.value[:_MOST]}…"
        return f"{self.rule}: {self.key}={value}: {self.why}; better: {self.better}"


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest, or a template of one for ``gramine-manifest``, in which names stand for values.

    Raises:
        ValueError: There is no such file, or it is no TOML.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a manifest")
    try:
        text = path.read_text(encoding="utf-8")
        named = _VALUE.sub(lambda value: "/" + "_".join(_WORD.findall(value[1])), text)
        return tomllib.loads(_STATEMENT.sub("", named))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}, expected a manifest in TOML") from None


def has_keeper(manifest: Mapping[str, Any]) -> bool:
    """Whether the arguments have the party's key fetched from a keeper that they name, by key."""
    argv = at(manifest, "loader.argv")
    match argv[_PYTHON : _PYTHON + _KEEPER] if isinstance(argv, list) else ():
        case ["-m", module, "--keeper", str(address), "--keeper-key", str(key)]:
            return (
                module == START
                and ADDRESS.fullmatch(address) is not None
                and PUBLIC_KEY.fullmatch(key) is not None
            )
    return False


def fx_of(manifest: Mapping[str, Any]) -> tuple[Any, ...]:
    """The path of ``fx`` and its arguments, behind those of Python and of the keeper."""
    argv = at(manifest, "loader.argv")
    if not isinstance(argv, list):
        return ()
    return tuple(argv[_PYTHON + (_KEEPER if has_keeper(manifest) else 0) :])


def role_of(manifest: Mapping[str, Any]) -> Role | None:
    """The role that the arguments pin, None where they pin none."""
    arguments = fx_of(manifest)[1:]
    if arguments == ("aggregator", "start"):
        return "aggregator"
    if len(arguments) == 4 and arguments[:3] == ("collaborator", "start", "-n"):
        return "collaborator"
    return None


def at(manifest: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where it is not there."""
    found: Any = manifest
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def host_path(uri: Any) -> str | None:
    """The path that a URI of the host says; None where it is none, or says it in another way."""
    if not isinstance(uri, str) or not uri.startswith("file:/"):
        return None
    path = uri.removeprefix("file:")
    return path if posixpath.normpath(path) == path and not path.startswith("//") else None


def is_under(path: str, folder: str) -> bool:
    """Whether a path is a folder, or in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
