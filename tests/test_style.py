"""House style that a machine can check."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "openfl_flows").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES = 420
BANNED = {"manager", "managers", "helper", "helpers", "util", "utils", "handler", "handlers"}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def where(path: Path, node: ast.AST | None = None) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def is_vague(name: str) -> bool:
    return not BANNED.isdisjoint(word.lower() for word in re.findall("[A-Z]?[a-z]+", name))


def test_every_module_and_public_name_is_documented():
    bare = []
    for path in PACKAGE:
        tree = ast.parse(path.read_text())
        bare += [where(path)] * (ast.get_docstring(tree) is None)
        bare += [
            f"{where(path, node)} {node.name}"
            for node in public(tree.body)
            if ast.get_docstring(node) is None
        ]
    assert not bare


def test_a_file_is_one_idea():
    lines = {where(path): len(path.read_text().splitlines()) for path in PACKAGE + TESTS}
    assert not {place: number for place, number in lines.items() if number > MAX_LINES}


def test_names_say_what_a_thing_is():
    vague = [where(path) for path in PACKAGE + TESTS if is_vague(path.stem)]
    vague += [
        f"{where(path, node)} {node.name}"
        for path in PACKAGE + TESTS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Definition) and is_vague(node.name)
    ]
    assert not vague


@pytest.mark.parametrize(
    "arguments",
    [
        ("ruff", "check", "openfl_flows", "tests"),
        ("ruff", "format", "--check", "openfl_flows", "tests"),
        ("mypy",),
    ],
    ids=" ".join,
)
def test_the_linters_have_nothing_to_say(arguments):
    pytest.importorskip(arguments[0])
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
