"""export, count, lint, save and pki on the command line: what they write and refuse."""

from pathlib import Path

import pytest
import torch
import yaml

from openfl_flows.cli import main
from openfl_flows.ops.files import load_state
from tests.tiny import OVERRIDES

PLAN = Path("plan") / "plan.yaml"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "workspace"
    assert main(["export", "experiment=demo", *OVERRIDES, str(folder)]) == 0
    return folder


def test_counts_of_the_sites_give_the_plan_of_pooled_data(workspace, tmp_path, capsys):
    files = []
    for site in ("site-1", "site-2"):
        files.append(str(tmp_path / f"{site}.json"))
        arguments = ["count", "experiment=demo", *OVERRIDES, str(workspace / "data" / site)]
        assert main([*arguments, "--site", site, "--out", files[-1]]) == 0
        assert "these numbers, and nothing else, leave the site" in capsys.readouterr().out
    again = tmp_path / "again"
    arguments = ["export", "experiment=demo", *OVERRIDES, str(again)]
    assert main([*arguments, "--counts", *files]) == 0
    assert (again / PLAN).read_bytes() == (workspace / PLAN).read_bytes()
    assert (again / "save/init.pbuf").read_bytes() == (workspace / "save/init.pbuf").read_bytes()
    assert list((again / "data").iterdir()) == []


def test_counts_of_another_vocabulary_are_refused(workspace, tmp_path, capsys):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    data = str(workspace / "data" / "site-1")
    base = ["count", "experiment=demo", *OVERRIDES, "--site", "site-1", data]
    assert main([*base, "--out", str(first)]) == 0
    assert main([*base, "model.network.vocabulary=[C,N,O]", "--out", str(second)]) == 0
    folder = tmp_path / "workspace"
    arguments = [
        "export",
        "experiment=demo",
        *OVERRIDES,
        str(folder),
        "--counts",
        str(first),
        str(second),
    ]
    assert main(arguments) == 1
    assert "openfl-flows: error: " in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "experiment=toy"], "export got 0 folders (), expected KEY=VALUE ... FOLDER"),
        (["export", "experiment=toy", "a", "b"], "export got 2 folders (a, b)"),
        (["export", "experiment=toy", "network.agg_port=0", "w"], "network.agg_port=0, expected 1"),
        (["export", "experiment=toy", "initial=absent.safetensors", "w"], "absent.safetensors"),
        (["rehearse", "absent"], "absent"),
        (["save", "absent"], "absent: no run in it, expected a run directory or a workspace"),
        (["lint", "absent"], "absent"),
        (["count", "experiment=toy", "d", "--site", "site-1", "--out", "f"], "nothing to count"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_lint_lists_all_that_is_wrong(workspace, tmp_path, capsys):
    (tmp_path / "plan").mkdir()
    plan = yaml.safe_load((workspace / PLAN).read_text())
    plan["network"]["settings"] |= {"use_tls": False, "transport_protocol": "rest"}
    (tmp_path / PLAN).write_text(yaml.safe_dump(plan))
    (tmp_path / "plan" / "cols.yaml").write_text((workspace / "plan" / "cols.yaml").read_text())
    assert main(["lint", str(workspace)]) == 0
    assert main(["lint", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "use_tls" in said.out
    assert "transport_protocol" in said.out
    assert "2 findings, expected none" in said.err


def test_save_gives_both_formats_of_every_model(tmp_path, capsys):
    out = str(tmp_path / "run")
    plan = ["experiment=toy", "ema=at_sync", "federation.rounds=2", "runtime.quiet=true"]
    assert main(["simulate", *plan, f"out={out}"]) == 0
    for weights in ("model", "best", "ema"):
        assert main(["save", out, "--weights", weights]) == 0
        saved = load_state(tmp_path / "run" / "saved" / f"{weights}.safetensors")
        assert saved == load_state(tmp_path / "run" / f"{weights}.safetensors")
        native = torch.load(tmp_path / "run" / "saved" / f"{weights}.pt", weights_only=True)
        assert native
    assert "digest" in capsys.readouterr().out


def test_a_federation_starts_where_another_ended(tmp_path):
    quiet = ["runtime.quiet=true", "federation.rounds=1"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["simulate", "experiment=toy", *quiet, f"out={first}"]) == 0
    initial = f"initial={first / 'model.safetensors'}"
    assert main(["simulate", "experiment=toy", *quiet, initial, f"out={second}"]) == 0
    before = load_state(first / "model.safetensors").digest()
    assert f'"initial": {{\n  "digest": "{before}"' in (second / "run.json").read_text()
    workspace = tmp_path / "workspace"
    assert main(["export", "experiment=toy", initial, str(workspace)]) == 0
    assert load_state(workspace / "save" / "initial.safetensors").digest() == before
    assert str(tmp_path) not in (workspace / PLAN).read_text()
