"""A model as frames and back: what arrives is what the sender believes, and no more is lost."""

import numpy as np
import pytest

from openfl_flows.codecs.exchange import (
    AGGREGATOR,
    Passage,
    decode_bucket,
    encode,
    exact_bytes,
    frames_digest,
)
from openfl_flows.codecs.frame import read_header
from openfl_flows.codecs.recipes import COMPRESSIONS, build_compression
from openfl_flows.joins.streaming import fragment, split
from openfl_flows.state import State, pack, unpack

COUNT = np.array([3, 4], np.int64)


def model(seed: int, dtype: str = "float32") -> State:
    rng = np.random.default_rng(seed)
    return State(
        {
            "weight": rng.standard_normal((37, 11)).astype(dtype),
            "bias": rng.standard_normal(11).astype("float32"),
            "count": COUNT * seed,
            "embedding": np.ones(5, "float32"),
        },
        frozen=("embedding",),
    )


def trained(before: State, seed: int = 7) -> State:
    rng = np.random.default_rng(seed)

    def step(array: np.ndarray) -> np.ndarray:
        return (array + 0.01 * rng.standard_normal(array.shape)).astype(array.dtype)

    return before.with_arrays(
        {name: step(before[name]) for name in ("weight", "bias")} | {"count": COUNT * 2}
    )


def received(frames, before: State, spec, codec, *, sender: str = "site-1", round_: int = 1):
    passage = Passage(
        sender=sender, round=round_, spec=spec, reference=before.digest(), codec=codec
    )
    own = pack(State({t.name: before[t.name] for t in spec}))
    return unpack([decode_bucket(passage, n, f, own[n]) for n, f in enumerate(frames)], spec)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", COMPRESSIONS)
def test_what_arrives_is_what_the_sender_believes(name, dtype):
    compression, before = build_compression(name), model(1, dtype)
    after = trained(before)
    sent = encode(after, before, compression, sender="site-1", round_=1)
    spec = after.travelling().spec
    arrived = received(sent.frames, before, spec, compression.codec)
    assert arrived == sent.arrives
    assert arrived["count"].tolist() == (COUNT * 2).tolist()
    assert "embedding" not in arrived
    if name == "identity":
        assert arrived == after.travelling()
        assert sum(frame.nbytes for frame in sent.frames) == exact_bytes(after.travelling())
    else:
        assert arrived != after.travelling()
    again = encode(after, before, compression, sender="site-1", round_=1)
    assert frames_digest(again.frames) == frames_digest(sent.frames)


def test_stochastic_rounding_differs_by_sender_and_by_round():
    compression, before = build_compression("int4", rounding="stochastic"), model(1)
    digests = {
        frames_digest([frame[512:] for frame in
            encode(trained(before), before, compression, sender=sender, round_=round_).frames])
        for sender in ("site-1", "site-2") for round_ in (1, 2)
    }  # fmt: skip
    assert len(digests) == 4


def test_with_error_feedback_the_sum_of_what_arrives_is_the_sum_of_what_was_sent():
    compression, before, residual = build_compression("int2"), model(1), State({})
    change = trained(before)["weight"] - before["weight"]
    now = before
    for round_ in range(1, 41):
        after = now.with_arrays({"weight": now["weight"] + change})
        sent = encode(after, now, compression, sender="site-1", round_=round_, residual=residual)
        residual, now = sent.residual, now.with_arrays(sent.arrives)
    left = np.abs(now["weight"] - before["weight"] - 40 * change)
    # Without it, what is below the threshold never arrives: 40 times the change is missing.
    assert left.max() < 8 * np.abs(change).max()


def test_the_aggregator_says_which_model_its_frames_make():
    compression, before = build_compression("int4"), model(1)
    sent = encode(trained(before), before, compression, sender=AGGREGATOR, round_=3)
    made = before.with_arrays(sent.arrives).digest()
    assert {read_header(frame).result for frame in sent.frames} == {made}
    assert {read_header(frame).reference for frame in sent.frames} == {before.digest()}


def test_a_fragment_travels_alone():
    compression, before = build_compression("int4"), model(1)
    names = split(before.spec, 2)[0]
    part = fragment(trained(before), names)
    sent = encode(part, before, compression, sender="site-1", round_=1)
    arrived = received(sent.frames, before, part.spec, compression.codec)
    assert set(arrived) == set(names)
    other = fragment(before, split(before.spec, 2)[1]).spec
    with pytest.raises(ValueError, match="update of 'site-1' refused: frame 1 of . is of another"):
        received(sent.frames, before, other, compression.codec)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_no_codec_can_hold_is_named(bad):
    before = model(1)
    after = before.with_arrays({"bias": np.full(11, bad, "float32")})
    with pytest.raises(ValueError, match="update of 'site-1' in round 2 cannot be sent: bucket 0"):
        encode(after, before, build_compression("int4"), sender="site-1", round_=2)
    sent = encode(after, before, build_compression("identity"), sender="site-1", round_=1)
    with pytest.raises(ValueError, match="brings 11 NaN or infinite of"):
        received(sent.frames, before, after.travelling().spec, build_compression("identity").codec)


def test_a_residual_of_another_model_is_refused():
    before, compression = model(1), build_compression("int2")
    left = State({"bucket-0000": np.zeros(3, "float32")})
    with pytest.raises(ValueError, match="residual of 'site-1' has 3 values in bucket 0, expected"):
        encode(trained(before), before, compression, sender="site-1", round_=1, residual=left)
