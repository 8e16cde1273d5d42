"""The README is executed: its Python as it stands, its commands as far as they compose.

So are the commands of the page on a consortium's federation, which leads on from it.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from openfl_flows.cli import build_parser
from openfl_flows.cli.plan import compose
from openfl_flows.cli.runs import PLAN_COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


COMMANDS = [
    shlex.split(line, comments=True)
    for block in (*blocks("bash"), *blocks("bash", OPERATIONS))
    for line in block.splitlines()
    if line.strip()
]


def test_the_first_screen_has_both_commands() -> None:
    first_screen = "\n".join(README.splitlines()[:20])
    assert "make demo" in first_screen
    assert "make test" in first_screen


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_exists(command: list[str]) -> None:
    if command[0] == "make":
        assert re.search(rf"^{command[1]}: ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif command[0] == "openfl-flows" and command[1] in PLAN_COMMANDS:
        overrides = [o for o in command[2:] if o != "-m"]
        sweeps = [o.split(",")[0] for o in overrides]
        assert compose(sweeps)["federation"]["rounds"] > 0
    elif command[0] == "openfl-flows":
        assert build_parser().parse_args(command[1:]).run
    else:
        assert command[0] == "tensorboard"


def test_every_choice_in_the_table_is_in_the_plan() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", README, flags=re.MULTILINE)
    groups = {group: cell for group, cell in rows if (ROOT / "plan" / group).is_dir()}
    assert groups.keys() == {p.name for p in (ROOT / "plan").iterdir() if p.is_dir()} - {
        "federation"
    }
    for group, cell in groups.items():
        named = set(re.findall(r"`(\w+)`", cell))
        files = {file.stem for file in (ROOT / "plan" / group).glob("*.yaml")}
        assert files - named <= ({"none"} if group in ("data", "partition") else set())
        assert named <= files


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    assert "test_nll" in done.stdout
    assert (tmp_path / "runs" / "python" / "report.html").is_file()


def test_links_to_files_lead_somewhere() -> None:
    for folder, page in ((ROOT, README), (ROOT / "docs", OPERATIONS)):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page):
            assert (folder / target).exists(), target
