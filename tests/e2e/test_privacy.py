"""Noise at the sites of a real federation: accounted for over kills, refused once it is spent."""

import json
from pathlib import Path

import pytest

from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from openfl_flows.ops.run import RunDirectory
from openfl_flows.privacy.accounting import epsilon_after
from openfl_flows.privacy.gaussian import Gaussian
from openfl_flows.report.html import write_report
from tests.e2e.test_federation_faults import KILLED, SITES, local, log, restart, running
from tests.fx_processes import TOY

HOW = Gaussian(clip_norm=0.5, noise_multiplier=20.0)
BOUND = round(epsilon_after(HOW, 3) + 0.001, 3)
NOISY = (
    *TOY, "network.max_norm_ratio=null", "privacy=gaussian", "privacy.clip_norm=0.5",
    "privacy.noise_multiplier=20", f"privacy.max_epsilon={BOUND}",
)  # fmt: skip


def releases(folder: Path) -> list[dict]:
    return json.loads((folder / "privacy.json").read_text())["releases"]


# Its files up to the second round: of the round that was trained, of the ledger (the 10th), of what
# was sent, of the next model.
@pytest.mark.parametrize(
    "number",
    [10, 11, *(pytest.param(number, marks=pytest.mark.slow) for number in (6, 7, 8, 9, 12, 13))],
)
def test_a_site_that_was_killed_spends_nothing_twice(federation, number):
    out = federation(*NOISY)
    with running(out, **{"site-1": number}) as processes:
        assert processes["site-1"].wait() == KILLED
        restart(out, processes, "site-1")
        assert [process.wait() for process in processes.values()] == [0, 0, 0], log(out, "site-1")
    record = RunDirectory.open(out / "run").record
    for name in SITES:
        made = releases(local(out, name))
        assert [release["round"] for release in made] == [1, 2, 3]
        spent = [entry["sites"][name]["metrics"]["epsilon"] for entry in record["rounds"]]
        assert spent == [epsilon_after(HOW, rounds) for rounds in (1, 2, 3)]
        # What the noise was made of, and what it hides, has not left the site.
        told = "".join(
            file.read_text(errors="replace")
            for file in (out / "aggregator").rglob("*")
            if file.is_file() and file.suffix in (".json", ".jsonl", ".log", ".yaml")
        )
        assert "epsilon" in told
        for release in made:
            assert str(release["norm"]) not in told
            assert release["key"] is None or release["key"] not in told


def test_a_site_that_has_spent_its_budget_stops_before_it_trains(federation):
    out = federation(*NOISY)
    spent = {"noise_multiplier": 20.0, "round": 9, "model": "", "update": "", "key": None}
    folder = local(out, "site-1")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "privacy.json").write_text(json.dumps({"releases": [spent] * 3}))
    with running(out) as processes:
        assert processes["site-1"].wait() == 1
    assert "'site-1' has spent epsilon" in log(out, "site-1")
    assert "expected at most privacy.max_epsilon" in log(out, "site-1")
    assert "Traceback" not in log(out, "site-1")
    assert not (folder / "progress.json").exists()
    assert len(releases(folder)) == 3


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> RunDirectory:
    out = tmp_path_factory.mktemp("simulated") / "noisy"
    return simulate_experiment(Experiment.from_config(compose(NOISY)), out)


def test_a_simulation_adds_the_same_noise_and_its_report_shows_the_cost(simulated):
    sites = simulated.record["rounds"][-1]["sites"]
    for name in SITES:
        assert sites[name]["metrics"]["epsilon"] == epsilon_after(HOW, 3)
        made = releases(simulated.path / "sites" / name)
        assert [release["clipped"] for release in made] == [True] * 3
    page = write_report(simulated.path).read_text()
    assert "Privacy" in page
    assert f"{epsilon_after(HOW, 3):.3g}" in page


@pytest.mark.slow
def test_updates_in_fragments_and_by_a_lossy_codec_are_accounted_for(tmp_path):
    run = simulate_experiment(
        Experiment.from_config(
            compose(
                (
                    *NOISY, "model.padding=50", "codec=int4", "federation.rounds=2",
                    "federation.streaming={fragments: 2, delay: 1, mixing: 0.5}",
                )
            )
        ),
        tmp_path / "run",
    )  # fmt: skip
    assert [entry["sites"]["site-1"]["metrics"]["epsilon"] for entry in run.record["rounds"]] == [
        epsilon_after(HOW, rounds) for rounds in (1, 2)
    ]


def refusals() -> list[tuple[tuple[str, ...], str]]:
    summed = ("federation.secure_aggregation=true", "network.max_norm_ratio=null")
    return [
        ((*NOISY, "federation.rounds=4"), "federation.rounds=4 would spend epsilon"),
        ((*NOISY, "federation.rounds=4"), "which is enough for 3 rounds"),
        ((*TOY, "privacy=gaussian", "privacy.clip_norm=0"), "privacy.clip_norm=0"),
        ((*TOY, "privacy=gaussian", "+privacy.sigma=2"), "privacy.sigma=2"),
        ((*TOY, "+privacy.delta=0.1"), "privacy has delta=0.1, which means nothing there"),
        ((*TOY, "privacy.name=laplace"), "privacy.name='laplace' is unknown, expected one of none"),
        ((*TOY, *summed, "codec=int8"), "codec.name=int8, expected identity"),
        ((*TOY, *summed, "join=median"), "join.name=median, expected a join of the mean"),
        ((*TOY, *summed, "+join.max_norm=1"), "join.max_norm=1, expected null"),
        ((*TOY, *summed, "federation.sites=1"), "federation.sites=1, expected at least 2"),
        ((*TOY, summed[0]), "network.max_norm_ratio=10.0, expected null"),
        (
            (*TOY, "federation.secure_aggregation=perhaps"),
            "federation.secure_aggregation='perhaps'",
        ),
    ]


@pytest.mark.parametrize(("overrides", "reason"), refusals())
def test_what_does_not_go_together_is_refused_before_anything_starts(overrides, reason):
    with pytest.raises(ValueError, match="^[^\n]*$") as caught:
        Experiment.from_config(compose(overrides))
    assert reason in str(caught.value)
