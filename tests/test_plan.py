"""The plan: every choice composes and builds, and what it shares with the code is equal to it."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from openfl_flows.cli.plan import compose, compose_study, plan_folder
from openfl_flows.data.molecule_sites import PartitionConfig
from openfl_flows.data.proteins.dealing import ProteinPartition
from openfl_flows.data.proteins.source import ProteinSource
from openfl_flows.data.source import MoleculeSource
from openfl_flows.experiment import Experiment, Runtime, check
from openfl_flows.joins.recipes import EMAS, JOINS
from openfl_flows.learners.digress import DigressTraining
from openfl_flows.learners.digress_task import DigressSampling, DigressTask
from openfl_flows.learners.esm_training import EsmTraining
from openfl_flows.learners.toy import ToyTask
from openfl_flows.models.digress import DigressConfig
from openfl_flows.models.esm.config import EsmModelConfig, Lora
from openfl_flows.study.plan import read_study
from openfl_flows.taskrunner.workspace import Network

PLAN = plan_folder()
EXPERIMENTS = sorted(file.stem for file in (PLAN / "experiment").glob("*.yaml"))
CHOICES = sorted(
    (file.parent.name, file.stem)
    for file in PLAN.glob("*/*.yaml")
    if file.parent.name not in ("experiment", "study")
)
PROTEINS = ("model=esm", "data=proteins", "partition=proteins_iid")
NEEDS = {
    **{
        (group, choice): tuple(word for word in words if not word.startswith(f"{group}="))
        for group, choice in CHOICES
        for kind, start, words in (
            ("data", "structures", ("partition=none", "model=openfold3_tiny")),
            ("model", "openfold3", ("partition=none", "data=structures")),
            ("model", "esm", PROTEINS),
            ("data", "proteins", PROTEINS),
            ("data", "fasta", (*PROTEINS, "data.path=proteins.fasta")),
            ("partition", "proteins", PROTEINS),
            ("schema", "proteins", PROTEINS),
            ("schema", "structures", ("partition=none", "data=structures", "model=openfold3_tiny")),
        )
        if group == kind and choice.startswith(start)
    },
    ("data", "csv"): ("data.path=molecules.csv",),
    ("data", "smiles"): ("data.path=molecules.smi",),
    ("data", "none"): ("model=toy", "partition=none"),
    ("partition", "none"): ("model=toy", "data=none"),
    ("model", "toy"): ("data=none", "partition=none"),
}
RULES = {
    file.stem: {"kingdom": "attribute"}.get(rule, rule)
    for file in (PLAN / "partition").glob("proteins_*.yaml")
    for rule in [file.stem.removeprefix("proteins_")]
}
"""Rules of partitions that are named otherwise than their files."""
EXPERIMENT_NEEDS = dict.fromkeys(("esm_deeploc", "esm_tutorial"), ("data.path=sample",))
EMBEDDED = {"path": "sample", "folder": "null"}


def built(*overrides: str) -> Experiment:
    return Experiment.from_config(compose(overrides))


def named(name: str) -> tuple[str, ...]:
    return (f"experiment={name}", *EXPERIMENT_NEEDS.get(name, ()))


def own_options(group: str, choice: str) -> dict[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load((PLAN / group / f"{choice}.yaml").read_text())
    return {key: value for key, value in found.items() if key not in ("name", "max_norm")}


def test_the_plan_itself_builds() -> None:
    assert isinstance(built().task, DigressTask)
    assert len(EXPERIMENTS) >= 4
    assert len(CHOICES) >= 25


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds_under_its_own_name(name) -> None:
    experiment = built(*named(name))
    assert experiment.config["name"] == name
    assert experiment.config["out"] == f"runs/{name}"
    assert experiment.rounds >= 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_deals_its_sites(name) -> None:
    overrides = [*named(name)]
    data = compose(overrides)["data"]
    overrides += [f"data.{key}={value}" for key, value in EMBEDDED.items() if key in data]
    table = built(*overrides).task.composition()
    sites = compose(overrides)["federation"]["sites"]
    assert [row[0] for row in table.rows] == [f"site-{i + 1}" for i in range(sites)]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_study_whose_cells_compose(name) -> None:
    study = read_study(compose_study(named(name))[1])
    for pair in study.compare:
        assert study.compared(pair)
    for run in study.runs:
        *_, last = (cell for cell in study.cells() if cell.run == run)
        assert built(*named(name), *last.overrides).config["name"] == name


def test_the_study_of_heterogeneity_has_every_split_at_every_number_of_sites() -> None:
    study = read_study(compose_study(["experiment=digress_heterogeneous"])[1])
    assert len(study.cells()) == 5 * 3 * 3 + 1
    assert [len(study.compared(pair)) for pair in study.compare] == [36, 45, 30]


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids="/".join)
def test_every_choice_of_every_group_builds(group, choice) -> None:
    composed = compose((f"{group}={choice}", *NEEDS.get((group, choice), ())))
    assert Experiment.from_config(composed).rounds == 10
    assert composed[group].get("name", choice) == RULES.get(choice, choice)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("digress", DigressConfig.default()),
        ("digress_small", DigressConfig.small()),
        ("digress_qm9_no_h", DigressConfig.qm9_no_h()),
    ],
)
def test_the_networks_of_the_plan_are_those_of_the_code(choice, expected) -> None:
    task = built(f"model={choice}").task
    assert isinstance(task, DigressTask)
    assert task.network == expected


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (("model", "network"), DigressConfig),
        (("model", "training"), DigressTraining),
        (("model", "sampling"), DigressSampling),
        (("data",), MoleculeSource),
        (("partition",), PartitionConfig),
        (("runtime",), Runtime),
        (("network",), Network),
    ],
)
def test_the_plan_states_every_option_that_the_code_reads(keys, kind) -> None:
    part = compose(())
    for key in keys:
        part = part[key]
    assert part.keys() == {field.name for field in fields(kind)}


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (("model", "network"), EsmModelConfig),
        (("model", "network", "lora"), Lora),
        (("model", "training"), EsmTraining),
        (("data",), ProteinSource),
        (("partition",), ProteinPartition),
    ],
)
def test_the_plan_states_every_option_of_proteins(keys, kind) -> None:
    part = compose(PROTEINS)
    for key in keys:
        part = part[key]
    assert part.keys() == {field.name for field in fields(kind)}


def test_the_toy_states_every_option_too() -> None:
    part = compose(("experiment=toy",))["model"]
    assert part.keys() - {"task", "flow"} == {f.name for f in fields(ToyTask)} - {"sites", "seed"}


def test_the_runtime_of_the_plan_is_the_default_of_the_code() -> None:
    assert built("experiment=toy").runtime == Runtime()
    assert built("runtime=ray").runtime == Runtime(backend="ray")


def test_the_network_of_the_plan_is_the_default_of_the_code() -> None:
    assert check("network", Network, compose(())["network"]) == Network()


@pytest.mark.parametrize(
    ("group", "table"), [("join", JOINS), ("ema", {**EMAS, "none": dict})], ids=["join", "ema"]
)
def test_options_of_joins_and_averages_are_the_defaults_of_the_code(group, table) -> None:
    names = {file.stem for file in (PLAN / group).glob("*.yaml")}
    assert names == set(table)
    for name in names - {"none"}:
        parameters = inspect.signature(table[name]).parameters.values()
        options = own_options(group, name)
        assert options.keys() == {p.name for p in parameters}, name
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        assert options == options | defaults, name


def test_a_value_that_a_choice_requires_is_asked_for() -> None:
    with pytest.raises(ValueError, match="data.path"):
        compose(("data=csv",))


def test_the_plan_lies_where_the_code_says() -> None:
    assert (PLAN / "config.yaml").is_file()
    assert Path(PLAN).is_absolute()
