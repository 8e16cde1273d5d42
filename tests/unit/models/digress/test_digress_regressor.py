"""The regressor's loss and errors, with labels missing."""

import pytest
import torch
from torch.testing import assert_close

from openfl_flows.models.digress import Noisy, Regressor
from tests.unit.models.digress.digress_graphs import (
    config,
    generator,
    random_graphs,
    regressor,
    statistics,
)

MISSING = float("nan")


def labelled():
    targets = torch.tensor([2.0, -6.0]) + torch.randn(8, 2, generator=generator())
    targets[1, 0] = targets[2] = MISSING
    return random_graphs(8), targets


def test_loss_is_the_mean_square_over_labels_in_standard_units():
    model, (graphs, targets) = regressor(), labelled()
    noisy = model.corrupt(graphs, generator())
    errors = (model.predict(noisy) - targets) / torch.tensor([1.5, 0.5])
    known = ~targets.isnan()
    assert known.sum() == 13
    assert_close(model.loss(noisy, targets), errors[known].square().mean())


def test_published_loss_is_in_raw_units():
    model, (graphs, targets) = regressor(numerics="published"), labelled()
    noisy = model.corrupt(graphs, generator())
    errors = (model.predict(noisy) - targets)[~targets.isnan()]
    assert_close(model.loss(noisy, targets), errors.square().mean())


def test_micro_batches_add_up_to_the_batch():
    model, (graphs, targets) = regressor(), labelled()
    noisy = model.corrupt(graphs, generator())
    parts = [
        model.loss(Noisy(noisy.graphs.rows(part), noisy.t[part]), targets[part], num_targets=13)
        for part in (slice(0, 3), slice(3, 8))
    ]
    assert_close(sum(parts), model.loss(noisy, targets))


def test_a_batch_without_labels_teaches_nothing():
    model, (graphs, targets) = regressor(), labelled()
    loss = model.loss(model.corrupt(graphs, generator()), targets * MISSING)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_errors_are_missing_where_labels_are():
    model, (graphs, targets) = regressor(), labelled()
    t = torch.full((8,), 5)
    errors = model.absolute_error(graphs, targets, generator(4), t=t)
    again = model.predict(model.process.corrupt(graphs, t, generator(4)))
    assert torch.equal(errors.isnan(), targets.isnan())
    assert_close(errors.nan_to_num(), (again - targets).abs().nan_to_num())


def test_no_time_is_added_to_corrected_outputs():
    model, (graphs, _) = regressor(), labelled()
    with torch.no_grad():
        for parameter in model.model.mlp_out_y.parameters():
            parameter.zero_()
    noisy = model.corrupt(graphs, generator(), lowest_t=5)
    assert_close(model.predict(noisy), torch.tensor([[2.0, -6.0]]).expand(8, 2))


def test_a_regressor_with_features_is_refused():
    with pytest.raises(ValueError, match="extra_features is True"):
        Regressor(config(), statistics())
