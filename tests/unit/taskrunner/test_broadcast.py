"""The way down: who has the model gets nothing, who had the one before a step, others all of it."""

from pathlib import Path

import numpy as np
import pytest

from openfl_flows.codecs.exchange import AGGREGATOR, encode
from openfl_flows.codecs.frame import HEADER_BYTES, read_header, write_frame
from openfl_flows.codecs.recipes import build_compression
from openfl_flows.joins.streaming import fragment, synchronised
from openfl_flows.state import State
from openfl_flows.taskrunner.broadcast import HELD, Broadcast
from openfl_flows.taskrunner.held import HeldModel

INT4 = build_compression("int4")


def model(seed: int) -> State:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(200).astype("float32") for name in "abc"}
    frozen = {"z": np.arange(4, dtype="float32")}
    return State({**arrays, "steps": np.array([seed]), **frozen}, frozen=("z",))


def step(before: State, seed: int, round_: int, fragments: int) -> tuple[State, State]:
    """The model that a round makes, and its frames."""
    due = fragment(model(seed), synchronised(before.spec, fragments, round_))
    sent = encode(due, before, INT4, sender=AGGREGATOR, round_=round_)
    frames = State({f"{n:04d}": frame for n, frame in enumerate(sent.frames)})
    return before.with_arrays(sent.arrives), frames


def broadcast(
    made: State, round_: int, frames: State, fragments: int = 1, before: State | None = None
) -> Broadcast:
    return Broadcast(
        made,
        round_,
        codec=INT4.codec,
        fragments=fragments,
        before="" if before is None else before.digest(),
        step=frames,
    )


def site(folder: Path, fragments: int = 1) -> HeldModel:
    file = folder / "global.safetensors"
    return HeldModel(file, model(0), codec=INT4.codec, fragments=fragments)


def ask(held: HeldModel, served: Broadcast) -> dict:
    return {name: served.frame(name, held.model.digest()) for name in held.names}


def codecs(frames: dict) -> list[str]:
    return [read_header(frame).codec for frame in frames.values()]


@pytest.mark.parametrize("fragments", [1, 2])
def test_a_site_follows_round_by_round(tmp_path, fragments):
    now, held = model(0), site(tmp_path, fragments)
    served = broadcast(now, 0, State({}), fragments)
    assert set(codecs(ask(held, served))) == {HELD}
    assert held.take(ask(held, served), 1) == now
    for round_ in range(1, 5):
        before = now
        now, frames = step(now, round_, round_, fragments)
        served = broadcast(now, round_, frames, fragments, before)
        found = ask(held, served)
        assert codecs(found).count("int4") == 1
        assert held.take(found, round_ + 1) == now
        # Asked again, as for its next task, and after a restart: nothing travels.
        assert {frame.nbytes for frame in ask(held, served).values()} == {HEADER_BYTES}
        held = site(tmp_path, fragments)
        assert held.model == now


def test_a_site_that_was_away_gets_all_of_it(tmp_path):
    held = site(tmp_path)
    one, frames = step(model(0), 1, 1, 1)
    two, frames = step(one, 2, 2, 1)
    found = ask(held, broadcast(two, 2, frames, before=one))
    assert set(codecs(found)) == {"identity"}
    assert held.take(found, 3) == two
    # The aggregator may have lost the frames, or the site its model.
    (tmp_path / "global.safetensors").write_bytes(b"half")
    held = site(tmp_path)
    assert held.model == model(0)
    assert held.take(ask(held, broadcast(two, 2, State({}))), 3) == two


def test_as_it_is_too_only_what_moved_travels(tmp_path):
    exact = build_compression("identity").codec
    held = HeldModel(tmp_path / "global.safetensors", model(0), codec=exact, fragments=2)
    due = fragment(model(1), synchronised(model(0).spec, 2, 1))
    now = model(0).with_arrays(due)
    served = Broadcast(now, 1, codec=exact, fragments=2, before=model(0).digest())
    found = ask(held, served)
    assert {name for name in found if found[name].nbytes > HEADER_BYTES} == {
        name for name in found if name.startswith("fragment-0/")
    }
    assert held.take(found, 2) == now


def test_frames_of_another_round_model_or_sender_are_refused(tmp_path):
    held = site(tmp_path)
    made, frames = step(model(0), 1, 1, 1)
    served = broadcast(made, 1, frames, before=model(0))
    good = ask(held, served)
    with pytest.raises(ValueError, match=r"model of 'aggregator' refused: .* is of round 1, expec"):
        held.take(good, 9)
    for changes, reason in (
        ({"sender": "site-2"}, "was sent by 'site-2'"),
        ({"reference": "a" * 64}, "is relative to another model"),
        ({"result": "b" * 64}, "makes another model|make the model"),
    ):
        bad = {name: reframed(frame, **changes) for name, frame in good.items()}
        with pytest.raises(ValueError, match=f"model of 'aggregator' refused: .*({reason})"):
            held.take(bad, 2)
    assert held.model == model(0)
    assert held.take(good, 2) == made


def reframed(frame: np.ndarray, **changes) -> np.ndarray:
    from dataclasses import replace

    import zstandard

    header, payload = read_header(frame), frame[HEADER_BYTES:]
    if header.codec == "int4" and int.from_bytes(frame[10:12].tobytes(), "little"):
        raw = zstandard.ZstdDecompressor().decompress(payload.tobytes())
        payload = np.frombuffer(raw, np.uint8)
    return write_frame(replace(header, **changes), payload, compress=False)


def test_what_is_expected_back_is_what_is_due():
    made, frames = step(model(0), 1, 1, 2)
    served = broadcast(made, 1, frames, 2)
    names = synchronised(made.spec, 2, 2)
    passage = served.expected("site-1")
    assert [tensor.name for tensor in passage.spec] == list(names)
    assert (passage.round, passage.reference) == (2, made.digest())
    assert all(name.startswith("fragment-1/") for name in served.due)
