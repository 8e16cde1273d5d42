"""A plan of evaluation alone: what it says, what a site does for it, what an aggregator takes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openfl_flows.cli.plan import compose
from openfl_flows.evaluation.policy import Evaluation
from openfl_flows.experiment import Experiment, evaluation_of
from openfl_flows.learners.base import Budget
from openfl_flows.learners.site import Site
from openfl_flows.learners.toy import ToyTask
from openfl_flows.ops.files import load_state, save_state
from openfl_flows.ops.inbox import Result
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.state import State
from openfl_flows.taskrunner.evaluation import BENCHMARKED, Benchmark, admit, evaluation_config
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.lint import findings
from openfl_flows.taskrunner.loader import SiteData
from openfl_flows.taskrunner.runner import LearnerTaskRunner
from openfl_flows.taskrunner.workspace import read_workspace

TOY = ("experiment=toy", "join=diloco", "ema=at_sync", "codec=int4", "evaluation=toy")
TASK = ToyTask(sites=("site-1", "site-2"))


@pytest.fixture
def overrides(tmp_path):
    for name in ("candidate", "baseline", "site-1", "site-2"):
        save_state(tmp_path / f"{name}.safetensors", TASK.initial_state())
    return (
        *TOY,
        f"evaluation.candidate={tmp_path / 'candidate.safetensors'}",
        f"evaluation.baseline={tmp_path / 'baseline.safetensors'}",
        f"evaluation.local='{tmp_path}/{{site}}.safetensors'",
    )


@pytest.fixture
def workspace(tmp_path, overrides):
    export_workspace(compose(overrides), tmp_path / "workspace")
    return tmp_path / "workspace"


def test_the_workspace_pins_both_models_and_trains_nothing(workspace):
    assert findings(workspace / "plan" / "plan.yaml") == []
    experiment = Experiment.from_config(read_workspace(workspace).config)
    digest = TASK.initial_state().digest()
    assert experiment.rounds == 0
    assert experiment.evaluation is not None
    assert experiment.evaluation.candidate_digest == experiment.initial_digest == digest
    assert experiment.evaluation.baseline_digest == digest
    assert load_state(workspace / "save" / "baseline.safetensors").digest() == digest
    text = (workspace / "plan" / "plan.yaml").read_text()
    assert "diloco" not in text
    assert str(workspace.parent) not in text


def test_its_page_speaks_of_measuring(workspace):
    page = (workspace / "README.md").read_text()
    for said in ("Nothing is trained", "and the baseline", "disclosed.json", "its benchmark in",
                 "`data/site-1/local-site-1.safetensors`", "openfl-flows report"):  # fmt: skip
        assert said in page
    for other in ("rounds, network", "openfl-flows save", "the last and the best"):
        assert other not in page


def test_an_exported_evaluation_can_be_exported_again(workspace, tmp_path):
    again = tmp_path / "again"
    export_workspace(read_workspace(workspace).config, again)
    assert (again / "plan" / "plan.yaml").read_text() == (
        workspace / "plan" / "plan.yaml"
    ).read_text()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluation.candidate=null", "evaluation.candidate=null"),
        ("initial=other.safetensors", "initial=other.safetensors, expected null"),
        ("evaluation.benchmark='data/{site}'", "evaluation.benchmark"),
    ],
)
def test_what_a_federation_cannot_measure_is_refused(overrides, override, words):
    with pytest.raises(ValueError, match=words):
        evaluation_config(compose((*overrides, override)))


def test_a_site_that_agreed_to_be_measured_at_does_not_train(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    config = read_workspace(workspace).config
    given = {key: config[key] for key in config.keys() - {"join", "ema", "network"}}
    runner = LearnerTaskRunner(SiteData("data/site-1"), given)
    runner.prepare("site-1")
    assert runner.get_required_tensorkeys_for_function(BENCHMARKED)
    for task in ("train", "aggregated_model_validation", "final_model_validation"):
        with pytest.raises(ValueError, match="evaluation alone"):
            runner.get_required_tensorkeys_for_function(task)


@pytest.mark.parametrize("diverged", ["candidate", "baseline", "local"])
def test_of_a_diverged_model_one_line_says_why_nothing_leaves(workspace, monkeypatch, diverged):
    state = TASK.initial_state()
    nan = State({name: np.full_like(array, np.nan) for name, array in state.items()})
    own = {"candidate": "save/initial", "baseline": "save/baseline",
           "local": "data/site-1/local-site-1"}  # fmt: skip
    save_state(workspace / f"{own[diverged]}.safetensors", nan)
    monkeypatch.chdir(workspace)
    agreed = evaluation_of(read_workspace(Path()).config)
    assert agreed is not None
    policy = replace(agreed, candidate_digest=None, baseline_digest=None)
    benchmark = Benchmark(policy, TASK, "site-1", Path("data/site-1"))
    site = Site("site-1", lambda: TASK.learner("site-1"), folder=Path("local_state/site-1"),
                budget=Budget(steps=1), resident=1)  # fmt: skip
    candidate = nan if diverged == "candidate" else state
    with pytest.raises(WithheldError, match=f"^nothing .* 'site-1': .* of the {diverged} is nan"):
        benchmark.measure(candidate, site)
    assert not Path("local_state/site-1/disclosed.json").exists()


def sent(**sums):
    return Result(
        "site-1",
        BENCHMARKED,
        {
            json.dumps([name.replace("__", "/"), False, sorted(("test", BENCHMARKED))]): np.array(
                mean, np.float64
            )
            for name, mean in sums.items()
        },
    )


def test_measures_that_should_have_stayed_are_refused_with_the_site():
    policy = Evaluation(metrics=("test_mse",))
    admit(sent(candidate__test_mse=(3.0, 10)), policy)
    for wrong in (
        sent(candidate__test_mse=(3.0, 9)),
        sent(candidate__secret=(3.0, 10)),
        sent(local__test_mse=(3.0, 10)),
        sent(test_mse=(3.0, 10)),
    ):
        with pytest.raises(ValueError, match="^result of 'site-1' for benchmark_validation"):
            admit(wrong, policy)
