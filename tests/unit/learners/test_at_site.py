"""A site with nothing but its own table trains to the same bits as in the simulation."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from openfl_flows.data.molecule_sites import PartitionConfig
from openfl_flows.data.source import MoleculeSource
from openfl_flows.experiment import check
from openfl_flows.learners.base import Budget, Learner
from openfl_flows.learners.digress_counts import read_counts, write_counts
from openfl_flows.learners.digress_task import DigressTask
from openfl_flows.learners.toy import ToyTask
from openfl_flows.models.digress import merge_counts, statistics_from_counts
from openfl_flows.state import State
from tests.tiny import digress

# Molecules that lose their formal charges.
CHARGED = ("C[N+](=O)[O-]", "[NH3+]CC(=O)[O-]", "O=[N+]([O-])CO", "[C-]#[N+]C")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Molecules with charges, missing labels, labels that no short decimal is, and a bad row."""
    file = tmp_path_factory.mktemp("pooled") / "molecules.csv"
    whole, _ = MoleculeSource(limit=80).read(("C", "N", "O", "F"), 9)
    rng = np.random.default_rng(0)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("smiles", "mu", "homo"))
        for number, smiles in enumerate((*whole.smiles, *CHARGED, "c1ccccc1Br")):
            labels: list[object] = [rng.random() * 3, -rng.random() / 2]
            if number % 5 == 0:
                labels[number // 5 % 2] = ""
            if number % 20 == 7:
                labels = ["", "nan"]
            writer.writerow((smiles, *labels))
    return file


@pytest.fixture(scope="module", params=["iid", "dirichlet", "sizes", "scaffold"])
def task(request, table) -> DigressTask:
    kinds = {"dirichlet": {"alpha": 1.0, "by": "mu"}, "sizes": {"fractions": (0.6, 0.4)}}
    options = {"split": (0.7, 0.1, 0.2), "by": "atoms", **kinds.get(request.param, {})}
    partition = PartitionConfig(name=request.param, **options)
    return digress(data=MoleculeSource(path=str(table)), partition=partition, seed=3)


def agreed(task: DigressTask) -> DigressTask:
    return check("model", DigressTask, {**vars_of(task), **task.agreement()})


def vars_of(task: DigressTask) -> dict[str, object]:
    return {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}


def trained(learner: Learner, model: State) -> State:
    learner.receive(model)
    learner.train(Budget(epochs=2), lambda *_: None)
    return learner.send()


def test_a_site_on_its_own_table_is_the_site_of_the_simulation(task, tmp_path) -> None:
    assert task.network.dropout > 0
    remote = agreed(task)
    for site in task.sites:
        folder = tmp_path / site
        task.write_site_data(site, folder)
        own = remote.at_site(site, folder)
        assert own.sites == (site,)
        assert own.initial_state() == task.initial_state()
        here, there = task.learner(site), own.learner(site)
        for mine, theirs in zip(here._molecules, there._molecules, strict=True):
            assert mine.smiles == theirs.smiles
            assert np.array_equal(mine.targets.view(np.uint32), theirs.targets.view(np.uint32))
            assert np.array_equal(mine.charged, theirs.charged)
        model = task.initial_state()
        assert trained(here, model) == trained(there, model) != model
        assert (here.validate(), here.test()) == (there.validate(), there.test())
        assert own.composition().rows[0][:4] in [row[:4] for row in task.composition().rows]
    assert sum(any(part.charged) for s in task.sites for part in task.learner(s)._molecules) >= 2


def test_agreed_statistics_survive_every_file(task) -> None:
    expected = task.initial_state()
    agreement = task.agreement()
    rest = vars_of(task)
    text = yaml.safe_dump(agreement)
    for read in (
        yaml.safe_load(text),
        json.loads(json.dumps(agreement)),
        OmegaConf.to_container(OmegaConf.create(text)),
        OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(agreement))),
    ):
        again = check("model", DigressTask, {**rest, **read})
        assert again.initial_state() == expected
        assert again.agreement() == {}
    assert dataclasses.replace(task, statistics="qm9").agreement() == {}


def test_counts_of_the_sites_give_what_the_simulation_counts(task, tmp_path) -> None:
    for site in task.sites:
        task.write_site_data(site, tmp_path / site)
        write_counts(tmp_path / f"{site}.json", task.site_counts(site, tmp_path / site))
    counts = [read_counts(tmp_path / f"{site}.json") for site in task.sites]
    assert statistics_from_counts(merge_counts(counts)) == task.graph_statistics


