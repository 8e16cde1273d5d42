"""The DiGress learner keeps the contract of learners."""

import copy
import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch

from openfl_flows.learners.base import Budget
from openfl_flows.learners.digress import DigressTraining
from openfl_flows.learners.digress_task import DigressTask
from openfl_flows.models.digress import QM9_PUBLISHED, DigressConfig
from openfl_flows.state import State
from tests.tiny import NETWORK, digress

TASK = digress()


def silent(*_: object) -> None:
    pass


def trained(task: DigressTask, steps: int) -> State:
    learner = task.learner("site-1")
    learner.receive(task.initial_state())
    learner.train(Budget(steps=steps), silent)
    return learner.send()


def test_receive_then_send_gives_the_same_state_and_shares_no_memory() -> None:
    state = TASK.initial_state()
    learner = TASK.learner("site-1")
    learner.receive(state)
    assert learner.send() == state
    assert learner.spec == state.spec
    learner.train(Budget(steps=1), silent)
    assert learner.send() != state
    assert state == TASK.initial_state()


def test_both_networks_train_and_statistics_stay() -> None:
    before, after = TASK.initial_state(), trained(TASK, 2)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert any(name.startswith("denoiser.") for name in moved)
    assert any(name.startswith("regressor.") for name in moved)
    assert not any(name.startswith("statistics.") for name in moved)
    assert set(after.frozen) == {name for name in after if name.startswith("statistics.")}


def test_a_restored_learner_goes_on_bit_for_bit() -> None:
    whole = trained(TASK, 7)
    first = TASK.learner("site-1")
    first.receive(TASK.initial_state())
    first.train(Budget(steps=3), silent)
    second = TASK.learner("site-1")
    second.restore(first.local_state())
    second.receive(first.send())
    second.train(Budget(steps=4), silent)
    assert second.send() == whole


def test_training_leaves_the_callers_random_state_alone() -> None:
    learner = TASK.learner("site-1")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    learner.train(Budget(steps=1), silent)
    assert torch.equal(torch.rand(4), expected)


def test_sites_draw_other_noise_and_seeds_other_weights() -> None:
    assert TASK.initial_state() != dataclasses.replace(TASK, seed=1).initial_state()
    one, other = (TASK.learner(site) for site in TASK.sites)
    assert one._stream("denoiser") != other._stream("denoiser")


def test_micro_batches_add_up_to_the_batch() -> None:
    still = dataclasses.replace(NETWORK, dropout=0.0)
    whole, parts = (
        digress(network=still, training=DigressTraining(batch_size=32, micro_batch=size, lr=1e-3))
        for size in (32, 5)
    )
    a, b = trained(whole, 1), trained(parts, 1)
    # AdamW's first step is the sign of the gradient, so tiny gradients may differ by two steps.
    close = [np.isclose(a[name], b[name], atol=1e-5).mean() for name in a]
    assert np.average(close, weights=[a[name].size for name in a]) > 0.99


def test_every_sample_is_seen_once_in_an_epoch() -> None:
    learner = TASK.learner("site-1")
    seen = []
    learner._train_denoiser = lambda batch: seen.extend(batch) or torch.zeros(())  # type: ignore
    report = learner.train(Budget(epochs=2), silent)
    num = len(learner._all)
    assert report.num_samples == 2 * num
    assert sorted(seen[:num]) == sorted(seen[num:]) == list(range(num))
    assert seen[:num] != seen[num:]


def test_training_improves_both_bounds_and_validation_repeats() -> None:
    learner = digress(data=TASK.data, training=DigressTraining(batch_size=32, lr=3e-3)).learner(
        "site-1"
    )
    learner.receive(TASK.initial_state())
    before = learner.validate()
    assert learner.validate() == before
    learner.train(Budget(steps=60), silent)
    after = learner.validate()
    for name in ("nll", "elbo"):
        assert after[name].value < 0.8 * before[name].value
    assert after["nll"].count == after["elbo"].count == len(learner._molecules.val)
    tested = learner.test()
    assert tested["test_nll"].count == 10 * len(learner._molecules.test)
    assert all(math.isfinite(mean.value) for mean in tested.values())


def test_validation_can_be_limited() -> None:
    training = DigressTraining(batch_size=32, validation_limit=5, validation_passes=3)
    assert digress(training=training).learner("site-1").validate()["nll"].count == 15


def test_a_limited_validation_is_spread_over_a_table_that_may_be_sorted() -> None:
    training = dataclasses.replace(TASK.training, validation_limit=5)
    limited, spread = (task.learner("site-1") for task in (digress(training=training), TASK))
    val = spread._molecules.val
    assert len(val) == 10
    spread._molecules = spread._molecules._replace(val=val.subset([0, 2, 4, 6, 8]))
    for learner in (limited, spread):
        learner.receive(TASK.initial_state())
    assert limited.validate()["nll"] == spread.validate()["nll"]


def test_the_pooled_learner_has_all_sites_samples() -> None:
    pooled = TASK.pooled_learner()
    assert len(pooled._all) == sum(len(TASK.learner(site)._all) for site in TASK.sites)


def test_statistics_do_not_depend_on_how_molecules_are_dealt() -> None:
    # Only the split into train, validation and test differs, so shares agree roughly.
    one, three = digress(("a",)), digress(("a", "b", "c"))
    assert one.graph_statistics.atom_marginals == pytest.approx(
        three.graph_statistics.atom_marginals, abs=0.03
    )


