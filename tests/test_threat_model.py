"""The threat model claims nothing without a test that is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "threat_model.md"
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+\.py::\w+)`", PAGE.read_text())))


def test_the_page_names_tests():
    assert len(NAMED) > 30


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_the_page_names_exists(name):
    file, function = name.split("::")
    functions = [
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert function in functions
    assert function.startswith("test_")


def test_every_row_names_a_test_or_says_that_there_is_none():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    bare = [
        row
        for row in rows
        if "`tests/" not in row and not row.startswith("| who |") and "not tested" not in row
    ]
    assert not bare
