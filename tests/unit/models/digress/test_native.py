"""The native kernels compute what the plain layers do, forward and backward."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from openfl_flows.models.digress import QM9_PUBLISHED, Denoiser, DigressConfig, Noisy, Regressor
from openfl_flows.models.digress.config import regressor_config
from openfl_flows.models.digress.native.build import kernels
from openfl_flows.models.precision import in_precision

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

ODD = DigressConfig(
    num_layers=2, dx=72, de=20, dy=12, num_heads=4, ff_x=40, ff_e=36, ff_y=24,
    mlp_x=16, mlp_e=16, mlp_y=16, dropout=0.0,
)  # fmt: skip
"""Widths that fill no vector register and no block of channels."""

SIZES = (1, 2, 3, 5, 7, 8, 9, 9)


def _noisy(denoiser: Denoiser, copies: int = 3) -> tuple[Noisy, Noisy]:
    """Graphs of all sizes at level 0, and noised."""
    sizes = torch.tensor(SIZES * copies)
    generator = torch.Generator().manual_seed(1)
    graphs = denoiser.sample(
        len(sizes), generator, num_nodes=sizes, steps=2, batch_size=len(sizes)
    ).graphs
    clean = Noisy(graphs, torch.zeros_like(sizes))
    return clean, denoiser.corrupt(graphs, generator)


def _denoiser(config: DigressConfig) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(config, QM9_PUBLISHED).eval()


def _run(denoiser: Denoiser, precision: str = "float32") -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Logits, and the gradient of the loss."""
    clean, noisy = _noisy(denoiser)
    denoiser.zero_grad()
    with in_precision(precision, "cpu"):  # type: ignore[arg-type]
        logits = denoiser(noisy)
        denoiser.loss(noisy, clean.graphs).backward()
    return logits, _gradient(denoiser)


def _gradient(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


@pytest.mark.parametrize(
    "config", [replace(DigressConfig.default(), dropout=0.0), DigressConfig.small(), ODD]
)
def test_same_logits_and_gradients(config: DigressConfig) -> None:
    denoiser = _denoiser(config)
    plain, plain_gradient = _run(denoiser)
    denoiser.model.use_native_kernels()
    native, native_gradient = _run(denoiser)
    for mine, theirs in zip(native, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-5)
    assert _distance(native_gradient, plain_gradient) < 1e-3


@pytest.mark.parametrize("config", [replace(DigressConfig.default(), dropout=0.0), ODD])
def test_bfloat16_is_as_near_to_float32_as_autocast(config: DigressConfig) -> None:
    denoiser = _denoiser(config)
    exact, exact_gradient = _run(denoiser)
    plain, plain_gradient = _run(denoiser, "bfloat16")
    denoiser.model.use_native_kernels()
    native, native_gradient = _run(denoiser, "bfloat16")
    for mine, theirs, truth in zip(native, plain, exact, strict=True):
        assert _distance(mine, truth) < 1.5 * _distance(theirs, truth)
    assert _distance(native_gradient, exact_gradient) < 0.05
    assert _distance(plain_gradient, exact_gradient) < 0.05


def test_gradient_of_the_input_graph() -> None:
    """What guidance differentiates: the regressor by its one-hot inputs."""
    torch.manual_seed(0)
    regressor = Regressor(regressor_config(ODD), QM9_PUBLISHED).eval()
    _, noisy = _noisy(_denoiser(ODD))
    found = []
    for native in (False, True):
        if native:
            regressor.model.use_native_kernels()
        # Atoms that are alike would tie for the minima and maxima of the pools.
        generator = torch.Generator().manual_seed(2)
        inputs = [
            (v + 0.1 * torch.rand(v.shape, generator=generator)).requires_grad_()
            for v in regressor.one_hot(noisy.graphs)
        ]
        regressor(*inputs, noisy.t, noisy.graphs.mask).square().sum().backward()
        found.append(inputs)
    for plain, native in zip(*found, strict=True):
        assert _distance(native.grad, plain.grad) < 1e-4  # type: ignore[arg-type]


def test_dropout_is_the_same_forward_and_backward() -> None:
    """The loss changes along its gradient as the gradient says, if the masks are drawn again."""
    denoiser = _denoiser(replace(ODD, dropout=0.3)).train()
    denoiser.model.use_native_kernels()
    clean, noisy = _noisy(denoiser)

    def loss() -> Tensor:
        torch.manual_seed(5)
        return denoiser.loss(noisy, clean.graphs)

    loss().backward()
    parameters = [p for p in denoiser.parameters() if p.grad is not None]
    gradient = _gradient(denoiser)
    step = 1e-2 / float(gradient.norm())
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter in parameters:
                parameter += sign * step * parameter.grad
            values.append(float(loss()))
    slope = (values[0] - values[1]) / (2 * step)
    assert slope == pytest.approx(float(gradient.square().sum()), rel=1e-2)


def test_dropout_keeps_the_mean_and_draws_every_time_anew() -> None:
    ones = torch.ones(400, 512)
    first, second = (kernels().relu_dropout(ones, 0.1, seed) for seed in (3, 3 << 33))
    for kept in (first, second):
        assert (kept == 0).float().mean().item() == pytest.approx(0.1, abs=0.003)
        assert kept.mean().item() == pytest.approx(1.0, abs=0.003)
        assert (kept[1:] == kept[:-1]).float().mean().item() == pytest.approx(0.82, abs=0.005)
    assert (first == second).float().mean().item() == pytest.approx(0.82, abs=0.005)


def test_without_dropout_training_draws_no_random_number() -> None:
    denoiser = _denoiser(ODD).train()
    denoiser.model.use_native_kernels()
    clean, noisy = _noisy(denoiser)
    before = torch.get_rng_state()
    denoiser.loss(noisy, clean.graphs).backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_published_numerics_are_refused() -> None:
    denoiser = _denoiser(replace(ODD, numerics="published"))
    with pytest.raises(ValueError, match="expected numerics=corrected"):
        denoiser.model.use_native_kernels()


BUILD = "from openfl_flows.models.digress.native.build import kernels; kernels().relu_dropout"


def _build(**environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        (sys.executable, "-c", BUILD),
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_build_at_once_and_a_killed_one_leaves_nothing_in_the_way(
    tmp_path: "os.PathLike[str]",
) -> None:
    home = str(tmp_path)
    builds = [_build(XDG_CACHE_HOME=home) for _ in range(2)]
    assert [build.wait() for build in builds] == [0, 0]
    folder = os.path.join(home, "openfl_flows")
    assert [name.endswith(".so") for name in os.listdir(folder)] == [True]


def test_no_compiler_is_one_clear_error(tmp_path: "os.PathLike[str]") -> None:
    build = _build(XDG_CACHE_HOME=str(tmp_path), CXX="no-such-compiler")
    message = build.communicate()[1]
    assert build.returncode != 0
    assert "there is no no-such-compiler on PATH" in message


def test_a_compiler_that_fails_is_one_clear_error(tmp_path: "os.PathLike[str]") -> None:
    build = _build(XDG_CACHE_HOME=str(tmp_path), CXX="false")
    message = build.communicate()[1]
    assert "false does not compile" in message
    assert "say kernels=torch" in message