def test_a_model_made_with_other_statistics_is_refused() -> None:
    other = digress(statistics="qm9")
    assert other.graph_statistics == QM9_PUBLISHED
    with pytest.raises(ValueError, match="statistics"):
        TASK.learner("site-1").receive(other.initial_state())


def test_another_model_is_refused_by_tensor() -> None:
    wide = digress(network=dataclasses.replace(NETWORK, dx=32))
    with pytest.raises(ValueError, match=r"tensor 'denoiser\.model\..*expected"):
        TASK.learner("site-1").receive(wide.initial_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "training.batch_size=0"),
        ({"micro_batch": -1}, "training.micro_batch=-1"),
        ({"lr": 0.0}, "training.lr=0.0"),
        ({"proximal": -1.0}, "training.proximal=-1.0"),
        ({"kernels": "native", "device": "cuda"}, "training.kernels=native on device=cuda"),
    ],
)
def test_impossible_training_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigressTraining(**options)


def test_without_a_regressor_only_the_denoiser_trains() -> None:
    task = digress(training=DigressTraining(batch_size=32, regressor=False))
    before, after = task.initial_state(), trained(task, 2)
    for name in before:
        if name.startswith("regressor."):
            assert np.array_equal(before[name], after[name])
    assert "mae" not in task.learner("site-1").validate()


def test_the_small_preset_has_the_size_it_says() -> None:
    task = digress(network=DigressConfig.small())
    sizes = {
        part: sum(a.size for n, a in task.initial_state().items() if n.startswith(f"{part}.model."))
        for part in ("denoiser", "regressor")
    }
    assert 0.7e6 < sizes["denoiser"] < 0.9e6
    assert 0.7e6 < sizes["regressor"] < 0.9e6


def test_training_in_bfloat16_is_nearly_that_in_float32_and_repeats_bit_for_bit() -> None:
    lowered = digress(training=dataclasses.replace(TASK.training, precision="bfloat16"))
    losses = []
    for task in (TASK, lowered):
        learner = task.learner("site-1")
        learner.receive(TASK.initial_state())
        losses.append(learner.train(Budget(steps=20), silent).metrics)
    for name, exact in losses[0].items():
        assert losses[1][name].value == pytest.approx(exact.value, rel=0.02)
        assert losses[1][name] != exact
    state = trained(lowered, 3)
    assert state.spec == TASK.initial_state().spec
    assert state == trained(lowered, 3)
    assert state != trained(TASK, 3)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_native_kernels_train_alike_and_repeat_bit_for_bit(precision) -> None:
    training = dataclasses.replace(TASK.training, kernels="native", precision=precision)
    native = digress(training=training)
    losses = []
    for task in (TASK, native):
        learner = task.learner("site-1")
        learner.receive(TASK.initial_state())
        losses.append(learner.train(Budget(steps=40), silent).metrics)
        losses[-1] |= learner.validate()
    for name, plain in losses[0].items():
        # Other dropout masks, other rounding.
        assert losses[1][name].value == pytest.approx(plain.value, rel=0.1)
    whole = trained(native, 4)
    first, second = native.learner("site-1"), native.learner("site-1")
    first.receive(TASK.initial_state())
    first.train(Budget(steps=2), silent)
    second.restore(first.local_state())
    second.receive(first.send())
    second.train(Budget(steps=2), silent)
    assert second.send() == whole


def test_native_kernels_do_not_compute_published_numerics() -> None:
    network = dataclasses.replace(NETWORK, numerics="published")
    with pytest.raises(ValueError, match="training.kernels=native, expected torch"):
        digress(network=network, training=DigressTraining(kernels="native"))


def proximal(mu: float) -> DigressTask:
    return dataclasses.replace(TASK, training=dataclasses.replace(TASK.training, proximal=mu))


@pytest.mark.parametrize("name", ["denoiser", "regressor"])
def test_the_proximal_term_has_the_gradient_of_the_whole_loss(name) -> None:
    """Autograd of ``loss + mu/2 |theta - received|^2`` against what the learner descends by."""
    learner = proximal(0.7).learner("site-1")
    learner.receive(TASK.initial_state())
    parameters = list(getattr(learner._networks, name).parameters())
    received = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter += 0.01 * (i + 1)
    loss = torch.stack([(parameter**3).sum() for parameter in parameters]).sum()
    distances = [((p - r) ** 2).sum() for p, r in zip(parameters, received, strict=True)]
    expected = torch.autograd.grad(loss + 0.7 / 2 * torch.stack(distances).sum(), parameters)
    torch.stack([(parameter**3).sum() for parameter in parameters]).sum().backward()
    learner._pull_back(name)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_without_a_proximal_term_nothing_changes_and_with_one_a_site_stays_nearer() -> None:
    def distance(state: State) -> float:
        start = TASK.initial_state()
        return math.sqrt(sum(float(((state[n] - start[n]) ** 2).sum()) for n in start))

    assert trained(proximal(0.0), 5) == trained(TASK, 5)
    # The first step starts where the received model is, so there the term is zero.
    assert trained(proximal(100.0), 1) == trained(TASK, 1)
    assert distance(trained(proximal(100.0), 12)) < 0.8 * distance(trained(TASK, 12))


def test_a_restored_site_is_held_near_what_it_receives() -> None:
    task = proximal(1.0)
    whole = task.learner("site-1")
    whole.receive(task.initial_state())
    whole.train(Budget(steps=2), silent)
    restored = task.learner("site-1")
    restored.restore(copy.deepcopy(whole.local_state()))
    model = whole.send()
    for learner in (whole, restored):
        learner.receive(model)
        learner.train(Budget(steps=3), silent)
    assert restored.send() == whole.send()
