"""The import contract: what an aggregator must trust is numpy only, and layers point downward."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "openfl_flows"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A package may import itself and what stands above it in this list, never a neighbour.
LAYERS: list[set[str]] = [
    {"atomic", "cache_folder", "seeds", "state", "strict_json"},
    {"update"},
    {"joins", "codecs", "data", "privacy"},
    {"metrics"},
    {"models"},
    {"ops"},
    {"release"},
    {"learners"},
    {"evaluation"},
    {"experiment", "pki"},
    {"attestation"},
    {"readiness"},
    {"flows", "taskrunner", "baselines", "study"},
    {"report", "deploy", "tee"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
NUMPY_ONLY = {"seeds", "state", "update", "joins", "codecs"}
MAY_IMPORT = {
    "openfl": {"flows", "taskrunner"},
    "torch": RANK.keys() - NUMPY_ONLY - {"ops", "attestation", "privacy", "release", "tee"},
    "opacus": {"privacy"},
    "hydra": {"cli"},
    "omegaconf": {"cli"},
}


def part(module: Path) -> str:
    """``joins`` for joins/mean.py, ``state`` for state.py, '' for the package's own init."""
    return module.relative_to(PACKAGE).with_suffix("").parts[0].removesuffix("__init__")


def imports(module: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, also those inside functions."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno}: import by full name"
            assert node.module is not None
            inner = node.module == "openfl_flows"
            yield from (
                (node.lineno, f"{node.module}.{alias.name}" if inner else node.module)
                for alias in node.names
            )


def outside(module: Path) -> Iterator[tuple[int, str]]:
    for line, name in imports(module):
        root = name.split(".")[0]
        if root != "openfl_flows" and root not in sys.stdlib_module_names:
            yield line, root


def test_every_module_has_its_place():
    unknown = {part(module) for module in MODULES} - RANK.keys() - {""}
    assert not unknown, f"place {unknown} in LAYERS, and in the design"


def test_layers_import_downward_only():
    wrong = [
        f"{module.relative_to(PACKAGE)}:{line} imports {name}"
        for module in MODULES
        for line, name in imports(module)
        if name.startswith("openfl_flows.")
        for mine, theirs in [(part(module), name.split(".")[1])]
        if theirs != mine and theirs in RANK and RANK[theirs] >= RANK.get(mine, 0)
    ]
    assert not wrong


def test_what_must_be_trusted_imports_numpy_only():
    wrong = [
        f"{module.relative_to(PACKAGE)}:{line} imports {name}"
        for module in MODULES
        if part(module) in NUMPY_ONLY
        for line, name in outside(module)
        if name not in {"numpy", "zstandard"}
    ]
    assert not wrong


def test_a_release_is_verified_with_cryptography_alone():
    light = {
        "ops/ledger",
        "ops/ledger_lines",
        "ops/own_part",
        "ops/record",
        "strict_json",
        "atomic",
    }
    wrong = [
        f"{module.relative_to(PACKAGE)}:{line} imports {name}"
        for module in MODULES
        if part(module) == "release" or str(module.relative_to(PACKAGE).with_suffix("")) in light
        for line, name in outside(module)
        if name != "cryptography"
    ]
    wrong += [
        f"{module.relative_to(PACKAGE)}:{line} imports {name}"
        for module in MODULES
        if part(module) == "release"
        for line, name in imports(module)
        if name.startswith("openfl_flows.")
        and name.split(".")[1] != "release"
        and "/".join(name.split(".")[1:]) not in light
    ]
    assert not wrong


@pytest.mark.parametrize("library", MAY_IMPORT)
def test_a_library_stays_in_its_rooms(library):
    wrong = [
        f"{module.relative_to(PACKAGE)}:{line} imports {name}"
        for module in MODULES
        for line, name in outside(module)
        if name == library
        and part(module) not in MAY_IMPORT[library]
        and str(module.relative_to(PACKAGE).with_suffix("")) not in MAY_IMPORT[library]
    ]
    assert not wrong


def test_the_aggregators_side_loads_neither_torch_nor_openfl():
    names = [
        ".".join(("openfl_flows", *module.relative_to(PACKAGE).with_suffix("").parts))
        for module in MODULES
        if part(module) in {"state", "update", "joins", "codecs", "ops"}
    ]
    assert "openfl_flows.joins.recipes" in names
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    loaded = {'torch', 'openfl', 'hydra'} & sys.modules.keys()\n"
        "    assert not loaded, f'{name} loads {sorted(loaded)}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
