"""The ESM-2 task: a site on its own file is the site of the simulation, and models go anywhere."""

import csv
import json
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from transformers import EsmConfig, EsmForMaskedLM, EsmModel

from openfl_flows.data.proteins.fasta import read_fasta, write_fasta
from openfl_flows.data.proteins.sites import ProteinPartition
from openfl_flows.data.proteins.source import SITE_FILE
from openfl_flows.experiment import check
from openfl_flows.learners.base import Budget, Learner
from openfl_flows.learners.esm_task import EsmTask
from openfl_flows.metrics.predictions import Predictions
from openfl_flows.models.esm.config import SHAPES, EsmModelConfig, Lora
from openfl_flows.models.esm.network import build_encoder, embed, encoder_digest
from openfl_flows.models.esm.tokens import tokenize
from openfl_flows.ops.files import save_state
from openfl_flows.state import State
from tests.tiny_esm import CLASSES, esm, proteins

MODES = ("frozen", "lora", "full")
KINDS = ("sequence_to_class", "sequence_to_value", "residue_to_class")
PARTITIONS = {
    "iid": {},
    "sizes": {"fractions": (0.3, 0.7)},
    "dirichlet": {"alpha": 1.0, "min_size": 5},
    "attribute": {"attribute": "KINGDOM"},
    "clusters": {"identity": 0.5},
    "tutorial": {},
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openfl_flows"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "all.fasta"


def agreed(task: EsmTask) -> EsmTask:
    """As a party reads it from the plan."""
    agreement = yaml.safe_load(yaml.safe_dump(dict(task.agreement())))
    assert json.loads(json.dumps(agreement)) == agreement
    return check("model", EsmTask, {**vars_of(task), **agreement})


def vars_of(task: EsmTask) -> dict[str, object]:
    return {field.name: getattr(task, field.name) for field in fields(task)}


def trained(learner: Learner, model: State, epochs: float = 1) -> State:
    learner.receive(model)
    learner.train(Budget(epochs=epochs), lambda *_: None)
    return learner.send()


def assert_a_site_alone_is_that_of_all(task: EsmTask, folder) -> None:
    remote, model = agreed(task), task.initial_state()
    for site in task.sites:
        task.write_site_data(site, folder / site)
        own = remote.at_site(site, folder / site)
        assert own.sites == (site,)
        assert own.initial_state() == model
        here, there = task.learner(site), own.learner(site)
        after = trained(here, model)
        assert after == trained(there, model) != model
        assert here.validate() == there.validate()
        assert here.test() == there.test()
        mine, rows = own.composition().rows[0], task.composition().rows
        if task.data.kind != "sequence_to_value":  # quintiles are of all sites together
            assert mine in rows


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("partition", ["iid", "attribute"])
def test_a_site_on_its_own_file_is_the_site_of_the_simulation(file, tmp_path, mode, partition):
    network = {"mode": mode, "dropout": 0.2, "lora": Lora(dropout=0.1)}
    rule = ProteinPartition(name=partition, **PARTITIONS[partition])
    assert_a_site_alone_is_that_of_all(esm(file, network=network, partition=rule), tmp_path)


@pytest.mark.parametrize("tests", ["shared", "dealt"])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_so_it_is_with_every_partition(file, tmp_path, partition, tests):
    rule = ProteinPartition(name=partition, tests=tests, **PARTITIONS[partition])
    assert_a_site_alone_is_that_of_all(esm(file, partition=rule), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_so_it_is_with_every_kind_and_what_the_source_does(file, tmp_path, kind):
    records = [
        replace(
            record,
            sequence=record.sequence[:-1] + "J*",
            part="train" if record.part == "val" else record.part,
        )
        for record in proteins(kind, num=90)
    ]
    if kind == "residue_to_class":
        records = [replace(r, target=r.target + "L", mask=r.mask + "1") for r in records]
    write_fasta(file, records)
    data = {"limit": 60, "max_length": 21, "long": "crop"}
    task = esm(file, kind, data=data, partition=ProteinPartition(val=0.2))
    assert any(p.record.part == "val" for p in task.learner("a")._proteins.val)
    assert_a_site_alone_is_that_of_all(task, tmp_path)


def test_the_cache_changes_no_bit_and_is_shared(file, tmp_path, cache):
    task = esm(file, training={"cache": "auto"})
    assert_a_site_alone_is_that_of_all(task, tmp_path)
    assert (cache / "embeddings.sqlite").is_file()
    uncached = replace(task, training=replace(task.training, cache=None))
    model = task.initial_state()
    for site in task.sites:
        assert trained(task.learner(site), model) == trained(uncached.learner(site), model)


def test_a_task_travels_without_its_data(file, tmp_path):
    task = esm(file, network={"mode": "lora"})
    before = len(pickle.dumps(task))
    model = task.initial_state()
    expected = trained(task.learner("a"), model)
    task.composition(), task.agreement()
    sent = pickle.dumps(task)
    assert len(sent) == before < 5000
    assert trained(pickle.loads(sent).learner("a"), model) == expected


@pytest.mark.parametrize("mode", MODES)
def test_the_parties_agree_on_an_encoder_that_does_not_travel(file, tmp_path, mode):
    task = esm(file, network={"mode": mode})
    task.write_site_data("a", tmp_path / "a")
    if mode == "full":
        assert task.agreement() == {}
        assert task.at_site("a", tmp_path / "a").initial_state() == task.initial_state()
        return
    with pytest.raises(ValueError, match=rf"model\.encoder_digest=null.*network\.mode={mode}"):
        task.at_site("a", tmp_path / "a")
    digest = encoder_digest(task._encoder())
    assert task.agreement() == {"encoder_digest": digest}
    assert agreed(task).agreement() == task.agreement()


@pytest.mark.parametrize("mode", ["frozen", "lora"])
def test_another_encoder_is_refused_with_both_digests(file, tmp_path, mode):
    folders = {}
    for seed in (1, 2):
        torch.manual_seed(seed)
        folders[seed] = str(tmp_path / f"esm2-{seed}")
        EsmForMaskedLM(EsmModelConfig(size="tiny").settings()).save_pretrained(folders[seed])
    task = esm(file, network={"mode": mode, "weights": folders[1]})
    task.write_site_data("a", tmp_path / "a")
    ours = task.agreement()["encoder_digest"]
    same = agreed(task).at_site("a", tmp_path / "a")
    assert trained(same.learner("a"), task.initial_state()) != task.initial_state()
    other = replace(same, network=replace(task.network, weights=folders[2]))
    theirs = esm(file, network={"mode": mode, "weights": folders[2]}).agreement()["encoder_digest"]
    assert ours != theirs
    message = rf"network\.weights={folders[2]} has digest {theirs}, expected {ours} as model\.enc"
    with pytest.raises(ValueError, match=message) as refused:
        trained(other.learner("a"), task.initial_state())
    assert len(str(refused.value).splitlines()) == 1


def test_a_site_without_a_file_or_name(file, tmp_path):
    task = esm(file, network={"mode": "full"})
    with pytest.raises(ValueError, match=f"{tmp_path / 'a' / SITE_FILE}: no such file"):
        task.at_site("a", tmp_path / "a")
    for ask in (task.at_site, task.write_site_data):
        with pytest.raises(ValueError, match="site 'x' is unknown"):
            ask("x", tmp_path)
    with pytest.raises(ValueError, match="site 'x' is unknown"):
        task.learner("x")


def test_a_class_that_a_site_does_not_have_is_told(file, tmp_path):
    rule = ProteinPartition(name="attribute", attribute="KINGDOM")
    records = [
        replace(record, part="val" if i % 3 else record.part)
        if record.target == "Golgi" and record.attributes["KINGDOM"] == "Plants"
        else record
        for i, record in enumerate(proteins(num=108))
    ]
    records = [r for r in records if (r.target, r.attributes["KINGDOM"]) != ("Golgi", "Plants")]
    write_fasta(file, records)
    task = esm(file, sites=("a", "b", "c"), partition=rule)
    (lacking,) = [
        site for site in task.sites if "Golgi" not in classes_of(task.learner(site)._proteins.train)
    ]
    assert task.composition().note.endswith(f"; {lacking} trains on no Golgi")
    (row,) = [row for row in task.composition().rows if row[0] == lacking]
    assert dict(zip(task.composition().columns, row, strict=True))["Golgi"] == 0
    assert "trains on no" not in esm(tmp_path / "even.fasta").composition().note
    # It trains and is measured all the same: on other sites' classes, too.
    learner = task.learner(lacking)
    trained(learner, task.initial_state())
    assert learner.test()["test_recall_Golgi"].count > 0


def classes_of(own) -> set[str]:
    return {protein.record.target for protein in own}


def test_pooled_is_all_of_it_once(file):
    task = esm(file, partition=ProteinPartition(name="attribute", attribute="KINGDOM"))
    pooled = task.pooled_learner()._proteins
    whole = task.data.read()
    assert {p.name for p in (*pooled.train, *pooled.val)} == {
        p.name for p in whole.proteins if p.record.part in ("train", "val")
    }
    assert [p.name for p in pooled.tests["test"]] == sorted(
        p.name for p in whole.proteins if p.record.part == "test"
    )


def test_records_left_out_are_listed(file, tmp_path):
    task = esm(file, data={"long": "leave_out", "max_length": 25})
    num = task.write_rejected(tmp_path)
    assert num == sum(len(record.sequence) > 25 for record in proteins()) > 0
    assert len((tmp_path / "rejected.csv").read_text().splitlines()) == 1 + num
    assert esm(file).write_rejected(tmp_path / "none") == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_model_is_saved_and_read_in_both_formats(file, tmp_path, mode):
    task = esm(file, network={"mode": mode})
    state = trained(task.learner("a"), task.initial_state())
    save_state(tmp_path / "own.safetensors", state)
    task.save_native(state, tmp_path / "native.pt")
    assert task.load_checkpoint(tmp_path / "own.safetensors") == state
    assert task.load_checkpoint(tmp_path / "native.pt") == state


@pytest.mark.parametrize("weights", [None, "published"])
@pytest.mark.parametrize("kind", ["sequence_to_class", "residue_to_class"])
@pytest.mark.parametrize("mode", MODES)
def test_a_saved_model_works_without_this_package(file, tmp_path, mode, kind, weights):
    if weights is not None:
        torch.manual_seed(5)
        weights = str(tmp_path / "esm2")
        EsmForMaskedLM(EsmModelConfig(size="tiny").settings()).save_pretrained(weights)
    network = {"mode": mode, "weights": weights, "lora": Lora(dropout=0.1), "dropout": 0.1}
    task = esm(file, kind, network=network, training={"lr": 1e-2})
    learner = task.learner("a")
    state = trained(learner, task.initial_state(), epochs=3)
    task.save_native(state, tmp_path / "native.pt")
    saved = torch.load(tmp_path / "native.pt", weights_only=True)
    encoder = EsmModel(EsmConfig.from_dict(saved["config"]), add_pooling_layer=False).eval()
    encoder.load_state_dict(saved["encoder"])
    head = torch.nn.Sequential(
        torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(16, 3)
    )
    if kind == "residue_to_class":
        head[3] = torch.nn.Linear(16, 2)
    head.load_state_dict(saved["head"])
    sequences = ["MKKRKAGW", "WFYWDDEEST"]
    with torch.no_grad():
        pooling = None if kind == "residue_to_class" else saved["pooling"]
        theirs = head.eval()(embed(encoder, tokenize(sequences), pooling))
    torch.testing.assert_close(theirs, learner.outputs(sequences), atol=1e-4, rtol=1e-4)
    assert tuple(saved["classes"]) == CLASSES[kind]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"head": {}}, "holds no tensors 'trained', expected a model of this package"),
        ({"trained": 3}, "holds no tensors 'trained', expected a model of this package"),
        ({"trained": {"head.0.weight": 3}}, "holds no tensors 'trained', expected a model"),
        ({"trained": {"head.0.weight": torch.zeros(2, 2)}}, "another model than the plan's"),
        ([1, 2], "holds a list"),
    ],
)
def test_another_model_is_refused(file, tmp_path, content, message):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message) as refused:
        esm(file).load_checkpoint(path)
    assert str(path) in str(refused.value)


