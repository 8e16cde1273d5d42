"""Structures in a real browser, offline: a canvas with something in it, and a silent console."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openfl_flows.ops.rounds import Checkpoint
from openfl_flows.ops.run import RunDirectory
from openfl_flows.report.html import write_report
from openfl_flows.state import State
from tests.e2e.test_report_browser import CHROMIUM, QUIET, console

WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--virtual-time-budget=8000")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")


def browse(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    quiet = [option for option in QUIET if option != "--disable-gpu"]
    command = [CHROMIUM, *quiet, *WEBGL, f"--user-data-dir={folder / 'profile'}", *options]
    return subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )


def blue(picture: Path) -> int:
    """Pixels in a shade of the first chain's colour."""
    r, g, b = np.asarray(Image.open(picture).convert("RGB")).astype(int).reshape(-1, 3).T
    return int(((b > 80) & (b - r > 60) & (b > g)).sum())


@pytest.fixture
def page(shared_data: Path, tmp_path: Path) -> Path:
    """A run's report with a prediction and its truth."""
    made = Checkpoint(
        model=State({"w": np.zeros(3, np.float32)}), join_state=State({}), average=None
    )
    run = RunDirectory.create(tmp_path / "run", config={"name": "demo"}, initial=made)
    run.finish({})
    samples = run.path / "samples"
    samples.mkdir()
    crystal = (shared_data / "structures" / "cifs" / "7l39.cif").read_bytes()
    for name in ("7l39.cif", "7l39_true.cif"):
        (samples / name).write_bytes(crystal)
    return write_report(run.path)


def test_a_structure_is_drawn_to_turn_without_a_word_on_the_console(page, tmp_path):
    text = page.read_text().replace("</style>", "img, .legend { display: none } </style>")
    page.write_text(text)
    picture = tmp_path / "page.png"
    result = browse(page, tmp_path, f"--screenshot={picture}")
    assert console(result) == []
    assert blue(picture) > 500
    dom = browse(page, tmp_path, "--dump-dom").stdout
    assert 'class="wide structure turning"' in dom
    assert "<canvas" in dom


def test_a_script_that_is_not_the_pages_is_refused(page, tmp_path):
    page.write_text(
        page.read_text().replace("</main>", "<script>document.title = 'no'</script></main>")
    )
    result = browse(page, tmp_path, "--dump-dom")
    assert "<title>no</title>" not in result.stdout
    assert any("Content Security Policy" in line for line in console(result))


def test_without_webgl_the_picture_stays_alone(page, tmp_path):
    dom = browse(page, tmp_path, "--disable-3d-apis", "--dump-dom").stdout
    assert 'class="wide structure"' in dom
    assert "<h2>Structures</h2>" in dom
    assert dom.count("<img") == 1