def test_a_companys_table_may_hold_more_and_loses_no_row_silently(tmp_path) -> None:
    rows = ["id,homo_ev,smiles,dipole_debye", *(f"{i},-6.5,{'C' * i}N,1.5" for i in range(1, 9))]
    (tmp_path / "molecules.csv").write_text("\n".join([*rows, "9,-6.5,CBr,1.5"]) + "\n")
    task = digress(statistics="qm9").at_site("site-2", tmp_path)
    assert task.composition().rows[0][:4] == ("site-2", 6, 1, 1)
    assert (task.learner("site-2")._molecules.train.targets == [[1.5, -6.5]] * 6).all()
    limited = digress(statistics="qm9", data=MoleculeSource(limit=7)).at_site("site-2", tmp_path)
    assert sum(limited.composition().rows[0][1:4]) == 7
    assert task.write_rejected(tmp_path) == 1
    assert '10,,CBr,"atom Br is outside C,N,O,F"' in (tmp_path / "rejected.csv").read_text()


def test_what_a_site_cannot_run_on_is_said(tmp_path) -> None:
    task = digress(statistics="qm9")
    file = tmp_path / "molecules.csv"
    columns = "columns smiles, dipole_debye, homo_ev"
    with pytest.raises(ValueError, match=f"{file}: no such file, expected .* {columns}$"):
        task.at_site("site-1", tmp_path)
    file.write_text("smiles,mu,homo\nC,0,0\n")
    with pytest.raises(ValueError, match=f"{file}: no column 'dipole_debye'; the columns are"):
        task.at_site("site-1", tmp_path).learner("site-1")
    for refused in (task.at_site, task.write_site_data, ToyTask(sites=("a",)).at_site):
        with pytest.raises(ValueError, match="site 'x' is unknown, expected one of"):
            refused("x", tmp_path)
    with pytest.raises(ValueError, match="model.statistics=counted, expected constants"):
        digress().at_site("site-1", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atom_marginals": [0.5, 0.5]}, "atom_marginals has 2 classes; expected 4"),
        ({"node_counts": [0.5, 0.5]}, r"node_counts has 2 entries; expected max_atoms \+ 1 = 10"),
        ({"bond_marginals": [0.5, 0.5]}, "bond_marginals has 2 classes; expected 5"),
        ({"atom_marginals": [0.5, 0.5, 0.5, 0.5]}, "expected probabilities summing 1"),
        ({"atom_marginals": [float("nan")] * 4}, "expected probabilities summing 1"),
        ({"atom_marginals": []}, "expected probabilities summing 1"),
        ({"target_mean": [float("inf"), 0.0]}, "target_mean is .* expected finite"),
        ({"target_std": [1.0, float("nan")]}, "target_std is .* expected finite values above 0"),
        ({"target_std": [1.0]}, "target_std"),
        ({"target_mode": [1.0]}, "target_mode"),
    ],
)
def test_constants_that_cannot_be_are_refused(change, message) -> None:
    constants = digress().agreement()["statistics"] | change
    with pytest.raises(ValueError, match=rf"^model\b.*{message}") as refused:
        check("model", DigressTask, {"sites": ("a",), "statistics": constants})
    assert "\n" not in str(refused.value)


def test_a_way_to_get_statistics_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="statistics.*='qm8': Input should be 'counted' or 'qm9'"):
        check("model", DigressTask, {"sites": ("a",), "statistics": "qm8"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"node_counts": None}, "expected a mapping of node_counts, .*, and nothing else"),
        ({"more": [1]}, "expected a mapping of"),
        ({"atom_counts": [1.5, 1, 1, 1]}, "atom_counts is .* numbers of at least 0"),
        ({"atom_counts": [-1, 1, 1, 1]}, "atom_counts is .* numbers of at least 0"),
        ({"target_sums": [float("nan"), 1.0]}, "target_sums is .* finite numbers"),
        ({"target_sums": "12"}, "target_sums is 12, expected a list"),
        ({"target_counts": []}, "target_counts is"),
    ],
)
def test_counts_that_cannot_be_are_refused(tmp_path, change, message) -> None:
    file = tmp_path / "counts.json"
    task = digress(("a",))
    task.write_site_data("a", tmp_path)
    write_counts(file, task.site_counts("a", tmp_path))
    document = json.loads(file.read_text()) | change
    file.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))
    with pytest.raises(ValueError, match=f"{file}: {message}"):
        read_counts(file)


def test_a_toy_site_needs_no_data(tmp_path) -> None:
    task = ToyTask(sites=("a", "b"), seed=5)
    task.write_site_data("b", tmp_path)
    own, model = task.at_site("b", tmp_path), task.initial_state()
    assert own.initial_state() == model
    assert trained(own.learner("b"), model) == trained(task.learner("b"), model) != model
    assert task.agreement() == {}


@pytest.mark.parametrize("task", [ToyTask(sites=("a",)), digress(("a",))])
def test_the_best_model_is_told_by_what_validation_measures(task) -> None:
    metric, mode = task.best_metric
    assert mode == "min"
    assert metric in task.learner("a").validate()
    published = dataclasses.replace(digress().network, numerics="published")
    assert digress(network=published).best_metric == ("nll", "min")
