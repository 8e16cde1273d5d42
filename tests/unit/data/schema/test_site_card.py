"""What a site does with the schema before it connects, and that it looks at a table once."""

import json
from pathlib import Path

import pytest
import yaml

from openfl_flows.cli.plan import compose
from openfl_flows.data.schema.card import Card
from openfl_flows.data.schema.validate import SEEN, site_card
from openfl_flows.experiment import Experiment, schema_of
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.loader import SiteData
from openfl_flows.taskrunner.runner import LearnerTaskRunner
from openfl_flows.taskrunner.workspace import read_workspace
from tests.schema_data import MOLECULES, molecule_rows, planned, write_table

SCHEMA = planned(*MOLECULES)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "workspace"
    export_workspace(compose((*MOLECULES, "data.limit=80")), folder)
    return folder


def started(workspace: Path, data: Path, monkeypatch, folder: Path) -> LearnerTaskRunner:
    """What a site builds before it connects."""
    plan = yaml.safe_load((workspace / "plan" / "plan.yaml").read_text())
    config = plan["task_runner"]["settings"]["experiment"]
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    runner = LearnerTaskRunner(data_loader=SiteData(data), experiment=config)
    runner.prepare("site-1")
    return runner


def test_an_exported_plan_has_the_schema_and_one_without_has_no_word_of_it(
    workspace, tmp_path
) -> None:
    config = read_workspace(workspace).config
    assert schema_of(config) == SCHEMA
    export_workspace(compose(("experiment=toy",)), tmp_path / "toy")
    assert "schema" not in read_workspace(tmp_path / "toy").config
    assert Experiment.from_config(read_workspace(tmp_path / "toy").config).schema is None


def test_a_site_starts_on_data_that_fit(workspace, tmp_path, monkeypatch) -> None:
    started(workspace, workspace / "data" / "site-1", monkeypatch, tmp_path / "site")
    card = json.loads((tmp_path / "site" / "logs" / "card.json").read_text())
    assert card["fits"]
    assert card["counts"]["rows"]["read"] == 40


def test_a_site_does_not_start_on_data_that_do_not(workspace, tmp_path, monkeypatch) -> None:
    rows = molecule_rows()
    for row in rows[1:]:
        row[3] = "-0.25"
    data = write_table(tmp_path / "data", rows)
    with pytest.raises(ValueError, match=r"schema molecules_v1: rows, split, unit \(40 or more\)"):
        started(workspace, data, monkeypatch, tmp_path / "site")
    assert (tmp_path / "site" / "logs" / "validation.csv").is_file()
    assert not (tmp_path / "site" / "local_state").exists()


def test_the_plan_of_a_workspace_can_be_validated_against(workspace, tmp_path, capsys) -> None:
    from openfl_flows.cli import main

    data = str(workspace / "data" / "site-2")
    words = (data, "--site", "site-2", "--workspace", str(workspace), "--out", str(tmp_path))
    assert main(["data", "validate", *words]) == 0
    assert "schema molecules_v1 " in capsys.readouterr().out


def test_a_table_is_looked_at_again_only_where_it_or_the_schema_changed(
    tmp_path, monkeypatch
) -> None:
    out, rows = tmp_path / "out", molecule_rows()
    folder = write_table(tmp_path / "in", rows)
    looked = []
    from openfl_flows.data.schema import validate

    monkeypatch.setattr(
        validate, "examine", lambda *a, real=validate.examine: looked.append(a) or real(*a)
    )
    first = site_card(SCHEMA, folder, out)
    assert site_card(SCHEMA, folder, out) == first
    assert len(looked) == 1
    assert site_card(planned(*MOLECULES, "schema.floor=20"), folder, out) != first
    assert len(looked) == 2
    assert site_card(SCHEMA, write_table(tmp_path / "in", rows[:-1]), out) != first
    assert len(looked) == 3
    (out / SEEN).write_text("{")
    site_card(SCHEMA, folder, out)
    site_card(SCHEMA, folder)
    assert len(looked) == 5
    write_table(tmp_path / "in", rows[:5])
    for _ in range(2):
        with pytest.raises(ValueError, match="do not fit"):
            site_card(SCHEMA, folder, out)
    assert len(looked) == 7


def test_a_card_that_was_changed_is_no_card(tmp_path) -> None:
    card = site_card(SCHEMA, write_table(tmp_path, molecule_rows()))
    document = json.loads(json.dumps(card.document()))
    assert Card.read(document) == card
    for change in ({"floor": 20}, {"counts": {}}, {"digest": "0" * 64}, {"more": 1}):
        with pytest.raises(ValueError, match="no card of data"):
            Card.read(document | change)
    with pytest.raises(ValueError, match="no card of data"):
        Card.read({})
