"""Checkpoints: read from what OpenFold3 writes, written so that OpenFold3 takes them up."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from openfold3.core.utils.checkpoint_loading_utils import (
    get_state_dict_from_checkpoint,
    load_checkpoint,
)
from openfold3.entry_points.experiment_runner import InferenceExperimentRunner
from openfold3.entry_points.validator import InferenceExperimentConfig
from openfold3.projects.of3_all_atom.runner import OpenFold3AllAtom
from torch.utils.data import DataLoader

from openfl_flows.models.openfold3.checkpoint import (
    fitted,
    load_weights,
    save_inference,
    save_training,
)
from openfl_flows.models.openfold3.config import CONFIDENCE_HEADS, OpenFold3Config
from openfl_flows.models.openfold3.network import (
    build,
    load_network,
    network_spec,
    network_state,
    outline,
)
from openfl_flows.ops.files import load_state, save_state
from openfl_flows.state import State

ALIAS = "sample_diffusion.diffusion_module.linear_s.weight"
UNIQUE = "diffusion_module.linear_s.weight"
FOURIER = "diffusion_module.diffusion_conditioning.fourier_emb.w"


@pytest.fixture(scope="module")
def module(tiny: OpenFold3Config) -> OpenFold3AllAtom:
    """OpenFold3's module with a moving average unlike its weights."""
    module = build(tiny, seed=0)
    with torch.no_grad():
        for parameter in module.model.parameters():
            parameter += 0.01  # many begin at 0
    module.ema.init_params(module.model)
    constants = dict(module.model.named_buffers(remove_duplicate=False))
    for name in module.ema.params.keys() - constants.keys():
        module.ema.params[name] *= 0.5
    return module


@pytest.fixture(scope="module")
def model(module: OpenFold3AllAtom) -> State:
    return network_state(module.model)


@pytest.fixture(scope="module")
def average(module: OpenFold3AllAtom, model: State) -> State:
    return State({n: module.ema.params[n].numpy() for n in model}, frozen=model.frozen)


