"""A federated evaluation in one process, and its command."""

import json

import pytest

from openfl_flows.cli import main
from openfl_flows.evaluation.measure import RECORD
from openfl_flows.evaluation.policy import Evaluation
from openfl_flows.evaluation.simulation import evaluate_federated
from openfl_flows.learners.toy import ToyTask
from openfl_flows.metrics.mean import merge
from openfl_flows.ops.files import save_state
from openfl_flows.state import State
from tests.refusals import refused

SITES = ("site-1", "site-2", "site-3")
TASK = ToyTask(sites=SITES, samples=40)
TOY = ("experiment=toy", "federation.sites=3", "model.samples=40", "evaluation=toy")


def scaled(factor: float) -> State:
    return State({name: factor * array for name, array in TASK.initial_state().items()})


@pytest.fixture
def files(tmp_path):
    models = {"candidate": scaled(1), "baseline": scaled(0.5)}
    models |= {f"local-{site}": scaled(i) for i, site in enumerate(SITES)}
    for name, model in models.items():
        save_state(tmp_path / f"{name}.safetensors", model)
    return tmp_path


def policy(files, **options):
    return Evaluation(
        metrics=("test_mse",),
        candidate=files / "candidate.safetensors",
        baseline=files / "baseline.safetensors",
        local=str(files / "local-{site}.safetensors"),
        **options,
    )


def test_the_record_is_what_the_sites_measure(files):
    record = evaluate_federated(TASK, policy(files), files / "out")
    for name, factor in (("candidate", 1.0), ("baseline", 0.5)):
        parts = []
        for site in SITES:
            learner = TASK.learner(site)
            learner.receive(scaled(factor))
            parts.append(learner.test())
        found = record["metrics"]["test_mse"]["models"][name]
        assert found["value"] == pytest.approx(merge(parts)["test_mse"].value, rel=1e-5)
        assert found["count"] == 120
    assert record["candidate"] == scaled(1).digest()
    assert json.loads((files / "out" / "evaluation.json").read_text()) == record
    assert record["by_site"] == {}


def test_every_site_writes_down_what_left_it(files):
    evaluate_federated(TASK, policy(files), files / "out")
    document = json.loads((files / "out" / "sites" / "site-2" / RECORD).read_text())
    assert document["left"].keys() == {"candidate", "baseline", "local"}
    assert document["stayed"] == {}
    evaluate_federated(TASK, policy(files, floor=41), files / "small")
    document = json.loads((files / "small" / "sites" / "site-2" / RECORD).read_text())
    assert document["left"] == {"candidate": {}, "baseline": {}, "local": {}}


def test_the_command_prints_the_table(files, capsys):
    arguments = [
        *TOY,
        f"evaluation.candidate={files / 'candidate.safetensors'}",
        f"evaluation.local='{files}/local-{{site}}.safetensors'",
        "evaluation.per_site=true",
        f"out={files / 'out'}",
    ]
    assert main(["benchmark", *arguments]) == 0
    out = capsys.readouterr().out
    assert "all 3 sites" in out
    assert "against local" in out
    assert (files / "out" / "evaluation.html").is_file()
    assert main(["report", str(files / "out")]) == 0
    assert "against local" in capsys.readouterr().out


def test_two_sites_are_told_what_they_tell_each_other(files, capsys):
    arguments = (*TOY, "federation.sites=2", f"out={files / 'out'}")
    candidate = f"evaluation.candidate={files / 'candidate.safetensors'}"
    assert main(["benchmark", *arguments, candidate]) == 0
    assert "has the other's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("evaluation=none",), "evaluation=none, expected toy"),
        ((), "evaluation.candidate=null"),
        (("evaluation.candidate=nothing.safetensors",), "nothing.safetensors: no such file"),
        (("evaluation.candidate={c}", "model.features=9"), "another model than the plan's"),
        (("evaluation.candidate={c}", "evaluation.candidate_digest=abc"), "expected abc"),
        (("evaluation.candidate={c}", "evaluation.floor=1"), "evaluation.floor=1"),
        (("evaluation.candidate={c}", "evaluation.metrics=[]"), "evaluation.metrics="),
        (("evaluation.candidate={c}", "evaluation.local='x-{{site}}'"), "x-site-1: no such file"),
        (("evaluation.candidate={c}", "out={d}"), "is not empty"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_written(
    files, capsys, overrides, words
):
    fill = {"c": str(files / "candidate.safetensors"), "d": str(files)}
    given = [override.format(**fill) for override in overrides]
    before = sorted(files.iterdir())
    line = refused(capsys, "benchmark", *TOY, f"out={files / 'out'}", *with_new(given))
    assert words in line
    assert sorted(files.iterdir()) == before


def with_new(overrides: list[str]) -> list[str]:
    """Overrides of keys that the plan does not have are added to it."""
    return [f"+{o}" if o.startswith("evaluation.candidate_digest") else o for o in overrides]


@pytest.mark.parametrize("command", ["simulate", "centralize"])
def test_training_is_no_evaluation(capsys, tmp_path, command):
    line = refused(capsys, command, *TOY, f"out={tmp_path / 'out'}")
    assert "benchmark and export" in line
