"""Lightning checkpoints give their tensors, and nothing that lies beside them runs."""

import enum
import pickle
import sys
from collections import OrderedDict, defaultdict
from types import ModuleType

import pytest
import torch
from omegaconf import OmegaConf

from openfl_flows.models.lightning import load_lightning

TENSORS = OrderedDict(
    {
        "model.weight": torch.arange(6.0).view(2, 3).T,
        "model.half": torch.ones(2, dtype=torch.bfloat16),
        "model.empty": torch.zeros(0, 4),
        "metric.count": torch.tensor(3),
    }
)


class Kind(enum.Enum):
    """An object that is made by calling its class."""

    ATOM = 1


class Harmful:
    """Writes as soon as it is unpickled by ordinary means."""

    def __reduce__(self):
        return (print, ("read",))


class Registry(dict):
    """A mapping of a class of its own."""


@pytest.fixture
def checkpoint(monkeypatch, tmp_path):
    """A checkpoint whose hyper-parameters are objects of code that is gone when it is read."""
    module = ModuleType("published_code")
    for cls in (Kind, Harmful, Registry):
        monkeypatch.setattr(cls, "__module__", module.__name__)
        setattr(module, cls.__name__, cls)
    registry = Registry(atom=Kind.ATOM)
    registry.order = [Kind.ATOM, registry]
    hyper = {
        "cfg": OmegaConf.create({"model": {"n_layers": 9, "dims": [256, 64]}}),
        "dataset_infos": [registry, {Kind.ATOM}, defaultdict(list, a=[1]), torch.nn.ReLU()],
        "harmful": Harmful(),
    }
    path = tmp_path / "published.ckpt"
    with monkeypatch.context() as there:
        there.setitem(sys.modules, module.__name__, module)
        torch.save({"epoch": 3, "state_dict": TENSORS, "hyper_parameters": hyper}, path)
    return path


def test_tensors_are_read_and_nothing_is_run(checkpoint, capfd):
    with pytest.raises(pickle.UnpicklingError):
        torch.load(checkpoint, weights_only=True)
    loaded = load_lightning(checkpoint)
    assert loaded.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert loaded[name].dtype == expected.dtype
        torch.testing.assert_close(loaded[name], expected, rtol=0, atol=0)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("content", [Harmful(), [1], {"epoch": 3}, {"state_dict": Harmful()}])
def test_other_files_are_refused(content, tmp_path, capfd):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt: holds no mapping 'state_dict' of tensors"):
        load_lightning(tmp_path / "model.pt")
    assert capfd.readouterr().out == ""
