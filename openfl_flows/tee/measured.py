"""The files that a party runs on: code, libraries, plan and initial model, each by its hash."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from openfl_flows.tee import elf
from openfl_flows.tee.distributions import closure, files_of, is_wanted, named_only, roots
from openfl_flows.tee.interpreter import Interpreter
from openfl_flows.tee.plan import INITIAL, Workspace

LOADER = Path("/lib64/ld-linux-x86-64.so.2")
# glibc opens it by name when a thread ends.
_BY_NAME = ("libgcc_s.so.1",)
_ZONE = Path("/usr/share/zoneinfo/UTC")


def python_files(party: Workspace, python: Interpreter) -> set[Path]:
    """Python itself, its library, and the distributions that the party runs on.

    Raises:
        ValueError: One is missing.
    """
    found = {python.program, python.real, *_chain(python.program)}
    found |= {python.prefix / "bin" / "fx"}
    if python.prefix != python.base:
        found |= {python.prefix / "pyvenv.cfg"}
    found |= set(_tree(python.stdlib, skip="site-packages"))
    for distribution in closure(python.packages, roots(party)):
        found |= {python.packages / file for file in files_of(distribution, party)}
    found |= {file for file in _tree(python.ours) if not _of_operators(file, python.ours)}
    found |= {python.packages / file for file in _own_metadata(python)}
    found |= set(named_only(python.packages, party.folder / "requirements.txt"))
    if python.ours.parent != python.packages:
        found |= {*python.packages.glob("_editable_impl_openfl_flows.pth")}
    return _linked(_present(found))


def system_files(files: Iterable[Path], python: Interpreter, runtime: Path) -> set[Path]:
    """The system's libraries that these files are linked with, and those linked with them.

    What Gramine's runtime or a distribution brings is not the system's.

    Raises:
        ValueError: A library is nowhere.
    """
    files = list(files)
    brought = {file.name for file in files} | {file.name for file in runtime.iterdir()}
    folders = (
        python.base / "lib",
        Path("/lib") / python.multiarch,
        Path("/usr/lib") / python.multiarch,
        Path("/lib64"),
        Path("/usr/lib64"),
    )
    found: dict[str, Path] = {}
    left = [(name, "glibc") for name in _BY_NAME]
    left += [
        (name, str(file)) for file in files if _may_be_linked(file) for name in elf.needed(file)
    ]
    while left:
        name, asking = left.pop()
        if name in brought or name in found:
            continue
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise ValueError(f"{asking}: linked with {name}, which is in none of "
                             f"{', '.join(map(str, folders))}, expected it installed")  # fmt: skip
        found[name] = path
        left += [(more, str(path)) for more in elf.needed(path)]
    zone = {_ZONE} if _ZONE.is_file() else set()
    return {*found.values(), LOADER} | zone


def workspace_files(party: Workspace) -> set[Path]:
    """Plan, names, code, trust root and initial model.

    Raises:
        ValueError: One is missing.
    """
    folder = party.folder
    plan = ["plan.yaml", "cols.yaml", *(["data.yaml"] if party.site else [])]
    found = {folder / "plan" / name for name in plan}
    found |= {
        folder / "cert" / "cert_chain.crt",
        folder / "requirements.txt",
        folder / ".workspace",
    }
    found |= set(_tree(folder / "src"))
    found |= {folder / name for name in INITIAL if (folder / name).is_file()}
    return _present(found)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tree(folder: Path, skip: str | None = None) -> Iterator[Path]:
    for path in folder.rglob("*"):
        inner = PurePosixPath(path.relative_to(folder))
        if skip not in inner.parts and path.is_file() and is_wanted(PurePosixPath("x") / inner):
            yield path


def _of_operators(file: Path, ours: Path) -> bool:
    """Whether a file is of what operators run: commands, samples, and what writes deployments."""
    inner = file.relative_to(ours).parts
    return inner[0] in {"cli", "deploy", "plan", "tee"} or inner[:2] == ("data", "samples")


def _own_metadata(python: Interpreter) -> Iterator[PurePosixPath]:
    for folder in python.packages.glob("openfl_flows-*.dist-info"):
        for file in folder.iterdir():
            inner = PurePosixPath(folder.name) / file.name
            if is_wanted(inner):
                yield inner


def _chain(link: Path) -> Iterator[Path]:
    """The links between a program and the file that it is."""
    while link.is_symlink():
        link = link.parent / link.readlink()
        yield link


def _present(files: set[Path]) -> set[Path]:
    missing = sorted(str(file) for file in files if not file.is_file())
    if missing:
        raise ValueError(f"{missing[0]}: no such file, expected it beside the {len(files)} others")
    return files


def _linked(files: set[Path]) -> set[Path]:
    """Without the libraries that packages bring for parts of them that are left out."""
    brought = {file.name: file for file in files if file.parent.name.endswith(".libs")}
    found: set[Path] = set()
    left = [file for file in files - {*brought.values()} if _may_be_linked(file)]
    while left:
        names = {name for file in left for name in elf.needed(file)}
        left = [brought[name] for name in names & brought.keys() if brought[name] not in found]
        found |= {*left}
    return files - {*brought.values()} | found


def _may_be_linked(file: Path) -> bool:
    return (".so" in file.name or file.parent.name == "bin") and elf.is_elf(file)