def test_a_model_of_another_mode_is_refused(file, tmp_path):
    lora, frozen = esm(file, network={"mode": "lora"}), esm(file)
    lora.save_native(lora.initial_state(), tmp_path / "lora.pt")
    with pytest.raises(ValueError, match=r"lora\.pt: another model than the plan's: .*lora_A"):
        frozen.load_checkpoint(tmp_path / "lora.pt")


def test_predictions_of_the_test_sets_are_written(file, tmp_path):
    hard = [replace(record, name=f"{record.name}h", part="hard") for record in proteins()[:9]]
    write_fasta(file, [*proteins(), *hard])
    task = esm(file, network={"mode": "full"})
    learner = task.learner("a")
    state = trained(learner, task.initial_state())
    assert task.evaluate(state, tmp_path / "samples") == {}
    assert {f.name for f in (tmp_path / "samples").iterdir()} == {
        "predictions_test.csv",
        "predictions_hard.csv",
    }
    for name in ("test", "hard"):
        written = Predictions.read(tmp_path / "samples" / f"predictions_{name}.csv")
        expected = {p.name: p.record.target for p in task.pooled_learner()._proteins.tests[name]}
        said = {n: written.classes[i] for n, i in zip(written.names, written.true, strict=True)}
        assert said == expected
        # Every site holds all test proteins, so what it measures is what is written.
        measured = {k: v for k, v in learner.test().items() if k.startswith(name)}
        for key, mean in written.means(f"{name}_").items():
            assert measured[key] == mean


