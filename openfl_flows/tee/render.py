"""Write the manifest of one party: everything that it may load, by name and hash; nothing else."""

import base64
import json
import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openfl_flows.tee.interpreter import ask
from openfl_flows.tee.lint_mounts import GIVEN, SEALED
from openfl_flows.tee.manifest import ADDRESS, PARTY, PUBLIC_KEY, START
from openfl_flows.tee.measured import (
    python_files,
    sha256,
    system_files,
    workspace_files,
)
from openfl_flows.tee.plan import Workspace
from openfl_flows.tee.sizes import enclave_bytes, max_threads

GRAMINE = Path("/usr/lib/x86_64-linux-gnu/gramine")
"""Where Gramine's package for Debian puts its library OS."""
TEST_KEY = "test"

_GIB = 1 << 30
_PRODUCT = {"aggregator": 1, "collaborator": 2}
_HEX_KEY = 32
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/]{59}=)\n-----END PUBLIC KEY-----\n?")
# What stands before the 32 bytes of an Ed25519 key in DER (RFC 8410).
_ED25519 = bytes.fromhex("302a300506032b6570032100")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the operator decides.

    Attributes:
        python: Python of the party's environment.
        gramine: Folder with Gramine's ``libsysdb.so`` and ``runtime/glibc``.
        isvsvn: Security version of this build: raised when an older one must no longer be let in.
        state_key: Key of what the party writes: the enclave's own, or the party's.
        keeper: HOST:PORT of who gives the party's key to its enclave; None for nobody.
        keeper_key: The keeper's public key, 64 hexadecimal digits.
        test_key: 32 hexadecimal digits that encrypt everything, for gramine-direct; the key stands
            in the manifest, which the lint refuses.
    """

    python: Path
    gramine: Path = GRAMINE
    isvsvn: int = 1
    state_key: str = SEALED
    keeper: str | None = None
    keeper_key: str | None = None
    test_key: str | None = None


def recipe_folder() -> Path:
    """The tee/ tree: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "tee" / "recipe"
    return installed if installed.is_dir() else package.parent / "tee"


def render(party: Workspace, options: Options) -> str:
    """The manifest of a party, in TOML; the same files give the same text.

    Raises:
        ValueError: Something is missing, or an option is not usable; one line.
    """
    _check(options, party)
    libos, runtime = options.gramine / "libsysdb.so", options.gramine / "runtime" / "glibc"
    if not libos.is_file() or not runtime.is_dir():
        raise ValueError(
            f"--gramine={options.gramine}: no libsysdb.so with runtime/glibc, expected Gramine 1.9"
        )
    given = workspace_files(party)
    python = ask(options.python)
    own = python_files(party, python)
    system = system_files(own, python, runtime)
    names = recipe_folder() / "hosts"
    glibc = {file for file in runtime.iterdir() if file.is_file()}
    trusted = {libos, names} | own | system | given | glibc
    folder = party.folder
    visible = _mounts(_tops(own, (python.stdlib, python.packages, python.ours)) | system)
    values = {
        "python": str(python.program),
        "start": ", ".join(map(_text, _start(options, python.prefix / "bin" / "fx"))),
        "libos": str(libos),
        "runtime": str(runtime),
        "hosts": str(names),
        "library_path": f"/lib:/lib/{python.multiarch}:/usr/lib/{python.multiarch}",
        "workspace": str(folder),
        "site": party.site or "",
        "threads": str(party.threads),
        "enclave_size": f"{enclave_bytes(party) // _GIB}G",
        "max_threads": str(max_threads(party)),
        "isvprodid": str(_PRODUCT[party.role]),
        "isvsvn": str(options.isvsvn),
        "state_key": TEST_KEY if options.test_key else options.state_key,
        "secret": "\n".join(_secret(options, party)),
        "visible": "\n".join(visible),
        "given": "\n".join(_mounts(given)),
        "trusted": "\n".join(
            f"  {{ uri = {_text(f'file:{file}')}, sha256 = {_text(sha256(file))} }},"
            for file in sorted(trusted, key=str)
        ),
    }
    template = (recipe_folder() / f"{party.role}.manifest.toml").read_text(encoding="utf-8")
    text = string.Template(template).substitute({k: _inside(k, v) for k, v in values.items()})
    if options.test_key:
        text += f'\nfs.insecure__keys.{TEST_KEY} = "{options.test_key}"\n'
    return text


