"""Training, validation and test of every model are those of the blind split, at every site."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from openfl_flows.cli.plan import compose
from openfl_flows.data.blind.config import CLUSTERS, SplitConfig
from openfl_flows.data.blind.key_file import write_key
from openfl_flows.data.blind.split import BlindSplit
from openfl_flows.data.blind.structures import structure_parts
from openfl_flows.data.source import MoleculeSource
from openfl_flows.experiment import Experiment
from openfl_flows.learners.digress_task import DigressTask
from openfl_flows.learners.openfold3_task import OpenFold3Task
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.workspace import read_workspace

PROTEINS = ("experiment=esm_scl", "model=esm_tiny")


@pytest.fixture
def config(tmp_path: Path) -> SplitConfig:
    write_key(tmp_path / "blind.key")
    return SplitConfig(
        name="blind", key_file=str(tmp_path / "blind.key"), fractions=(0.5, 0.3, 0.2)
    )


def overrides(config: SplitConfig) -> tuple[str, ...]:
    return ("split=blind", f"split.key_file={config.key_file}", "split.fractions=[0.5,0.3,0.2]")


def by_part(items: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name, part in items:
        found[part].append(name)
    return {part: sorted(names) for part, names in found.items()}


def test_molecules(config, tmp_path) -> None:
    task = DigressTask(
        sites=("a", "b"), split=config, data=MoleculeSource(limit=300), statistics="qm9"
    )
    split = BlindSplit.open(config)
    groups = {}
    for site in task.sites:
        own = task._dealt[site]
        for part, molecules in zip(("train", "val", "test"), own, strict=True):
            assert split.molecule_parts(molecules.smiles) == [part] * len(molecules)
            for smiles in molecules.smiles:
                assert groups.setdefault(split.molecules.group(smiles), part) == part
        task.write_site_data(site, tmp_path / site)
        there = task.at_site(site, tmp_path / site)._dealt[site]
        assert [part.smiles for part in there] == [part.smiles for part in own]
    unlike = replace(task, split=SplitConfig())
    assert unlike._dealt["a"].train.smiles != task._dealt["a"].train.smiles


def test_proteins_whatever_their_file_says(config, tmp_path) -> None:
    task = Experiment.from_config(compose((*PROTEINS, *overrides(config)))).task
    split = BlindSplit.open(config)
    dealt = task._dealt
    for site, own in dealt.items():
        parts = {"train": own.train, "val": own.val, **own.tests}
        assert parts.keys() == {"train", "val", "test"}
        for part, proteins in parts.items():
            sequences = [protein.record.sequence for protein in proteins]
            assert set(split.protein_parts([""] * len(sequences), sequences)) == {part}
        task.write_site_data(site, tmp_path / site)
    site = task.sites[0]
    remote = replace(task, encoder_digest="0" * 16).at_site(site, tmp_path / site)
    for here, there in zip(dealt[site][:2], remote._dealt[site][:2], strict=True):
        assert [protein.name for protein in there] == [protein.name for protein in here]


def test_structures(config) -> None:
    config = replace(config, complexes="polymers", fractions=(0.4, 0.3, 0.3))
    Path(str(config.key_file)).write_text("00" * 31 + "05\n")
    task = OpenFold3Task(sites=("a",), split=config)
    parts = structure_parts(BlindSplit.open(config), task._set, task._chosen)
    expected = by_part((name, part) for name, part in parts.items() if part)
    own = task._dealt["a"]
    found = [[structure.name for structure in part] for part in own]
    assert found == list(expected.values())
    left = list(parts.values()).count("")
    assert (f"{left} left out" in task.composition().note) == bool(left)


def test_too_few_structures_are_said(config) -> None:
    task = OpenFold3Task(sites=tuple(f"s{i}" for i in range(8)), split=config)
    with pytest.raises(ValueError, match="site 's.' has . structures: the blind split puts none"):
        task.composition()


def test_without_its_key_a_site_does_not_train(config) -> None:
    task = DigressTask(sites=("a",), split=replace(config, key_file="missing.key"))
    with pytest.raises(ValueError, match=r"missing.key: no such file, expected 64 hexadecimal"):
        task.learner("a")


def test_the_plan_of_a_federation_has_no_key_and_no_path_of_this_machine(config, tmp_path) -> None:
    table = tmp_path / "public.csv"
    table.write_text("protein,cluster\nP1,a\n")
    composed = compose(("experiment=demo", *overrides(config), f"split.clusters={table}"))
    export_workspace(composed, tmp_path / "workspace")
    folder = tmp_path / "workspace"
    text = (folder / "plan" / "plan.yaml").read_text()
    secret = Path(str(config.key_file)).read_text().strip()
    everything = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert secret.encode() not in everything
    assert str(tmp_path) not in text
    assert "/private/" in (folder / ".gitignore").read_text().split()
    assert (folder / CLUSTERS).read_text() == table.read_text()
    split = read_workspace(folder).config["split"]
    assert split["key_file"] == "private/blind.key"
    assert yaml.safe_load(text)["task_runner"]["settings"]["experiment"]["split"] == split
    agreed = Experiment.from_config(read_workspace(folder).config).split
    assert agreed.fractions == config.fractions
    assert len(agreed.clusters_sha256 or "") == 64


def test_a_plan_without_blind_split_says_nothing_of_it(tmp_path) -> None:
    export_workspace(compose(("experiment=toy",)), tmp_path / "workspace")
    assert "split:\n      name" not in (tmp_path / "workspace" / "plan" / "plan.yaml").read_text()


def test_a_model_that_makes_its_own_data_has_no_blind_split(config) -> None:
    with pytest.raises(ValueError, match="split"):
        Experiment.from_config(compose(("experiment=toy", *overrides(config))))
