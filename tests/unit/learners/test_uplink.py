"""A site's residuals: kept over restarts, the same for a round that is repeated."""

from pathlib import Path

import numpy as np

from openfl_flows.codecs.exchange import frames_digest
from openfl_flows.codecs.recipes import build_compression
from openfl_flows.learners.uplink import Uplink
from openfl_flows.ops.files import map_state, save_state
from openfl_flows.state import State


def model(seed: int) -> State:
    rng = np.random.default_rng(seed)
    return State({name: rng.standard_normal(300).astype("float32") for name in "abcd"})


def uplink(folder: Path, fragments: int = 1) -> Uplink:
    return Uplink(folder, "site-1", build_compression("int2"), fragments)


def sent(link: Uplink, round_: int) -> str:
    return frames_digest(link.encode(model(round_), model(0), round_).frames)


def kept(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_restarted_site_sends_what_it_would_have_sent(tmp_path):
    running, restarted = tmp_path / "running", tmp_path / "restarted"
    link = uplink(running)
    expected = [sent(link, round_) for round_ in range(1, 5)]
    assert [sent(uplink(restarted), round_) for round_ in range(1, 5)] == expected
    assert kept(running) == ["residual-00003.safetensors", "residual-00004.safetensors"]
    # A round may have to be repeated after a failure elsewhere.
    assert sent(uplink(restarted), 4) == expected[3]
    assert sent(uplink(tmp_path / "another"), 4) != expected[3]


def test_each_fragment_has_its_own_residual(tmp_path):
    link = uplink(tmp_path, fragments=2)
    first = [sent(link, round_) for round_ in (1, 2, 3, 4, 5)]
    assert kept(tmp_path) == [f"residual-0000{n}.safetensors" for n in (2, 3, 4, 5)]
    assert [sent(uplink(tmp_path, fragments=2), round_) for round_ in (4, 5)] == first[3:]


def test_a_delivery_is_what_the_aggregator_would_decode(tmp_path):
    save_state(tmp_path / "update.safetensors", model(1))
    update = map_state(tmp_path / "update.safetensors")
    other = uplink(tmp_path / "other").encode(update, model(0), 1)
    delivery = uplink(tmp_path).deliver(update, model(0), 1)
    assert delivery.state == other.arrives
    assert delivery.bytes_up == sum(frame.nbytes for frame in other.frames)
    assert delivery.frames == frames_digest(other.frames)
    exact = Uplink(tmp_path, "site-1", build_compression("identity")).deliver(update, model(0), 1)
    assert (exact.state, exact.frames) == (model(1), "")