def _tops(files: Iterable[Path], folders: tuple[Path, ...]) -> set[Path]:
    """What a party sees of folders that it reads parts of: whole libraries, single packages.

    Of the folder of packages it sees the packages that it runs on; others are not there, for
    Python as for the host, who could not put one there.
    """
    stdlib, packages, ours = folders
    tops = {stdlib, ours}
    for file in files:
        if file.is_relative_to(packages):
            tops.add(packages / file.relative_to(packages).parts[0])
        elif not file.is_relative_to(stdlib) and not file.is_relative_to(ours):
            tops.add(file)
    return tops


def _mounts(paths: Iterable[Path]) -> Iterator[str]:
    for path in sorted({str(path) for path in paths}):
        yield f"  {{ path = {_text(path)}, uri = {_text(f'file:{path}')} }},"


def _text(value: str) -> str:
    """A TOML string: JSON's are, where DEL is not in it."""
    assert "\x7f" not in value
    return json.dumps(value, ensure_ascii=False)


def _inside(key: str, value: str) -> str:
    """A value as it stands between the quotes of a template."""
    whole = {"start", "visible", "secret", "given", "trusted"}
    return value if key in whole else _text(value)[1:-1]


def read_keeper_key(path: Path) -> str:
    """A keeper's public key, 64 hexadecimal digits, from its file in PEM.

    Raises:
        ValueError: There is none, or it is no Ed25519 key.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected the keeper's public key")
    match = _PEM.fullmatch(path.read_text(encoding="utf-8", errors="replace"))
    encoded = base64.b64decode(match[1]) if match else b""
    if not encoded.startswith(_ED25519):
        raise ValueError(f"{path}: no public key in PEM, or no Ed25519 key, expected the keeper's")
    return encoded.removeprefix(_ED25519).hex()


def _start(options: Options, fx: Path) -> list[str]:
    """What Python runs: ``fx``, after the party's key where it has one."""
    if options.keeper is None or options.keeper_key is None:
        return [str(fx)]
    keeper = ["--keeper", options.keeper, "--keeper-key", options.keeper_key]
    return ["-m", START, *keeper, str(fx)]


def _secret(options: Options, party: Workspace) -> Iterator[str]:
    """Mounts of what comes encrypted."""
    if options.keeper is None and options.test_key is None:
        return
    name = PARTY if options.test_key is None else TEST_KEY
    for folder in GIVEN[party.role]:
        path = f"{party.folder}/{folder}"
        yield (
            f'  {{ type = "encrypted", path = {_text(path)}, uri = {_text(f"file:{path}")}, '
            f'key_name = "{name}" }},'
        )


def _check(options: Options, party: Workspace) -> None:
    if not 1 <= options.isvsvn <= 65535:
        raise ValueError(f"--isvsvn={options.isvsvn}, expected 1 to 65535")
    key = options.test_key
    if key is not None and (len(key) != _HEX_KEY or not set(key) <= set("0123456789abcdef")):
        raise ValueError(f"--test-key={key}, expected {_HEX_KEY} digits of 0123456789abcdef")
    if options.state_key not in (SEALED, PARTY):
        raise ValueError(f"--state-key={options.state_key}, expected {SEALED} or {PARTY}")
    _check_keeper(options, party)


def _check_keeper(options: Options, party: Workspace) -> None:
    address, key = options.keeper, options.keeper_key
    if address is None and key is None:
        if options.test_key is not None:
            return
        if party.role == "collaborator":
            raise ValueError(f"no --keeper and --keeper-key, expected who gives {party.site} the "
                             "key of its data")  # fmt: skip
        if not party.attested:
            raise ValueError(
                "no --keeper and --keeper-key, expected who gives the aggregator the key of its "
                "certificate: with network.attestation.required=none it makes none itself"
            )
        if options.state_key == PARTY:
            raise ValueError(f"--state-key={PARTY} without --keeper, expected who gives that key")
        return
    if address is None or not ADDRESS.fullmatch(address) or int(address.rpartition(":")[2]) > 65535:
        raise ValueError(f"--keeper={address}, expected HOST:PORT")
    if key is None or PUBLIC_KEY.fullmatch(key) is None:
        raise ValueError(f"--keeper={address} with key {key}, expected --keeper-key, too")
    if options.test_key is not None:
        raise ValueError(
            "--keeper with --test-key, expected one of them: nothing is attested there"
        )
