"""Which installed distributions a party runs on, and which of their files.

A rule, not a trace: what the party's code names, with all that those require (extras off), minus
what no run imports. A trace of real parties tests the rule.
"""

import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath

from openfl_flows.tee.plan import Workspace

BOTH = (
    "openfl",
    "cryptography",
    "dcap-qvl",
    "grpcio",
    "jinja2",
    "numpy",
    # OpenFL's command line imports what lists the packages of an environment.
    "pip",
    "prometheus-client",
    "pydantic",
    "pyyaml",
    "rich",
    "safetensors",
    "scipy",
    "tensorboard",
    "zstandard",
)
"""What every party imports."""

SITE = ("torch", "opt-einsum", "rdkit", "biotite")
"""What every site imports beside that.

PyTorch multiplies in another order where the second is there: all have it, or digests differ.
"""

MODELS: Mapping[str, tuple[str, ...]] = {
    "toy": (),
    "digress_task": (),
    "esm_task": ("transformers", "peft"),
    # Not all that it imports does OpenFold3 declare.
    "openfold3_task": (
        "openfold3",
        "fonttools",
        "gemmi",
        "matplotlib",
        "transformers",
    ),
}
"""What a site's model imports beside that, by the module of its task."""

NOISE = ("opacus",)
"""What accounts for noise."""

UNUSED = frozenset({"setuptools", "fonttools", "awscli"})
"""Distributions that others require and no run imports, but where a party names them itself."""

_EXTRA = re.compile(r"\bextra\b")
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
# Parts for compiling, for benchmarks, for documents and for other people's tests.
_LEFT_OUT = frozenset({
    "botocore/data", "numpy/distutils", "openfl/experimental", "pygments/formatters",
    "rdkit/Contrib", "rdkit/sping", "sympy/physics", "tensorboard/_vendor", "tensorboard/backend",
    "torch/_export/db", "torch/_inductor/codegen", "torch/_inductor/fx_passes",
    "torch/_inductor/kernel", "torch/_vendor/quack", "torch/bin/upgrader_models",
    "torch/testing/_internal/codegen", "torch/testing/_internal/data",
    "torch/testing/_internal/opinfo", "torch/testing/_internal/optests", "torch/utils/benchmark",
    "torchgen/packaged",
})  # fmt: skip
# Of hundreds of languages and styles, those of a traceback.
_ONLY: Mapping[str, frozenset[str]] = {
    "pygments/lexers": frozenset({"__init__.py", "_mapping.py", "python.py", "special.py"}),
    "pygments/styles": frozenset({"__init__.py", "_mapping.py", "default.py"}),
}
# What only a model of structures imports of a distribution that all sites have.
_STRUCTURES = frozenset({
    "biotite/application", "biotite/database", "biotite/interface", "biotite/structure",
    "rdkit/Chem/Draw",
})  # fmt: skip
_SUFFIXES = frozenset({
    ".a", ".c", ".cc", ".cmake", ".cpp", ".cu", ".cuh", ".f", ".f90", ".h", ".hpp", ".ipynb",
    ".md", ".o", ".pxd", ".pxi", ".pyc", ".pyi", ".pyo", ".pyx", ".rst",
})  # fmt: skip
_FOLDERS = frozenset({
    "__pycache__", "ensurepip", "idlelib", "include", "lib2to3", "test", "tests", "tkinter",
    "turtledemo",
})  # fmt: skip
# Modules of the library that ask for a terminal, a screen or a database nobody has.
_INTERACTIVE = (
    "_tkinter.",
    "_curses",
    "readline.",
    "_dbm.",
    "_gdbm.",
    "nis.",
    "_imagingtk.",
    "_test",
)
_IMPORTED_TESTS = ("numpy/_core/tests/",)
# RECORD and its like tell who installed, from where and when: two installations would differ.
_METADATA = frozenset({"METADATA", "entry_points.txt", "top_level.txt"})


def roots(party: Workspace) -> tuple[str, ...]:
    """The requirements that a party's code names.

    Raises:
        ValueError: The model is none that this knows.
    """
    if party.role == "aggregator":
        return BOTH
    model = _model(party)
    if model not in MODELS:
        raise ValueError(
            f"{party.folder / 'plan' / 'plan.yaml'}: model.task={party.task}, expected one of "
            f"{', '.join(MODELS)}: nobody has listed what another imports"
        )
    return (*BOTH, *SITE, *MODELS[model], *(NOISE if party.noise else ()))


def closure(packages: Path, names: tuple[str, ...]) -> list[metadata.Distribution]:
    """The distributions of these names in a folder and all that they require, by name.

    What is required for some machines only is taken where it is installed.

    Raises:
        ValueError: One is not installed.
    """
    installed = {
        normal(found.metadata["Name"]): found
        for found in metadata.distributions(path=[str(packages)])
    }
    taken: dict[str, metadata.Distribution] = {}
    left = [(name, "the party") for name in names]
    while left:
        requirement, asking = left.pop()
        name, _, marker = requirement.partition(";")
        match = _NAME.match(name)
        assert match is not None, requirement
        key = normal(match[1])
        if key in taken or (key in UNUSED and key not in names) or _EXTRA.search(marker):
            continue
        if key not in installed:
            if marker:
                continue
            raise ValueError(f"{packages}: no {key}, which {asking} needs, expected it installed")
        taken[key] = installed[key]
        left += [(more, key) for more in installed[key].requires or ()]
    return [taken[key] for key in sorted(taken)]


def named_only(packages: Path, requirements: Path) -> Iterator[Path]:
    """What tells the versions of the packages that a file of requirements names.

    A party says before a round which versions it has of all of them, also of those that only
    another party runs on.
    """
    names = {normal(line.partition("==")[0]) for line in requirements.read_text().splitlines()}
    for folder in packages.glob("*.dist-info"):
        if normal(folder.name.removesuffix(".dist-info").rpartition("-")[0]) in names:
            yield folder / "METADATA"


def files_of(distribution: metadata.Distribution, party: Workspace) -> Iterator[PurePosixPath]:
    """The files of a distribution that a run may read, relative to the folder of packages."""
    left_out = frozenset() if _model(party) == "openfold3_task" else _STRUCTURES
    for file in distribution.files or ():
        path = PurePosixPath(file.as_posix())
        folders = {"/".join(path.parts[:depth]) for depth in (2, 3)}
        if ".." in path.parts or path.is_absolute() or folders & left_out:
            continue
        if is_wanted(path):
            yield path


def is_wanted(path: PurePosixPath) -> bool:
    """Whether a run may read a file of this path in a folder of packages or in the library."""
    top = path.parts[0]
    if top.endswith(".dist-info"):
        return len(path.parts) == 2 and path.name in _METADATA
    if len(path.parts) > 1 and not (top.isidentifier() or top.endswith(".libs")):
        return False
    if str(path).startswith(_IMPORTED_TESTS):
        return path.suffix not in _SUFFIXES
    if path.suffix == ".so" and path.name.startswith(_INTERACTIVE):
        return False
    folders = path.parts[:-1]
    above = {"/".join(folders[:depth]) for depth in (2, 3, 4)}
    if path.name not in _ONLY.get("/".join(folders), {path.name}):
        return False
    return path.suffix not in _SUFFIXES and not _FOLDERS & {*folders} and not _LEFT_OUT & above


def _model(party: Workspace) -> str:
    return party.task.partition(":")[0].rpartition(".")[2]


def normal(name: str) -> str:
    """A distribution's name as indices compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
