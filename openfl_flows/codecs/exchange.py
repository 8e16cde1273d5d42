"""A model on its way: one frame per flat bucket, and what the receiver makes of them.

Sites send ``Δ = θ_r - θ_i``, the change that the aggregator's outer optimizer calls the
pseudo-gradient; the aggregator sends ``θ_r - θ_{r+1}``. The receiver subtracts what it decodes from
``θ_r``, which both ends have. Integers, and everything under the exact codec, are sent as they are.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from openfl_flows.codecs.base import Codec, Compression
from openfl_flows.codecs.frame import (
    HEADER_BYTES,
    FrameError,
    Header,
    read_frame,
    refusal,
    write_frame,
)
from openfl_flows.codecs.recipes import EXACT
from openfl_flows.seeds import derived_seed
from openfl_flows.state import Array, Spec, State, bucket_forms, pack, unpack

AGGREGATOR = "aggregator"
"""The sender's name in frames of the global model. No site has it."""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """What both ends know of one model's way from one to the other.

    Attributes:
        sender: A site, or :data:`AGGREGATOR`.
        round: The round, from 1, that the model is an update of, or that made it.
        spec: The tensors that travel.
        reference: Digest of the model that changes are relative to.
        result: Digest of the model that comes out; empty in a site's, which nobody else needs.
        codec: How changes are encoded.
    """

    sender: str
    round: int
    spec: Spec
    reference: str
    result: str = ""
    codec: Codec
    _spec_digest: str = field(init=False, repr=False)
    _forms: list[tuple[str, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Work out once what every frame needs."""
        object.__setattr__(self, "_spec_digest", self.spec.digest())
        object.__setattr__(self, "_forms", bucket_forms(self.spec))

    @property
    def parts(self) -> int:
        """Number of frames."""
        return len(self._forms)

    def codec_of(self, part: int) -> Codec:
        """The codec of one bucket: integers go as they are."""
        return self.codec if np.dtype(self._forms[part][0]).kind == "f" else EXACT

    def header(self, part: int) -> Header:
        """The header that a frame must have."""
        dtype, size = self._forms[part]
        return Header(
            sender=self.sender,
            round=self.round,
            spec=self._spec_digest,
            reference=self.reference,
            result=self.result,
            codec=self.codec_of(part).name,
            part=part,
            parts=self.parts,
            dtype=dtype,
            size=size,
        )

    def num_bytes(self, part: int) -> int:
        """Bytes of a frame's payload before zstd, which is all that a receiver makes room for."""
        dtype, size = self._forms[part]
        codec = self.codec_of(part)
        return size * np.dtype(dtype).itemsize if codec.exact else codec.num_bytes(size)


class Encoded(NamedTuple):
    """A model as it was sent.

    Attributes:
        frames: One per bucket.
        arrives: The travelling tensors as the receiver will have them.
        residual: What the frames left out, by bucket, under error feedback; else nothing.
    """

    frames: list[Array]
    arrives: State
    residual: State


def encode(
    state: State,
    model: State,
    compression: Compression,
    *,
    sender: str,
    round_: int,
    residual: State | None = None,
) -> Encoded:
    """Encode what travels of ``state``.

    Args:
        state: The tensors to send, all or some of those of ``model``.
        model: The model that the receiver has.
        compression: The codec, and whether it has error feedback.
        sender: Who sends.
        round_: In which round.
        residual: What earlier frames left out; None or nothing in the beginning.

    Raises:
        ValueError: A value is not finite, or out of the codec's range, or the residual is of
            another model.
    """
    state = state.travelling()
    passage = Passage(
        sender=sender, round=round_, spec=state.spec, reference=model.digest(),
        codec=compression.codec,
    )  # fmt: skip
    buckets = pack(state)
    # What is sent as it is needs no second model in memory.
    before = buckets if compression.codec.exact else pack(State({n: model[n] for n in state}))
    payloads, arrives, left = [], [], {}
    for part, (values, reference) in enumerate(zip(buckets, before, strict=True)):
        key = f"bucket-{part:04d}"
        if passage.codec_of(part).exact:
            payload, decoded = values.view(np.uint8), values
        else:
            change = _change(
                passage, part, values, reference, residual.get(key) if residual else None
            )
            payload, received = _coded(passage, part, change)
            decoded = _subtracted(reference, received)
            if compression.error_feedback:
                left[key] = np.subtract(change, received, out=received)
        payloads.append(payload)
        arrives.append(decoded)
    arrived = unpack(arrives, state.spec)
    result = model.with_arrays(arrived).digest() if sender == AGGREGATOR else ""
    frames = [
        write_frame(
            replace(passage.header(part), result=result),
            payload,
            compress=passage.codec_of(part).compress,
        )
        for part, payload in enumerate(payloads)
    ]
    return Encoded(frames, arrived, State(left))


def decode_bucket(passage: Passage, part: int, frame: Array, reference: Array) -> Array:
    """The bucket that one frame brings.

    Args:
        passage: Whose, and of what.
        part: The bucket's number.
        frame: The bytes.
        reference: (n,) the bucket that the receiver has.

    Raises:
        ValueError: The frame is refused; the message names the sender and says why.
    """
    header, codec = passage.header(part), passage.codec_of(part)
    what = "model" if passage.sender == AGGREGATOR else "update"
    payload = read_frame(frame, header, passage.num_bytes(part), what=what)
    if codec.exact:
        bucket = payload.view(header.dtype)
    else:
        try:
            bucket = _subtracted(reference, codec.decode(payload, header.size))
        except ValueError as error:
            raise refusal(header, f"does not decode: {error}", what=what) from None
    if bucket.dtype.kind == "f" and not np.isfinite(bucket).all():
        bad = int(bucket.size - np.isfinite(bucket).sum())
        reason = f"brings {bad} NaN or infinite of {bucket.size} values"
        raise refusal(header, reason, what=what)
    bucket.flags.writeable = False
    return bucket


def exact_bytes(state: State) -> int:
    """Bytes of a state's frames under the exact codec, which need not be made to be counted."""
    return state.nbytes + HEADER_BYTES * len(bucket_forms(state.spec))


def frames_digest(frames: Sequence[Array]) -> str:
    """SHA-256 over frames end to end, in hexadecimal."""
    sha = hashlib.sha256()
    for frame in frames:
        sha.update(frame.data)
    return sha.hexdigest()


def _change(
    passage: Passage, part: int, values: Array, reference: Array, residual: Array | None
) -> Array:
    change = (_wide(reference) - values).astype(np.float32, copy=False)
    if residual is None:
        return change
    if residual.shape != change.shape:
        raise ValueError(
            f"the residual of {passage.sender!r} has {residual.size} values in bucket {part}, "
            f"expected {change.size}"
        )
    return np.add(change, residual, out=change)


def _coded(passage: Passage, part: int, change: Array) -> tuple[Array, Array]:
    """The bytes of a bucket's change, and what they decode to."""
    codec = passage.codec_of(part)
    seed = derived_seed("codec", codec.name, passage.sender, passage.round, part)
    try:
        payload = codec.encode(change, seed)
    except ValueError as error:
        raise FrameError(
            f"update of {passage.sender!r} in round {passage.round} cannot be sent: bucket {part} "
            f"as {codec.name}: {error}"
        ) from None
    return payload, codec.decode(payload, change.size)


def _subtracted(reference: Array, change: Array) -> Array:
    return (_wide(reference) - change).astype(reference.dtype, copy=False)


def _wide(array: Array) -> Array:
    """In at least single precision: half would lose the change."""
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)
