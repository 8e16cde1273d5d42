"""A federated evaluation under real processes and mTLS is, to the last byte, the simulated one."""

import json
from pathlib import Path

import pytest

from openfl_flows.cli import main
from openfl_flows.cli.plan import compose
from openfl_flows.evaluation.record import FILE
from openfl_flows.experiment import Experiment
from openfl_flows.ops.files import save_state
from openfl_flows.ops.run import RunDirectory
from openfl_flows.state import State
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.rehearsal import rehearse
from tests.fx_processes import launch
from tests.tiny import OVERRIDES

TOY = ("experiment=toy", "federation.sites=3", "evaluation=toy", "evaluation.per_site=true")
DIGRESS = (
    *OVERRIDES, "experiment=demo", "federation.sites=2", "evaluation=molecules",
    "model.training.test_passes=1",
)  # fmt: skip
ESM = (
    "experiment=esm_scl", "federation.sites=3", "evaluation=proteins", "evaluation.floor=12",
    "partition.alpha=0.3",
)  # fmt: skip


def moved(state: State, factor: float) -> State:
    """Another model of the same kind: what travels is scaled, what does not stays."""
    arrays = {
        name: state[name] if name in state.frozen or "float" not in str(state[name].dtype)
        else (factor * state[name]).astype(state[name].dtype)
        for name in state
    }  # fmt: skip
    return State(arrays, frozen=state.frozen)


def models(folder: Path, *overrides: str) -> tuple[str, ...]:
    """Files of a candidate, a baseline and every site's own model, as overrides of the plan."""
    task = Experiment.from_config(compose(overrides)).task
    initial = task.initial_state()
    save_state(folder / "candidate.safetensors", moved(initial, 0.9))
    save_state(folder / "baseline.safetensors", initial)
    for number, site in enumerate(task.sites):
        save_state(folder / f"{site}.safetensors", moved(initial, 0.5 + 0.1 * number))
    return (
        f"evaluation.candidate={folder / 'candidate.safetensors'}",
        f"evaluation.baseline={folder / 'baseline.safetensors'}",
        f"evaluation.local='{folder}/{{site}}.safetensors'",
    )


@pytest.mark.parametrize(
    "plan",
    [
        TOY,
        pytest.param(ESM, marks=pytest.mark.slow),
        pytest.param(DIGRESS, marks=pytest.mark.slow),
    ],
    ids=["toy", "esm", "digress"],
)
def test_the_federation_measures_what_the_simulation_does(tmp_path, plan, capsys):
    overrides = (*plan, *models(tmp_path, *plan))
    assert main(["benchmark", *overrides, f"out={tmp_path / 'simulated'}"]) == 0
    export_workspace(compose(overrides), tmp_path / "workspace")
    run = rehearse(tmp_path / "workspace", out=tmp_path / "parties", launch=launch, quiet=True)
    record = (run.path / FILE).read_bytes()
    assert record == (tmp_path / "simulated" / FILE).read_bytes()
    assert json.loads(record)["metrics"]
    assert run.finished
    assert not run.record["rounds"]
    sites = Experiment.from_config(compose(overrides)).task.sites
    for site in sites:
        left = (tmp_path / "parties" / site / "local_state" / site / "disclosed.json").read_bytes()
        assert left == (tmp_path / "simulated" / "sites" / site / "disclosed.json").read_bytes()
    # A site's own model is in its own folder alone.
    local = (tmp_path / f"{sites[0]}.safetensors").read_bytes()
    parties = (tmp_path / "parties").rglob("*")
    having = {file.relative_to(tmp_path / "parties").parts[0] for file in parties
              if file.is_file() and local[-64:] in file.read_bytes()}  # fmt: skip
    assert having == {sites[0]}


def test_a_site_without_its_model_says_so_before_it_calls(tmp_path, capsys):
    overrides = (*TOY, *models(tmp_path, *TOY))
    (tmp_path / "site-2.safetensors").unlink()
    export_workspace(compose(overrides), tmp_path / "workspace")
    with pytest.raises(ValueError, match="site-2"):
        rehearse(tmp_path / "workspace", out=tmp_path / "parties", launch=launch, quiet=True)
    log = (tmp_path / "parties" / "site-2" / "logs" / "fx.log").read_text()
    assert "local-site-2.safetensors: no such file" in log
    assert not RunDirectory.open(tmp_path / "parties" / "run").finished
