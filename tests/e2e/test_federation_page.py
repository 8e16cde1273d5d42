"""The page "Running a real federation": every command on it, at the party it is for."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openfl_flows.ops.run import RunDirectory

PAGE = Path(__file__).parents[2] / "docs" / "federation.md"
BLOCKS = re.findall(r"^```bash (\S+)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
PARTIES = ("authority", "aggregator", "site-1", "site-2")

# The parties' machines are folders side by side: what travels between them is copied.
SCP = """#!/bin/sh
exec cp "$PARTIES/$(echo "$1" | sed 's/:/\\//')" "$2"
"""


class Machine:
    """A party's machine: a folder, and a shell that remembers where it is."""

    def __init__(self, name: str, root: Path) -> None:
        self.folder = root / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = root / f"{name}.log"
        bin_folder = root / "bin"
        bin_folder.mkdir(exist_ok=True)
        (bin_folder / "scp").write_text(SCP)
        (bin_folder / "scp").chmod(0o755)
        self._environment = {
            **os.environ,
            "PARTIES": str(root),
            "PATH": f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, commands: str) -> subprocess.Popen[bytes]:
        """Run the commands of a block; a folder that it changes to is that of the next block."""
        script = f"set -e\ncd {self.folder}\n{commands}\npwd > {self._log}.pwd\n"
        with self._log.open("ab") as log:
            return subprocess.Popen(
                ["bash", "-c", script], env=self._environment, stdout=log, stderr=log
            )

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        status = process.wait(timeout=240)
        assert status == 0, self._log.read_text()[-3000:]
        self.folder = Path(Path(f"{self._log}.pwd").read_text().strip())


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "parties"
    shutil.rmtree(tmp_path / "parties")


def test_the_page_has_a_block_for_every_party() -> None:
    assert {party for party, _ in BLOCKS} == {*PARTIES, "rehearsal", "fx"}
    assert PAGE.read_text().count("```bash") == len(BLOCKS)


@pytest.mark.slow
def test_a_federation_of_four_machines(root: Path) -> None:
    machines = {party: Machine(party, root) for party in PARTIES}
    running = []
    for party, commands in BLOCKS:
        if party not in machines:
            continue
        if commands.startswith("openfl-flows save"):
            for machine, process in running:
                machine.finish(process)
        process = machines[party].start(commands)
        if "start" in commands:
            running.append((machines[party], process))
        else:
            machines[party].finish(process)
    run = RunDirectory.open(machines["aggregator"].folder / "local_state" / "run")
    assert run.finished
    assert run.round == 3
    assert (machines["aggregator"].folder / "saved" / "model.pt").is_file()
    assert (run.path / "report.html").is_file()
    # Keys stay where they were made.
    keys = sorted(str(key.relative_to(root)) for key in root.rglob("*.key"))
    assert [key for key in keys if "/ca/" not in key] == [
        "aggregator/federation/cert/server/agg_localhost.key",
        "site-1/federation/cert/client/col_site-1.key",
        "site-2/federation/cert/client/col_site-2.key",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["rehearsal", "fx"])
def test_what_is_done_on_one_machine(machine: str, root: Path) -> None:
    one = Machine(machine, root)
    for party, commands in BLOCKS:
        if party == machine:
            one.finish(one.start(commands))
    assert (
        one.folder / ("best.pt" if machine == "fx" else "parity/rehearsal/run/run.json")
    ).exists()