def test_values_are_correlated(file, tmp_path):
    task = esm(file, "sequence_to_value", network={"mode": "full"})
    state = trained(task.learner("a"), task.initial_state(), epochs=8)
    found = task.evaluate(state, tmp_path)
    tested = task.pooled_learner()._proteins.tests["test"]
    predicted = [float(v[0]) for v in task.predict(state, [p.sequence for p in tested])]
    true = [p.target for p in tested]
    assert found["test_pearson"].value == pytest.approx(stats.pearsonr(true, predicted).statistic)
    assert found["test_spearman"].value == pytest.approx(
        stats.spearmanr(true, predicted).statistic, abs=1e-4
    )
    assert found["test_pearson"].value > 0.8
    assert np.mean(predicted) == pytest.approx(7, abs=1)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_the_model_in_order(file, monkeypatch, kind):
    task = esm(file, kind, network={"mode": "lora"})
    state = trained(task.learner("a"), task.initial_state())
    sequences = [p.sequence for p in task.data.read().proteins]
    whole = list(task.predict(state, sequences))
    monkeypatch.setattr("openfl_flows.learners.esm_task._AT_ONCE", 7)
    for one, other in zip(whole, task.predict(state, sequences), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    for sequence, values in zip(sequences, whole, strict=True):
        num = len(CLASSES[kind]) or 1
        assert values.shape == ((len(sequence), num) if kind == "residue_to_class" else (num,))
        if kind != "sequence_to_value":
            np.testing.assert_allclose(values.sum(-1), 1, rtol=1e-5)


def test_a_model_that_diverged_predicts_nothing(file, tmp_path):
    task = esm(file)
    state = task.initial_state()
    nan = state.with_arrays({"head.0.bias": np.full_like(state["head.0.bias"], np.nan)})
    with pytest.raises(ValueError, match="the model diverged"):
        list(task.predict(nan, ["MK"]))
    with pytest.raises(ValueError, match="the model diverged"):
        task.evaluate(nan, tmp_path)


def test_what_is_best(file):
    for kind in KINDS:
        task = esm(file.with_name(f"{kind}.fasta"), kind)
        metric, mode = task.best_metric
        assert (mode == "min") == (kind == "sequence_to_value")
        assert metric in task.learner("a").validate()


def test_every_size_has_a_task(file):
    for size in SHAPES:
        config = EsmModelConfig(size=size)
        assert config.settings().hidden_size == config.shape.width
    assert build_encoder(EsmModelConfig(size="small"), seed=0).config.num_hidden_layers == 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training", {"batch_size": 0}, "training.batch_size=0, expected at least 1"),
        ("training", {"lr": 0.0}, "training.lr=0.0, expected a finite number above 0"),
        ("training", {"clip_norm": 0.0}, "training.clip_norm=0.0, expected above 0"),
        ("training", {"patience": 3}, "patience"),
        ("network", {"size": "7M"}, "size"),
        ("network", {"lora": {"targets": ["values"]}}, "targets"),
        ("value", {"std": 0.0}, "value.std=0.0, expected above 0"),
    ],
)
def test_a_plan_that_cannot_be_used_is_refused_by_key(file, key, value, message):
    plan = {**vars_of(esm(file)), key: value}
    with pytest.raises(ValueError, match=message) as refused:
        check("model", EsmTask, plan)
    assert "\n" not in str(refused.value)


def test_the_file_of_a_site_is_fasta_that_anyone_can_read(file, tmp_path):
    task = esm(file)
    task.write_site_data("b", tmp_path)
    records = read_fasta(tmp_path / SITE_FILE)
    own = task.learner("b")._proteins
    num = len(own.train) + len(own.val) + len(own.tests["test"])
    assert len({record.name for record in records}) == len(records) == num


def test_predictions_are_csv(file, tmp_path):
    task = esm(file)
    task.evaluate(task.initial_state(), tmp_path)
    with (tmp_path / "predictions_test.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == sum(record.part == "test" for record in proteins())
    for row in rows:
        probabilities = {name: float(row[name]) for name in CLASSES["sequence_to_class"]}
        assert row["predicted"] == max(probabilities, key=probabilities.__getitem__)
