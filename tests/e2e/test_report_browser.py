"""The report in a real browser: it renders, and the console stays silent."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openfl_flows.ops.rounds import Checkpoint, RoundRecord, SiteRound
from openfl_flows.ops.run import RunDirectory
from openfl_flows.report.html import write_report
from openfl_flows.report.molecules import chain_frames, filmstrip_png, gif_bytes, grid_png
from openfl_flows.state import State

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--v=0", "--window-size=1200,1600",
)  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with every part that a report can have."""
    state = State({"w": np.zeros(3, np.float32)})
    made = Checkpoint(model=state, join_state=State({}), average=None)
    directory = RunDirectory.create(tmp_path / "run", config={"name": "<demo>"}, initial=made)
    directory.measured({"nll": 130.0})
    for round_ in (1, 2, 3):
        sites = {
            name: SiteRound(
                num_samples=100,
                num_steps=4,
                metrics={"train_loss": 3.0 / round_, "nll": 90.0 - round_},
                received={"nll": 95.0 - round_},
                seconds={"train": 5.0, "validate": 1.0},
                peak_rss_bytes=2**29,
            )
            for name in ("a", "b")
        }
        record = RoundRecord(
            round=round_,
            digest=state.digest(),
            seconds=7.0,
            bytes_up=10,
            bytes_down=20,
            sites=sites,
        )
        directory.commit(record, made)
        directory.measured({"nll": 91.0 - round_})
    directory.finish({"test_nll": 74.4, "validity": 0.95})
    document = {"columns": ["site", "train", "x", "y"], "rows": [["a", 9, 4, 5], ["b", 3, 3, 0]]}
    (directory.path / "partition.json").write_text(json.dumps(document))
    samples = directory.path / "samples"
    samples.mkdir()
    bonds = np.array([[0, 1, 0], [1, 0, 2], [0, 2, 0]])
    frames = chain_frames([(np.array([0, 0, c]), bonds) for c in (0, 1, 2)], ("C", "N", "O"))
    (samples / "grid.png").write_bytes(grid_png(["CCO", "C=O"]))
    (samples / "chain.gif").write_bytes(gif_bytes(frames))
    (samples / "filmstrip.png").write_bytes(filmstrip_png(frames))
    with (samples / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["smiles", "valid"], ["CCO", 1]])
    return directory.path


def browse(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, *QUIET, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


def console(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def test_report_renders_without_a_word_on_the_console(run, tmp_path):
    picture = tmp_path / "page.png"
    result = browse(write_report(run), tmp_path, f"--screenshot={picture}")
    assert console(result) == []
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 50
    # The colour of the first site's curves.
    assert (pixels == (0x00, 0x72, 0xB2)).all(axis=1).sum() > 20


def test_browser_finds_every_part(run, tmp_path):
    result = browse(write_report(run), tmp_path, "--dump-dom")
    for heading in (
        "Final metrics",
        "Curves",
        "Data at the sites",
        "Molecules",
        "Time and traffic",
    ):
        assert f"<h2>{heading}</h2>" in result.stdout
    assert result.stdout.count("<svg") == 5
    assert result.stdout.count("<img") == 3


def test_a_resource_from_elsewhere_is_refused_and_heard(run, tmp_path):
    page = write_report(run)
    broken = page.read_text().replace("</main>", '<img src="http://localhost:9/x.png"></main>')
    page.write_text(broken)
    assert any(
        "Content Security Policy" in line for line in console(browse(page, tmp_path, "--dump-dom"))
    )
