"""The learner of ESM-2: reproducible, restorable, and the same however it cuts its batches."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from openfl_flows.data.proteins.fasta import write_fasta
from openfl_flows.learners.base import Budget, TrainReport
from openfl_flows.learners.esm import EsmLearner
from openfl_flows.learners.esm_task import EsmTask
from openfl_flows.models.esm import embeddings
from openfl_flows.models.esm.config import Lora
from openfl_flows.models.esm.network import encoder_digest
from openfl_flows.models.esm.tokens import tokenize
from openfl_flows.state import State
from tests.tiny_esm import CLASSES, SIGNALS, esm, proteins

MODES = ("frozen", "lora", "full")
KINDS = ("sequence_to_class", "sequence_to_value", "residue_to_class")


def quiet(*_: object) -> None:
    """No progress."""


def trained(learner: EsmLearner, state: State, steps: int) -> State:
    learner.receive(state)
    learner.train(Budget(steps=steps), quiet)
    return learner.send()


def one_site(path, kind="sequence_to_class", **options) -> tuple[EsmLearner, State]:
    task = esm(path / f"{kind}.fasta", kind, sites=("a",), **options)
    return task.learner("a"), task.initial_state()


def loss(learner: EsmLearner) -> float:
    return learner.validate()["loss"].value


@pytest.mark.parametrize("mode", MODES)
def test_a_restored_learner_goes_on_to_the_same_bits(tmp_path, mode):
    network = {"mode": mode, "dropout": 0.2, "lora": Lora(dropout=0.2)}
    options = {"network": network, "training": {"warmup_steps": 5}}
    kept, state = one_site(tmp_path, **options)
    middle = trained(kept, state, 7)
    torch.save(dict(kept.local_state()), tmp_path / "local.pt")
    expected = trained(kept, middle, 8)
    restored, _ = one_site(tmp_path, **options)
    restored.restore(torch.load(tmp_path / "local.pt", weights_only=True))
    torch.manual_seed(99)
    assert trained(restored, middle, 8) == expected
    assert expected != middle
    fresh, _ = one_site(tmp_path, **options)
    assert trained(fresh, middle, 8) != expected


@pytest.mark.parametrize("mode", MODES)
def test_training_leaves_the_processs_random_numbers_alone(tmp_path, mode):
    learner, state = one_site(tmp_path, network={"mode": mode, "dropout": 0.2})
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    trained(learner, state, 1)
    learner.validate()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured(tmp_path, kind):
    records = proteins(kind)
    hard = [replace(record, name=f"{record.name}h", part="hard") for record in records[:6]]
    write_fasta(tmp_path / f"{kind}.fasta", [*records, *hard])
    learner, state = one_site(tmp_path, kind)
    learner.receive(state)
    validated, tested = learner.validate(), learner.test()
    expected = {"loss", "mse", "mae"}
    if kind != "sequence_to_value":
        names = CLASSES[kind]
        expected = {"loss", "accuracy"} | {
            f"{m}_{c}" for m in ("recall", "precision") for c in names
        }
    assert expected <= validated.keys()
    assert {f"test_{name}" for name in expected} | {f"hard_{name}" for name in expected} <= {
        *tested
    }
    val = [record for record in records if record.part == "val"]
    counted = (
        sum(record.mask.count("1") for record in val) if kind == "residue_to_class" else len(val)
    )
    assert validated["loss"].count == counted
    assert learner.train(Budget(steps=1), quiet).metrics["train_loss"].count > 0


def test_an_epoch_is_every_protein_once_and_reported_so(tmp_path):
    learner, state = one_site(tmp_path)
    learner.receive(state)
    seen = []
    report = learner.train(Budget(epochs=2), lambda *step: seen.append(step))
    num = sum(record.part == "train" for record in proteins())
    per_epoch = -(-num // 8)
    assert (report.num_steps, report.num_samples) == (2 * per_epoch, 2 * num)
    assert [step[:2] for step in seen] == [(i + 1, 2 * per_epoch) for i in range(2 * per_epoch)]


def test_values_are_measured_in_their_own_unit(tmp_path):
    learner, state = one_site(tmp_path, "sequence_to_value")
    zeros = {name: np.zeros_like(array) for name, array in state.items() if "3." in name}
    learner.receive(state.with_arrays(zeros))
    # The head says 0, which is the mean of the scale: 7, and the values are 5, 7 and 9.
    means = learner.validate()
    assert means["mse"].value == pytest.approx((4 + 0 + 4) / 3)
    assert means["mae"].value == pytest.approx((2 + 0 + 2) / 3)
    assert means["loss"].value == pytest.approx((1 + 0 + 1) / 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_a_step_is_the_same_however_it_is_cut(tmp_path, mode, kind):
    after, losses = [], []
    for micro_tokens in (1, 60, 10**6):
        learner, state = one_site(
            tmp_path, kind, network={"mode": mode}, training={"micro_tokens": micro_tokens}
        )
        gradients, report = gradients_of(learner, state, 2)
        losses.append(report.metrics["train_loss"].value)
        after.append(gradients)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    for other in after[1:]:
        for one, two in zip(after[0], other, strict=True):
            assert torch.linalg.norm(two - one) < 1e-4 * torch.linalg.norm(one)


def gradients_of(
    learner: EsmLearner, state: State, steps: int
) -> tuple[list[torch.Tensor], TrainReport]:
    """The gradient that each step descends along."""
    found = []

    def note(*_: object) -> None:
        parameters = learner._model.parameters()
        found.append(torch.cat([p.grad.ravel() for p in parameters if p.grad is not None]))

    learner._optimizer.register_step_pre_hook(note)
    learner.receive(state)
    return found, learner.train(Budget(steps=steps), quiet)


def test_a_step_descends_along_the_mean_over_the_batch(tmp_path):
    learner, state = one_site(tmp_path, network={"mode": "full"})
    learner.receive(state)
    batch = learner._batch()
    outputs = learner._model(tokenize([protein.sequence for protein in batch]))
    functional.cross_entropy(outputs, torch.tensor([p.target for p in batch])).backward()
    found = (p.grad.ravel() for p in learner._model.parameters() if p.grad is not None)
    expected = torch.cat(list(found))
    gradients, _ = gradients_of(learner, state, 1)
    torch.testing.assert_close(gradients[0], expected, atol=1e-6, rtol=1e-3)


def test_dropout_is_drawn_anew_at_every_step(tmp_path):
    by_part = {record.part: record for record in proteins()}
    write_fasta(tmp_path / "sequence_to_class.fasta", by_part.values())
    training = {"lr": 1e-12, "weight_decay": 0.0}
    learner, state = one_site(tmp_path, network={"dropout": 0.5}, training=training)
    learner.receive(state)
    losses = []
    learner.train(Budget(steps=5), lambda *step: losses.append(step[2]))
    assert len(set(losses)) == 5


def test_a_sequence_longer_than_a_part_is_a_part(tmp_path):
    learner, state = one_site(tmp_path, training={"micro_tokens": 5})
    assert trained(learner, state, 1) != state


@pytest.mark.parametrize("bucket", [1, 2, 100])
def test_every_protein_comes_once_an_epoch(tmp_path, bucket):
    learner, _ = one_site(tmp_path, training={"bucket": bucket})
    epochs = [np.concatenate(learner._epoch(epoch)).tolist() for epoch in range(3)]
    num = sum(record.part == "train" for record in proteins())
    for epoch in epochs:
        assert Counter(epoch) == Counter(range(num))
    assert epochs[0] != epochs[1] != epochs[2]


def test_buckets_leave_less_padding(tmp_path):
    padding = {}
    for bucket in (1, 3):
        learner, _ = one_site(tmp_path, training={"bucket": bucket, "batch_size": 4})
        lengths = [len(protein.sequence) for protein in learner._proteins.train]
        batches = [
            [lengths[i] for i in batch] for epoch in range(5) for batch in learner._epoch(epoch)
        ]
        padding[bucket] = sum(len(batch) * max(batch) - sum(batch) for batch in batches)
    assert padding[3] < 0.7 * padding[1]


@pytest.mark.parametrize("mode", MODES)
def test_what_travels(tmp_path, mode):
    learner, state = one_site(tmp_path, network={"mode": mode})
    sent = trained(learner, state, 1)
    assert sent.spec == learner.spec == state.spec
    parts = {name.split(".")[0] for name in sent}
    assert parts == ({"head"} if mode == "frozen" else {"head", "encoder"})
    assert not any("contact_head" in name or "pooler" in name for name in sent)
    adapters = {name for name in sent if ".lora_" in name}
    assert adapters == {name for name in sent if mode == "lora" and name.startswith("encoder.")}
    moved = {name for name in sent if not np.array_equal(sent[name], state[name])}
    # B is 0 at first, so the first step moves it and not A.
    assert {name for name in sent if ".lora_A" not in name} - moved <= {
        name for name in sent if "word_embeddings" in name or name.endswith("key.bias")
    }


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_what_does_not_travel_does_not_move(tmp_path, mode):
    learner, state = one_site(tmp_path, network={"mode": mode})
    frozen = {name: p.clone() for name, p in learner._model.named_parameters() if name not in state}
    digest = encoder_digest(learner._model.encoder)
    trained(learner, state, 5)
    assert frozen
    assert any("contact_head" in name for name in frozen)
    for name, tensor in frozen.items():
        assert torch.equal(learner._model.get_parameter(name), tensor), name
    assert (encoder_digest(learner._model.encoder) == digest) == (mode == "lora")


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_stays_near(tmp_path, mode):
    state = {}
    for precision in ("float32", "bfloat16"):
        learner, initial = one_site(
            tmp_path, network={"mode": mode}, training={"precision": precision, "lr": 1e-3}
        )
        state[precision] = trained(learner, initial, 10)
        assert {array.dtype for array in state[precision].values()} == {np.dtype("float32")}
    assert state["bfloat16"] != state["float32"]
    own, other = (flat(state[name]) - flat(initial) for name in ("float32", "bfloat16"))
    assert np.dot(own, other) > 0.8 * np.linalg.norm(own) * np.linalg.norm(other)


def flat(state: State) -> np.ndarray:
    return np.concatenate([array.ravel() for _, array in sorted(state.items())])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_every_kind_is_learned(tmp_path, kind, mode):
    training = {"lr": 1e-2 if mode == "frozen" else 4e-3, "clip_norm": 1.0}
    learner, state = one_site(tmp_path, kind, network={"mode": mode}, training=training)
    learner.receive(state)
    before = loss(learner)
    learner.train(Budget(epochs=12), quiet)
    assert loss(learner) < 0.6 * before


def test_masked_residues_do_not_count(tmp_path):
    records = proteins("residue_to_class")
    flipped = [
        replace(
            record,
            target="".join(
                ("L" if letter == "H" else "H") if known == "0" else letter
                for letter, known in zip(record.target, record.mask, strict=True)
            ),
        )
        for record in records
    ]
    assert [r.target for r in flipped] != [r.target for r in records]
    found = []
    for name, own in (("one", records), ("two", flipped)):
        (tmp_path / name).mkdir()
        write_fasta(tmp_path / name / "residue_to_class.fasta", own)
        learner, state = one_site(tmp_path / name, "residue_to_class", network={"mode": "full"})
        found.append((trained(learner, state, 3), learner.validate(), learner.test()))
    assert found[0] == found[1]


def test_known_residues_do_count(tmp_path):
    records = proteins("residue_to_class")
    swapped = [replace(r, target=r.target.translate(str.maketrans("HL", "LH"))) for r in records]
    found = []
    for name, own in (("one", records), ("two", swapped)):
        (tmp_path / name).mkdir()
        write_fasta(tmp_path / name / "residue_to_class.fasta", own)
        learner, state = one_site(tmp_path / name, "residue_to_class")
        found.append(trained(learner, state, 1))
    assert found[0] != found[1]


def test_a_norm_is_the_largest_there_is(tmp_path):
    norms = {}
    for clip_norm in (None, 0.05):
        learner, state = one_site(
            tmp_path, network={"mode": "full"}, training={"clip_norm": clip_norm}
        )
        norms[clip_norm] = [float(g.norm()) for g in gradients_of(learner, state, 3)[0]]
    assert min(norms[None]) > 0.05
    assert max(norms[0.05]) == pytest.approx(0.05, rel=1e-3)


def test_the_rate_rises_to_what_was_asked_for(tmp_path):
    learner, state = one_site(tmp_path, training={"warmup_steps": 4, "lr": 8e-3})
    learner.receive(state)
    rates = []
    learner._optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    learner.train(Budget(steps=6), quiet)
    assert rates == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, 8e-3, 8e-3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_encoder_is_asked_once(tmp_path, monkeypatch, kind):
    calls = []
    embed = embeddings.embed
    monkeypatch.setattr(embeddings, "embed", lambda *a: calls.append(1) or embed(*a))
    file = tmp_path / "store.sqlite"
    task = esm(tmp_path / "own.fasta", kind, training={"cache": str(file)})
    state = task.initial_state()
    cold = everything(task, state)
    sequences = {protein.sequence for protein in task.data.read().proteins}
    assert len(calls) == len(sequences)
    calls.clear()
    warm = everything(replace(task), state)
    assert not calls
    uncached = everything(replace(task, training=replace(task.training, cache=None)), state)
    assert calls
    assert cold == warm == uncached


def everything(task: EsmTask, state: State) -> list[object]:
    """What both sites do in two rounds."""
    found: list[object] = []
    for site in task.sites:
        learner = task.learner(site)
        found += [trained(learner, state, 4), learner.validate(), trained(learner, state, 4)]
        found += [learner.validate(), learner.test()]
    return found


def test_the_agreed_digest_saves_even_loading_the_encoder(tmp_path, monkeypatch):
    task = esm(tmp_path / "own.fasta", training={"cache": str(tmp_path / "store.sqlite")})
    agreed = replace(task, **task.agreement())
    everything(agreed, task.initial_state())

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the encoder was built")

    monkeypatch.setattr("openfl_flows.learners.esm_task.build_encoder", refuse)
    monkeypatch.setattr("openfl_flows.learners.esm_task._frozen_encoder", refuse)
    everything(replace(agreed), task.initial_state())


def test_outputs_are_in_the_order_of_what_is_asked(tmp_path):
    for kind in KINDS:
        learner, state = one_site(tmp_path, kind, network={"mode": "full"})
        learner.receive(state)
        sequences = [SIGNALS[i % 3] * (i + 1) for i in (2, 0, 4, 1, 3, 0)]
        together = learner.outputs(sequences)
        alone = torch.cat([learner.outputs([sequence]) for sequence in sequences])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
        rows = sum(map(len, sequences)) if kind == "residue_to_class" else len(sequences)
        assert len(together) == rows
