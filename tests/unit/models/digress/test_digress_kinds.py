"""Published numerics on graphs of all kinds: sizes 1 to 9, complete, empty, aromatic, disconnected.

Values of the published implementation; see tests/golden/digress_README.md.
"""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import tests.unit.models.digress.digress_golden as golden
from openfl_flows.models.digress import (
    QM9_PUBLISHED,
    Graphs,
    Guidance,
    Noisy,
    Prediction,
    Regressor,
    regressor_config,
)
from openfl_flows.models.digress.bounds import _step_divergence, estimate_bounds
from openfl_flows.models.digress.features import ExtraFeatures
from openfl_flows.models.digress.graphs import one_hot_atoms, one_hot_bonds, pair_mask
from openfl_flows.models.digress.sampling import _posterior

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@cache
def arrays() -> dict[str, Tensor]:
    with np.load(golden.FOLDER / "digress_kinds.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def clean() -> Graphs:
    return Graphs(arrays()["clean_atoms"].long(), arrays()["clean_bonds"].long())


def noisy() -> Noisy:
    graphs = Graphs(arrays()["atoms"].long(), arrays()["bonds"].long())
    return Noisy(graphs, arrays()["t"].long())


def prediction(prefix: str = "logits") -> Prediction:
    return Prediction(*(arrays()[f"{prefix}_{side}"].log_softmax(-1) for side in "xe"))


def regressor() -> Regressor:
    """As published: padding takes part in the softmax."""
    model = Regressor(regressor_config(golden.CONFIG), QM9_PUBLISHED)
    model.model.load_state_dict(golden.regressor().model.state_dict())
    return model.eval()


def network(model: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Logits from the published features, whose eigenvectors are LAPACK's choice."""
    z, gold = noisy(), arrays()
    x = torch.cat((one_hot_atoms(z.graphs, 4), gold["node_features"]), -1)
    y = torch.cat((gold["graph_features"], z.t[:, None] / 500), -1)
    logits_x, logits_e, _ = model(x, one_hot_bonds(z.graphs, diagonal=True), y, z.graphs.mask)
    return logits_x, logits_e


def test_features():
    nodes, graph = ExtraFeatures(golden.CONFIG)(noisy().graphs)
    gold, mask = arrays(), noisy().graphs.mask
    assert_close(nodes[..., :3], gold["node_features"][..., :3], **CLOSE)
    assert_close(nodes[mask][:, 6:], gold["node_features"][mask][:, 6:], **CLOSE)
    assert_close(graph, gold["graph_features"], rtol=1e-4, atol=1e-4)
    one = graph[:, 5] == 1
    assert one.sum() >= 5
    assert_close(nodes[one][..., 3], gold["node_features"][one][..., 3], **CLOSE)


def test_network_and_loss():
    model = golden.denoiser()
    logits_x, logits_e = network(model.model)
    assert_close(logits_x, arrays()["logits_x"], **CLOSE)
    assert_close(logits_e, arrays()["logits_e"], **CLOSE)
    model.forward = lambda _noisy: (logits_x, logits_e)
    assert_close(model.loss(noisy(), clean()), arrays()["loss"], **CLOSE)


def test_step_of_the_sampler():
    log_z = _posterior(golden.denoiser().process, prediction(), noisy(), noisy().t - 1)
    mask = noisy().graphs.mask
    assert_close(log_z.atoms.exp()[mask], arrays()["step_x"][mask], rtol=1e-3, atol=1e-5)
    pairs = pair_mask(mask)
    assert_close(log_z.bonds.exp()[pairs], arrays()["step_e"][pairs], rtol=1e-3, atol=1e-5)


def test_terms_of_the_likelihood():
    process, gold, x = golden.denoiser().process, arrays(), clean()
    parts = _step_divergence(process, x, noisy(), prediction(), soft=True)
    assert_close(parts.atoms, gold["kl_x"], rtol=1e-3, atol=1e-5)
    assert_close(parts.bonds, gold["kl_e"], rtol=1e-3, atol=1e-5)
    prior = process.prior_divergence(x, edges_twice=True, reverse=True)
    assert_close(prior, gold["prior"], rtol=0, atol=1e-5)
    assert_close(process.log_size[x.num_nodes], gold["log_size"], **CLOSE)
    nll = estimate_bounds(process, x, noisy(), prediction(), prediction("logits_0")).nll
    assert_close(nll.mean(), gold["nll"], rtol=1e-4, atol=0)
    rebuild = nll + gold["log_size"] - prior - 500 * (parts.atoms + parts.bonds)
    assert_close(rebuild, gold["rebuild"], rtol=1e-3, atol=1e-2)


def test_regressor_and_guidance():
    model, gold = regressor(), arrays()
    assert_close(model.predict(noisy()), gold["regressor"], **CLOSE)
    guidance = Guidance(regressor=model, target=torch.tensor([1.0, -7.0]), strength=300.0)
    grad_x, grad_e = guidance.gradients(noisy())
    # Interchangeable nodes tie for minimum and maximum: rounding decides which gets the gradient.
    assert_close(grad_x.sum(1), gold["guide_x"].sum(1), rtol=1e-3, atol=1e-6)
    assert_close(grad_e.sum((1, 2)), gold["guide_e"].sum((1, 2)), rtol=1e-3, atol=1e-6)
    distinct = torch.tensor([1, 3, 5, 6, 13])
    assert_close(grad_x[distinct], gold["guide_x"][distinct], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("numerics", ["published", "corrected"])
def test_a_batch_of_single_atoms_has_a_finite_loss(numerics):
    single = Graphs(clean().atoms[:1], clean().bonds[:1])
    loss = golden.denoiser(numerics).loss(Noisy(single, torch.tensor([3])), single)
    assert loss.isfinite()


def test_an_impossible_class_at_the_last_level_leaves_all_classes_equal():
    # Published keeps nothing in the last step, and noise never makes a bond aromatic.
    graphs = Graphs(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[[0, 4], [4, 0]]]))
    last = Noisy(graphs, torch.tensor([500]))
    even = Prediction(torch.zeros(1, 2, 4).log_softmax(-1), torch.zeros(1, 2, 2, 5).log_softmax(-1))
    log_z = _posterior(golden.denoiser().process, even, last, last.t - 1)
    assert_close(log_z.bonds.exp()[0, 0, 1], torch.full((5,), 0.2))