@pytest.fixture(scope="module")
def published(module: OpenFold3AllAtom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As OpenFold3 publishes its weights: the moving average, every name with its own memory."""
    path = tmp_path_factory.mktemp("published") / "of3.pt"
    torch.save(module.ema.params, path)
    return path


@pytest.fixture(scope="module")
def lightning(module: OpenFold3AllAtom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As OpenFold3's trainer writes its checkpoints."""
    path = tmp_path_factory.mktemp("lightning") / "last.ckpt"
    trainer = quiet_trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


def quiet_trainer() -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", max_steps=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def without_memory(network: torch.nn.Module) -> int:
    return sum(p.device.type == "meta" for p in network.parameters())


def test_an_outline_is_the_network_without_its_memory(tiny, module, model):
    outlined = outline(tiny)
    assert without_memory(outlined) == len(list(module.model.parameters()))
    assert network_spec(outlined) == network_spec(module.model) == model.spec
    for name, constant in outlined.named_buffers():
        assert np.array_equal(constant.numpy(), model[name])


def test_what_openfold3_publishes_is_read_and_not_copied(tiny, published, average):
    loaded = load_weights(published, tiny)
    assert loaded == average
    assert loaded.spec == average.spec
    assert not any(array.flags.owndata for array in loaded.values())


def test_a_trainers_checkpoint_holds_two_models(tiny, lightning, model, average):
    assert load_weights(lightning, tiny, which="ema") == average
    assert load_weights(lightning, tiny, which="model") == model


def test_a_model_of_another_stage_is_frozen_as_this_stage_wants_it(
    tiny, published, average, tmp_path
):
    confidence = dataclasses.replace(tiny, stage="confidence")
    save_state(tmp_path / "model.safetensors", average)
    own = fitted(Path("model"), load_state(tmp_path / "model.safetensors"), confidence)
    assert own == load_weights(published, confidence)
    trained = {t.name for t in own.spec if t.reduce == "mean"}
    assert trained
    assert all(name.startswith(CONFIDENCE_HEADS) for name in trained)
    assert fitted(Path("model"), own, tiny) == average


def test_constants_of_another_processor_are_taken_over(tiny, model, tmp_path):
    other = model.with_arrays({FOURIER: model[FOURIER] + np.float32(1e-6)})
    save_inference(other, tiny, tmp_path / "other.pt")
    loaded = load_weights(tmp_path / "other.pt", tiny)
    module = build(tiny)
    load_network(module.model, loaded)
    assert network_state(module.model) == other
    assert other != model


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[ALIAS].add_(1), f"{UNIQUE}' and '{ALIAS}' differ"),
        (lambda c: c.pop(ALIAS), f"{ALIAS}' is missing.*second name of '{UNIQUE}"),
        (lambda c: c.pop(UNIQUE), f"{UNIQUE}' is missing"),
        (lambda c: c.update(more=torch.zeros(2)), "'more' is unexpected"),
        (lambda c: c.update({UNIQUE: torch.zeros(3)}), rf"{UNIQUE}' is float32\(3,\)"),
        (lambda c: c.update({UNIQUE: c[UNIQUE].bfloat16()}), f"{UNIQUE}' is torch.bfloat16"),
        (lambda c: c.update({UNIQUE: 3}), f"{UNIQUE}' is int"),
        (lambda c: c[UNIQUE].view(-1)[5].fill_(float("nan")), f"{UNIQUE}' is not finite"),
        (lambda c: c["version_tensor"].fill_(1), r"version_tensor'.* \[1.0, 1.0, 1.0\], expected"),
        (lambda c: c[FOURIER].add_(0.1), f"{FOURIER}' is a constant"),
    ],
)
def test_weights_of_another_model_are_refused(change: Change, message, tiny, published, tmp_path):
    content = torch.load(published, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(ValueError, match=f"changed.pt: .*{message}"):
        load_weights(tmp_path / "changed.pt", tiny)


def test_weights_of_another_size_are_refused(published):
    with pytest.raises(ValueError, match=r"of3.pt: tensor .* expected .* of network.size=small"):
        load_weights(published, OpenFold3Config(size="small"))


class Trap:
    """Runs code when it is unpickled."""

    ran = False

    @staticmethod
    def run() -> None:
        Trap.ran = True

    def __reduce__(self) -> tuple[Any, ...]:
        return Trap.run, ()


def test_files_that_are_no_checkpoint_are_refused(tiny, published, tmp_path):
    whole = published.read_bytes()
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    (tmp_path / "truncated.pt").write_bytes(whole[:middle])
    (tmp_path / "damaged.pt").write_bytes(damaged)
    (tmp_path / "text.pt").write_text("weights")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    torch.save({"state_dict": {}, "ema": {"params": {}}}, tmp_path / "empty.pt")
    torch.save({"state_dict": 1, "ema": 1}, tmp_path / "numbers.pt")
    torch.save({"weights": Trap()}, tmp_path / "trap.pt")
    for name, message in {
        "absent": "no such file", "truncated": "not a readable", "damaged": "is damaged",
        "text": "not a readable", "list": "holds a list", "empty": "holds no weights",
        "numbers": "holds a int", "trap": "could run code",
    }.items():  # fmt: skip
        for which in ("ema", "model"):
            with pytest.raises(ValueError, match=f"{name}.pt: .*{message}"):
                load_weights(tmp_path / f"{name}.pt", tiny, which=which)
    assert not Trap.ran


def expect_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_openfold3s_inference_loads_a_saved_model_strictly(
    tiny, module, average, tmp_path, monkeypatch
):
    path = tmp_path / "average.pt"
    save_inference(average, tiny, path)
    monkeypatch.setenv("OPENFOLD_CACHE", str(tmp_path / "cache"))
    runner = InferenceExperimentRunner(
        InferenceExperimentConfig(
            inference_ckpt_path=path,
            model_update=tiny.update(),
            experiment_settings={"output_dir": tmp_path / "out", "use_msa_server": False},
            pl_trainer_args={"accelerator": "cpu", "devices": 1},
        )
    )
    runner.setup()
    expect_equal(runner.lightning_module.model.state_dict(), module.ema.params)
    # The two names of a tensor are one in the file.
    unique = sum(array.nbytes for array in average.values())
    assert unique < path.stat().st_size < 1.2 * unique


@pytest.mark.parametrize("way", ["by hand", "by Lightning"])
def test_openfold3s_trainer_goes_on_with_a_saved_model(way, tiny, module, model, average, tmp_path):
    path = tmp_path / "train.ckpt"
    save_training(model, average, tiny, path, global_step=40)
    taken = build(tiny)
    if way == "by hand":
        checkpoint = load_checkpoint(path)
        state, ema = get_state_dict_from_checkpoint(checkpoint, init_from_ema_weights=False)
        taken.load_state_dict(state, strict=True)
        taken.ema.load_state_dict(ema)
        assert checkpoint["global_step"] == 40
    else:
        quiet_trainer().fit(taken, DataLoader([]), ckpt_path=path)
    expect_equal(taken.model.state_dict(), module.model.state_dict())
    expect_equal(taken.ema.params, module.ema.params)
    assert taken.ema.decay == 0.999
    taken.ema.update(taken.model)
    assert not torch.equal(taken.ema.params[ALIAS], module.ema.params[ALIAS])
    assert load_weights(path, tiny) == average
    assert load_weights(path, tiny, which="model") == model


def test_without_an_average_one_begins_at_the_model(tiny, model, tmp_path):
    save_training(model, None, tiny, tmp_path / "train.ckpt", global_step=1)
    assert load_weights(tmp_path / "train.ckpt", tiny) == model


def test_a_state_of_another_network_is_not_written(model, tmp_path):
    with pytest.raises(ValueError, match=r"new.pt: not weights of network.size=small: tensor"):
        save_inference(model, OpenFold3Config(size="small"), tmp_path / "new.pt")
    assert not list(tmp_path.iterdir())
