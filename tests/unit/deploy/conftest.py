"""A workspace as a party has it: exported, with the aggregator's name in the network."""

import shutil
from pathlib import Path

import pytest

TOY = Path(__file__).parents[3] / "workspaces" / "toy"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(TOY, tmp_path / "workspace"))
    plan = folder / "plan" / "plan.yaml"
    plan.write_text(plan.read_text().replace("agg_addr: localhost", "agg_addr: fl.example.org"))
    (folder / "save").mkdir(exist_ok=True)
    (folder / "save" / "init.pbuf").write_bytes(b"as fx plan initialize writes it")
    # What a party has beside what all have.
    for left_over in ("cert/client/col_site-1.key", "local_state/status.json", "logs/fx.log"):
        (folder / left_over).parent.mkdir(parents=True, exist_ok=True)
        (folder / left_over).write_text("SECRET")
    return folder
