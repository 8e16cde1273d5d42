"""Rows of a table carry the file's line numbers, also around quoted cells and blank lines."""

from pathlib import Path

import pytest

from openfl_flows.data.table import read_rows


def test_line_numbers_count_blank_lines_and_quoted_newlines():
    content = b'a,b\n1,x\n\n2,"y\nz"\n3,w\n'
    rows = list(read_rows(Path("t.csv"), content, required=("a",)))
    assert [(row.line, row.cells["a"]) for row in rows] == [(2, "1"), (5, "2"), (6, "3")]
    assert rows[1].cells["b"] == "y\nz"


def test_numbers_and_flags():
    (row,) = read_rows(Path("t.csv"), b"n,e,t,f\n-1.5e3, ,TRUE,0\n", required=())
    assert row.number("n") == -1500
    assert row.number("e") != row.number("e")
    assert row.flag("t")
    assert not row.flag("f")
    with pytest.raises(ValueError, match="t.csv, line 2: n is '-1.5e3', expected True or False"):
        row.flag("n")
    with pytest.raises(ValueError, match="t.csv, line 2: t is 'TRUE', expected a finite number"):
        row.number("t")
