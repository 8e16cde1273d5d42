"""Models to begin with, and models handed on, in the formats of both worlds."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from openfl_flows.learners.digress_state import Networks
from openfl_flows.learners.toy import ToyTask
from openfl_flows.models.digress import QM9_PUBLISHED, DigressConfig, load_published
from openfl_flows.ops.files import save_state
from openfl_flows.state import State
from tests.tiny import NETWORK, digress

PARTS = ("denoiser", "regressor")
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
TOY = ToyTask(sites=("a",))
DIGRESS = digress(statistics="qm9")
PUBLISHED = digress(
    statistics="qm9",
    network=DigressConfig(
        num_layers=2, dx=20, de=21, dy=22, num_heads=5, ff_x=23, ff_e=24, mlp_x=17, mlp_e=18,
        mlp_y=19,
    ),
)  # fmt: skip


def other_model(task) -> State:
    return dataclasses.replace(task, seed=9).initial_state()


@pytest.mark.parametrize("task", [TOY, DIGRESS])
@pytest.mark.parametrize("own", [True, False])
def test_a_model_that_was_saved_is_loaded_as_it_was(task, own, tmp_path) -> None:
    model = other_model(task)
    file = tmp_path / ("model.safetensors" if own else "model.pt")
    if own:
        save_state(file, model)
    else:
        task.save_native(model, file)
    assert task.load_checkpoint(file) == model != task.initial_state()
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_the_native_file_holds_published_names_and_all_that_a_reader_needs(tmp_path) -> None:
    model = other_model(DIGRESS)
    DIGRESS.save_native(model, tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert DigressConfig(**content["config"]) == NETWORK
    statistics = type(QM9_PUBLISHED)(**content["statistics"])
    networks = Networks(NETWORK, statistics)
    for part in PARTS:
        getattr(networks, part).model.load_state_dict(load_published(content[part]))
    assert networks.state() == model
    golden = load_file(GOLDEN / "digress_denoiser.safetensors")
    assert content["denoiser"].keys() - {"noise_schedule.betas"} >= {
        name for name in (f"model.{key.removeprefix('model.')}" for key in golden)
        if "tf_layers.1" not in name
    }  # fmt: skip


def test_a_published_denoiser_begins_with_a_regressor_from_the_seed(tmp_path) -> None:
    denoiser, regressor = (load_file(GOLDEN / f"digress_{p}.safetensors") for p in PARTS)
    torch.save({"state_dict": denoiser, "epoch": 3}, tmp_path / "denoiser.ckpt")
    torch.save(regressor, tmp_path / "regressor.pt")
    alone = PUBLISHED.load_checkpoint(tmp_path / "denoiser.ckpt")
    both = PUBLISHED.load_checkpoint(
        tmp_path / "denoiser.ckpt", regressor=tmp_path / "regressor.pt"
    )
    initial = PUBLISHED.initial_state()
    assert alone.spec == both.spec == initial.spec
    for state, taken in ((alone, {"denoiser"}), (both, {"denoiser", "regressor"})):
        for name, array in state.items():
            part, _, rest = name.partition(".")
            expected = initial[name]
            if part in taken:
                source = denoiser if part == "denoiser" else regressor
                expected = source.get(rest, source.get(rest.removeprefix("model."))).numpy()
            np.testing.assert_array_equal(array, expected, err_msg=name)


@pytest.mark.parametrize("task", [TOY, DIGRESS])
@pytest.mark.parametrize("own", [True, False])
def test_another_model_is_refused_by_file_and_tensor(task, own, tmp_path) -> None:
    change = {"features": 3} if task is TOY else {"network": dataclasses.replace(NETWORK, dx=32)}
    other = dataclasses.replace(task, **change)
    file = tmp_path / ("model.safetensors" if own else "model.pt")
    if own:
        save_state(file, other.initial_state())
    else:
        other.save_native(other.initial_state(), file)
    with pytest.raises(ValueError, match=rf"^{file}: .* tensor '[\w.]+' is float32\(.*, expected"):
        task.load_checkpoint(file)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_model_made_with_other_statistics_is_refused(name, tmp_path) -> None:
    other, file = digress(), tmp_path / name
    if name == "model.pt":
        other.save_native(other.initial_state(), file)
    else:
        save_state(file, other.initial_state())
    with pytest.raises(ValueError, match=rf"{file}: was trained with node_counts=\[.*, but model"):
        DIGRESS.load_checkpoint(file)


class Harmful:
    """What a pickle would run as soon as it is read."""

    def __reduce__(self):
        return (print, ("read",))


@pytest.mark.parametrize("task", [TOY, DIGRESS])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file, expected a model"),
        (b"", "not readable by torch"),
        (b"not a model", "not a file of tensors and plain values alone"),
        (Harmful(), "not a file of tensors and plain values alone"),
        ([1, 2], "holds a list, expected a mapping of tensors"),
        ({"epoch": 3}, "(no published denoiser|another model)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_model_is_refused(task, content, message, tmp_path, capfd) -> None:
    file = tmp_path / "model.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(ValueError, match=f"^{file}: {message}") as refused:
        task.load_checkpoint(file)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model.mlp_in_X.0.bias": 3}, "no published denoiser: no parameters mlp_in_"),
        ({"noise_schedule.betas": torch.rand(21)}, "not the cosine schedule of 20 steps"),
    ],
)
def test_what_is_no_published_model_is_refused(content, message, tmp_path) -> None:
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=rf"model.ckpt: .*{message}"):
        DIGRESS.load_checkpoint(tmp_path / "model.ckpt")


def test_a_model_of_another_diffusion_is_refused(tmp_path) -> None:
    other = digress(statistics="qm9", network=dataclasses.replace(NETWORK, diffusion_steps=30))
    other.save_native(other.initial_state(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="noise_schedule.betas has 30 steps; expected 20"):
        DIGRESS.load_checkpoint(tmp_path / "model.pt")
