"""The dashboard in a real browser: it renders, the console stays silent, and nothing is loaded."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openfl_flows.ops.rounds import Checkpoint, RoundRecord, SiteRound
from openfl_flows.ops.run import RunDirectory
from openfl_flows.report.dashboard import write_dashboard
from openfl_flows.report.monitoring import read_federation
from openfl_flows.state import State
from tests.e2e.test_report_browser import CHROMIUM, browse, console

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")

UPLOAD = (0x00, 0x72, 0xB2)
CANARY = "CC(=O)OC1=CC=CC=C1"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Of a run whose second site has a thin link, while it is under way."""
    state = State({"w": np.zeros(3, np.float32)})
    made = Checkpoint(model=state, join_state=State({}), average=None)
    local = tmp_path / "aggregator" / "local_state"
    run = RunDirectory.create(local / "run", config={"name": "<demo>"}, initial=made)
    for round_ in range(1, 31):
        sites = {
            name: SiteRound(
                num_samples=100, num_steps=4, metrics={"train_loss": 3.0 / round_}, received={},
                seconds={"train": 5.0, "upload": upload, "download": 1.0, "wait": 25.0 - upload,
                         "absent": 0.0},
                peak_rss_bytes=2**29, bytes_up=10**6, rss_bytes=2**28 + round_ * leak,
            )
            for name, upload, leak in (("a", 2.0, 0), ("b", 20.0, 2**20), ("c", 2.0, 0))
        }  # fmt: skip
        record = RoundRecord(
            round=round_, digest=state.digest(), seconds=31.0, bytes_up=10, bytes_down=20,
            sites=sites, rss_bytes=2**29, model_bytes=10**6,
        )  # fmt: skip
        run.commit(record, made)
    status = {
        "round": 31, "rounds": 100, "state": "waiting", "since": 0.0, "seconds": [31.0] * 30,
        "sites": {name: {"last_heard": 1e9, "refused": None, "sending": None} for name in "abc"},
        "note": CANARY,
    }  # fmt: skip
    (local / "status.json").write_text(json.dumps(status))
    file = tmp_path / "page.html"
    write_dashboard(read_federation(tmp_path), file, seconds=60)
    return file


def test_the_dashboard_renders_without_a_word_on_the_console(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    result = browse(page, tmp_path, f"--screenshot={picture}")
    assert console(result) == []
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    # Most of site b's bars is its upload.
    assert (pixels == UPLOAD).all(axis=1).sum() > 1000


def test_a_browser_finds_every_part_and_nothing_else(page: Path, tmp_path: Path) -> None:
    shown = browse(page, tmp_path, "--dump-dom").stdout
    for heading in (
        "Where the time goes", "Sites", "What slow sites cost", "Alerts", "Losses", "Memory",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in shown
    assert shown.count("<svg") == 3
    assert "b, round 1: upload 20 s, the others' median is 2 s" in shown
    assert "b, round 21: memory grows by" in shown
    assert "about" in shown
    assert CANARY not in shown
    assert "<script" not in shown
