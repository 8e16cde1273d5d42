"""Commands that refuse what they are asked."""

import pytest

from openfl_flows.cli import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that fails."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(str(end.code))
    assert status == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("openfl-flows: error: ")
    return line
