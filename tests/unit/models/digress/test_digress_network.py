"""The networks: names, sizes, symmetries, and the fused operations inside."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from openfl_flows.models.digress import (
    QM9_PUBLISHED,
    Denoiser,
    DigressConfig,
    Noisy,
    Regressor,
    load_published,
    regressor_config,
    to_published,
)
from openfl_flows.models.digress.fused import dropout, edge_attention
from tests.unit.models.digress.digress_graphs import (
    config,
    denoiser,
    generator,
    padded,
    permuted,
    random_graphs,
    regressor,
)

FOLDER = Path(__file__).resolve().parents[3] / "golden"
seeds = st.integers(0, 10_000)


def shapes(name):
    rows = (line.split("\t") for line in (FOLDER / name).read_text().splitlines())
    return {key: tuple(int(n) for n in shape.strip("()").split(",") if n) for key, shape in rows}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_published_sizes():
    assert count(Denoiser(DigressConfig.default(), QM9_PUBLISHED)) == 4_611_977
    assert count(Denoiser(DigressConfig.qm9_no_h(), QM9_PUBLISHED)) == 8_163_721
    config = regressor_config(DigressConfig.default())
    assert count(Denoiser(config, QM9_PUBLISHED)) == 4_608_393
    assert count(Regressor(config, QM9_PUBLISHED)) == 4_606_978
    assert count(Denoiser(DigressConfig.small(), QM9_PUBLISHED)) == 834_121


def test_state_dicts_are_the_published_ones():
    model = Denoiser(DigressConfig.default(), QM9_PUBLISHED)
    ours = to_published(model.model.state_dict(), diffusion_steps=500)
    listed = shapes("digress_state_dict_default.txt")
    assert {key: tuple(value.shape) for key, value in ours.items()} == listed
    assert list(model.state_dict()) == [f"model.{key}" for key in model.model.state_dict()]
    model = Regressor(regressor_config(DigressConfig.default()), QM9_PUBLISHED)
    ours = to_published(model.model.state_dict())
    listed = shapes("digress_state_dict_regressor.txt")
    assert {key.removeprefix("model."): tuple(v.shape) for key, v in ours.items()} == listed


def test_no_state_tensor_is_empty():
    for model in (denoiser(), regressor()):
        assert all(value.numel() for value in model.state_dict().values())


def test_checkpoints_travel_both_ways(tmp_path):
    state = denoiser(1).model.state_dict()
    file = tmp_path / "published.ckpt"
    extra = {"val_nll.total": torch.tensor(1.0)}
    published = to_published(state, diffusion_steps=20) | extra
    torch.save({"state_dict": published, "epoch": 3}, file)
    loaded = load_published(file)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_foreign_checkpoints_are_refused():
    with pytest.raises(ValueError, match="no parameters"):
        load_published({"weight": torch.ones(1)})
    with pytest.raises(ValueError, match="not the cosine schedule"):
        load_published({"noise_schedule.betas": torch.ones(501)})


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_padding_changes_no_output(seed):
    graphs = random_graphs(6, seed)
    t = torch.arange(6)
    model, judge = denoiser(max_atoms=12), regressor(max_atoms=12)
    x, e = model(Noisy(graphs, t))
    wide = Noisy(padded(graphs, 3), t)
    wide_x, wide_e = model(wide)
    assert_close(wide_x[:, :9], x, rtol=1e-4, atol=1e-4)
    assert_close(wide_e[:, :9, :9], e, rtol=1e-4, atol=1e-4)
    assert_close(judge.predict(wide), judge.predict(Noisy(graphs, t)), rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_outputs_move_with_the_nodes(seed):
    graphs, order = random_graphs(6, seed), torch.randperm(9, generator=generator(seed))
    t = torch.arange(6)
    model, judge = denoiser(), regressor()
    x, e = model(Noisy(graphs, t))
    moved = Noisy(permuted(graphs, order), t)
    moved_x, moved_e = model(moved)
    assert_close(moved_x, x[:, order], rtol=1e-4, atol=1e-4)
    assert_close(moved_e, e[:, order][:, :, order], rtol=1e-4, atol=1e-4)
    assert_close(judge.predict(moved), judge.predict(Noisy(graphs, t)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("numerics", ["corrected", "published"])
def test_gradients_are_finite_on_the_smallest_graphs(numerics):
    graphs = random_graphs(16, 2, width=9)
    graphs.atoms[:, 1:] = -1
    graphs.bonds.zero_()
    model = denoiser(numerics=numerics)
    model.loss(model.corrupt(graphs, generator()), graphs).backward()
    judge = regressor(numerics=numerics)
    judge.loss(judge.corrupt(graphs, generator()), torch.ones(16, 2)).backward()
    for network in (model, judge):
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        assert grads
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize(("masked", "squared"), [(True, False), (True, True), (False, True)])
def test_fused_attention_equals_the_plain_one(masked, squared):
    torch.manual_seed(0)
    num, width, channels = 2, 4, 3
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.float64)
    keys = (1 - mask)[:, None, :, None] * -1e9 if masked else None
    squares = (mask[:, :, None] * mask[:, None])[..., None] if squared else None
    shapes = [(num, width, channels)] * 3 + [(num, width, width, 2 * channels)]
    shapes += [(num, channels)] * 2
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def plain(q, k, v, packed, film_mul, film_add):
        scores = q[:, :, None] * k[:, None] * packed[..., :channels] + packed[..., channels:]
        scores = scores if squares is None else scores * squares
        weights = (scores if keys is None else scores + keys).softmax(2)
        pairs = film_add[:, None, None] + film_mul[:, None, None] * scores
        return (weights * v[:, None]).sum(2), pairs

    ours, theirs = edge_attention(*inputs, keys, squares), plain(*inputs)
    assert_close(ours, theirs)
    seeds = [torch.randn_like(value) for value in theirs]
    assert_close(
        torch.autograd.grad(ours, inputs, seeds), torch.autograd.grad(theirs, inputs, seeds)
    )


@pytest.mark.parametrize("shape", [(7,), (100, 101)])
def test_dropout_keeps_the_mean_and_drops_its_share(shape):
    torch.manual_seed(0)
    out = torch.stack([dropout(torch.ones(shape), 0.1) for _ in range(200)])
    kept = out[out > 0]
    assert_close(kept, torch.full_like(kept, 1 / 0.9), rtol=1e-4, atol=0)
    assert abs(float((out == 0).float().mean()) - 0.1) < 0.02


def test_dropout_only_acts_in_training():
    model, graphs = denoiser(dropout=0.5), random_graphs(4)
    noisy = model.corrupt(graphs, generator())
    assert torch.equal(model(noisy)[0], model(noisy)[0])
    model.train()
    assert not torch.equal(model(noisy)[0], model(noisy)[0])


def test_bfloat16_autocast_stays_close():
    model, graphs = denoiser(), random_graphs(8)
    noisy = model.corrupt(graphs, generator())
    exact = model.loss(noisy, graphs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.loss(noisy, graphs)
    rough.backward()
    assert_close(rough, exact, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dx": 30, "num_heads": 4}, "dx is 30; expected a multiple of num_heads=4"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"num_layers": 0}, "num_layers is 0; expected at least 1"),
        ({"numerics": "other"}, "numerics is 'other'"),
        ({"transition": "other"}, "transition is 'other'"),
        ({"vocabulary": ("C", "C")}, "expected distinct element symbols"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


def test_a_checkpoint_with_hyper_parameters_of_foreign_classes_loads(tmp_path):
    class Infos:
        def __reduce__(self):
            return (pytest.fail, ("was run",))

    state = denoiser(1).model.state_dict()
    published = to_published(state, diffusion_steps=20)
    hyper = {"dataset_infos": Infos()}
    torch.save({"state_dict": published, "hyper_parameters": hyper}, tmp_path / "published.ckpt")
    loaded = load_published(tmp_path / "published.ckpt", diffusion_steps=20)
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert loaded.keys() == state.keys()
