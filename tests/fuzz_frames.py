"""Mutations of frames: what a bad line, a bad disk or a bad peer makes of one that arrives.

Each takes a generator, the :class:`Traffic` that the frame is part of, and the part that the
receiver is waiting for; it gives what arrives instead.
"""

import dataclasses
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import zstandard

from openfl_flows.codecs.base import Codec
from openfl_flows.codecs.frame import HEADER_BYTES, Header, read_frame, refusal, write_frame
from openfl_flows.state import Array

COUNTS = {"part": 12, "parts": 16}
"""Offsets of 32-bit fields."""
SIZES = {"round": 24, "size": 32, "stored": 40, "num_bytes": 48}
"""Offsets of 64-bit fields."""
CODECS = ("identity", "bf16", "fp16", "int8", "int4", "int2", "topk")
TERABYTES = np.array([10**12, 10**13, 2**40 + 1, 2**62, 2**64 - 1], np.uint64)
NOT_FINITE = np.array([0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81], np.uint16)
"""Upper halves of infinite float32 and of NaN: what is not finite in bfloat16."""
RLE_BLOCK = 128 * 2**10
"""The largest block of zstd."""

HEADER = Header(
    sender="site-2",
    round=5,
    spec="5e" * 32,
    reference="0f" * 32,
    result="a3" * 32,
    codec="any",
    part=0,
    parts=3,
    dtype="float32",
    size=0,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
    """What two sites sent in two rounds under one codec, three frames each time.

    Attributes:
        codec: The codec.
        headers: By part, what is expected of ``site-2`` in round 5.
        payloads: By sender, round and part.
    """

    codec: Codec
    headers: list[Header]
    payloads: Mapping[tuple[str, int, int], Array]

    def frame(self, part: int, sender: str = "site-2", round_: int = 5) -> Array:
        """What was sent."""
        header = dataclasses.replace(self.headers[part], sender=sender, round=round_)
        return self.framed(header, self.payloads[sender, round_, part])

    def framed(self, header: Header, payload: Array) -> Array:
        """A frame with right checksums."""
        return write_frame(header, payload, compress=self.codec.compress)


Mutation = Callable[[np.random.Generator, Traffic, int], Array]


def traffic(codec: Codec, sizes: tuple[int, int, int]) -> Traffic:
    """Frames of Gaussian values in buckets of ``sizes``."""
    rng = np.random.default_rng(0)
    headers = [
        dataclasses.replace(HEADER, codec=codec.name, part=part, size=size)
        for part, size in enumerate(sizes)
    ]
    payloads = {
        (sender, round_, part): codec.encode(rng.normal(0, 1e-3, size).astype(np.float32), part)
        for sender in ("site-1", "site-2")
        for round_ in (4, 5)
        for part, size in enumerate(sizes)
    }
    return Traffic(codec=codec, headers=headers, payloads=payloads)


def receive(frame: Array, expected: Header, codec: Codec) -> Array:
    """The finite values of a frame that is what was expected; a view of it under an exact codec.

    Raises:
        ValueError: It is not.
    """
    payload = read_frame(frame, expected, codec.num_bytes(expected.size))
    if codec.exact:
        values = payload.view(expected.dtype)
        if not np.isfinite(values).all():
            raise refusal(expected, "holds values that are not finite")
        return values
    try:
        return codec.decode(payload, expected.size)
    except ValueError as error:
        raise refusal(expected, f"does not decode: {error}") from None


def resealed(frame: Array) -> Array:
    """``frame`` with both checksums made right again."""
    frame = frame.copy()
    struct.pack_into("<I", frame, 20, zlib.crc32(frame[HEADER_BYTES:]))
    struct.pack_into("<I", frame, HEADER_BYTES - 4, zlib.crc32(frame[: HEADER_BYTES - 4]))
    return frame


def _random(rng: np.random.Generator, size: int) -> Array:
    return rng.integers(0, 256, size, dtype=np.uint8)


def _span(rng: np.random.Generator, size: int) -> slice:
    start = int(rng.integers(size))
    return slice(start, start + int(rng.integers(1, 65)))


def flipped_bits(rng, sent, part):
    frame = sent.frame(part)
    for _ in range(rng.integers(1, 9)):
        frame[rng.integers(frame.size)] ^= 1 << rng.integers(8)
    return frame


def flipped_bit_of_header(rng, sent, part):
    frame = sent.frame(part)
    frame[rng.integers(HEADER_BYTES)] ^= 1 << rng.integers(8)
    return frame


def flipped_bit_of_header_resealed(rng, sent, part):
    frame = sent.frame(part)
    # The payload's checksum alone would be made right again.
    at = rng.choice(np.setdiff1d(np.arange(HEADER_BYTES - 4), np.arange(20, 24)))
    frame[at] ^= 1 << rng.integers(8)
    return resealed(frame)


def overwritten(rng, sent, part):
    frame = sent.frame(part)
    span = frame[_span(rng, frame.size)]
    span[:] = _random(rng, span.size)
    return frame


def truncated(rng, sent, part):
    frame = sent.frame(part)
    return frame[: rng.integers(frame.size)]


def truncated_resealed(rng, sent, part):
    frame = sent.frame(part)
    return resealed(frame[: rng.integers(HEADER_BYTES, frame.size)])


def truncated_and_declared(rng, sent, part):
    frame = truncated_resealed(rng, sent, part)
    struct.pack_into("<Q", frame, SIZES["stored"], frame.size - HEADER_BYTES)
    return resealed(frame)


def extended(rng, sent, part):
    return np.concatenate([sent.frame(part), _random(rng, int(rng.integers(1, 5000)))])


def extended_and_declared(rng, sent, part):
    frame = extended(rng, sent, part)
    struct.pack_into("<Q", frame, SIZES["stored"], frame.size - HEADER_BYTES)
    return resealed(frame)


def cut_out(rng, sent, part):
    frame = sent.frame(part)
    return np.delete(frame, _span(rng, frame.size))


def stuttered(rng, sent, part):
    frame = sent.frame(part)
    span = _span(rng, frame.size)
    return np.insert(frame, span.start, frame[span])


def sent_twice(rng, sent, part):
    return np.concatenate([sent.frame(part), sent.frame(int(rng.integers(3)))])


def another_part(rng, sent, part):
    return sent.frame((part + int(rng.integers(1, 3))) % 3)


def replayed(rng, sent, part):
    return sent.frame(part, round_=4)


def of_another_sender(rng, sent, part):
    return sent.frame(part, sender="site-1", round_=int(rng.integers(4, 6)))


def payload_of_another_part(rng, sent, part):
    other = sent.frame((part + int(rng.integers(1, 3))) % 3)
    return np.concatenate([sent.frame(part)[:HEADER_BYTES], other[HEADER_BYTES:]])


def payload_of_another_round(rng, sent, part):
    other = sent.frame(part, sender=str(rng.choice(["site-1", "site-2"])), round_=4)
    return np.concatenate([sent.frame(part)[:HEADER_BYTES], other[HEADER_BYTES:]])


def of_another_model(rng, sent, part):
    digest = str(rng.choice(["spec", "reference", "result"]))
    header = dataclasses.replace(sent.headers[part], **{digest: _random(rng, 32).tobytes().hex()})
    return sent.framed(header, sent.payloads["site-2", 5, part])


def of_another_codec(rng, sent, part):
    codec = str(rng.choice([name for name in CODECS if name != sent.codec.name]))
    header = dataclasses.replace(sent.headers[part], codec=codec)
    return sent.framed(header, sent.payloads["site-2", 5, part])


def of_another_element_type(rng, sent, part):
    header = dataclasses.replace(sent.headers[part], dtype=str(rng.choice(["float16", "int32"])))
    return sent.framed(header, sent.payloads["site-2", 5, part])


def of_another_size(rng, sent, part):
    size = int(rng.integers(1, 10_000))
    size += size >= sent.headers[part].size
    values = rng.normal(size=size).astype(np.float32)
    header = dataclasses.replace(sent.headers[part], size=size)
    return sent.framed(header, sent.codec.encode(values, 0))


def of_another_size_silently(rng, sent, part):
    values = rng.normal(size=int(rng.integers(5000, 10_000))).astype(np.float32)
    return sent.framed(sent.headers[part], sent.codec.encode(values, 0))


def declaring_terabytes(rng, sent, part):
    frame = sent.frame(part)
    names = rng.choice(["size", "stored", "num_bytes"], int(rng.integers(1, 4)), replace=False)
    for name in names:
        struct.pack_into("<Q", frame, SIZES[name], int(rng.choice(TERABYTES)))
    return resealed(frame)


def of_another_count(rng, sent, part):
    frame = sent.frame(part)
    struct.pack_into("<I", frame, COUNTS[str(rng.choice(list(COUNTS)))], rng.integers(2**32))
    return resealed(frame)


def of_another_number(rng, sent, part):
    frame = sent.frame(part)
    number = int(rng.integers(2 ** int(rng.integers(1, 65)), dtype=np.uint64))
    struct.pack_into("<Q", frame, SIZES[str(rng.choice(list(SIZES)))], number)
    return resealed(frame)


def of_another_version(rng, sent, part):
    frame = sent.frame(part)
    struct.pack_into("<H", frame, 8, int(rng.choice([0, *range(2, 2**16)])))
    return resealed(frame)


def with_other_flags(rng, sent, part):
    frame = sent.frame(part)
    flags = struct.unpack_from("<H", frame, 10)[0]
    struct.pack_into("<H", frame, 10, flags ^ int(rng.integers(1, 2**16)))
    return resealed(frame)


def with_bits_that_mean_nothing(rng, sent, part):
    frame = sent.frame(part)
    frame[rng.integers(456, HEADER_BYTES - 4)] = rng.integers(1, 256)
    return resealed(frame)


def garbage(rng, sent, part):
    return _random(rng, int(rng.integers(0, 6000)))


def garbage_after_the_magic(rng, sent, part):
    frame = _random(rng, int(rng.integers(HEADER_BYTES, 6000)))
    frame[:12] = sent.frame(part)[:12]
    return resealed(frame) if rng.integers(2) else frame


def not_finite(rng, sent, part):
    """NaN or infinity among the values or the scales, every checksum right."""
    payload, n = sent.payloads["site-2", 5, part].copy(), sent.headers[part].size
    bad = rng.choice(NOT_FINITE)
    match sent.codec.name:
        case "identity":
            payload.view("<u2")[2 * rng.integers(n) + 1] = bad
        case "bf16":
            payload.view("<u2")[rng.integers(n)] = bad
        case "fp16":
            payload.view("<u2")[rng.integers(n)] = rng.choice([0x7C00, 0xFC00, 0x7E01])
        case "topk":
            last = 2 * int(rng.integers(n * 0.03))
            payload[payload.size - last - 2 : payload.size - last] = bad & 255, bad >> 8
        case name:
            num_scales = -(-n // (128 if name == "int8" else 64))
            upper, lower = payload[-2 * num_scales :].reshape(2, num_scales)
            at = rng.integers(num_scales)
            upper[at], lower[at] = bad >> 8, bad & 255
    return sent.framed(sent.headers[part], payload)


def compressed(sent: Traffic, part: int, stored: bytes) -> Array:
    """A frame that says that ``stored`` is the payload under zstd, with right checksums."""
    header = sent.frame(part)[:HEADER_BYTES]
    frame = np.concatenate([header, np.frombuffer(stored, np.uint8)])
    struct.pack_into("<H", frame, 10, 1)
    struct.pack_into("<Q", frame, SIZES["stored"], len(stored))
    return resealed(frame)


def zstd_of(content_size: int, num_blocks: int) -> bytes:
    """A zstd frame that says ``content_size``, with blocks of 128 KiB that take 4 bytes each."""
    size_in_8_bytes, window_of_512_kib = 0b1100_0000, 9 << 3
    says = b"\x28\xb5\x2f\xfd" + bytes([size_in_8_bytes, window_of_512_kib])
    says += content_size.to_bytes(8, "little")
    blocks = ((RLE_BLOCK << 3 | 1 << 1 | (n == num_blocks - 1)) for n in range(num_blocks))
    return says + b"".join(block.to_bytes(3, "little") + b"\0" for block in blocks)


def bomb(rng, sent, part):
    num_blocks = int(rng.integers(1, 200))
    return compressed(sent, part, zstd_of(num_blocks * RLE_BLOCK, num_blocks))


def bomb_that_lies(rng, sent, part):
    num_bytes = sent.codec.num_bytes(sent.headers[part].size)
    says = num_bytes if rng.integers(2) else int(rng.choice(TERABYTES))
    return compressed(sent, part, zstd_of(says, int(rng.integers(1, 200))))


def zstd_that_is_damaged(rng, sent, part):
    num_bytes = sent.codec.num_bytes(sent.headers[part].size)
    stored = bytearray(zstandard.ZstdCompressor(level=1).compress(bytes(num_bytes)))
    return compressed(sent, part, bytes(stored[: rng.integers(1, len(stored))]))


MUTATIONS: tuple[Mutation, ...] = (
    flipped_bits,
    flipped_bit_of_header,
    flipped_bit_of_header_resealed,
    overwritten,
    truncated,
    truncated_resealed,
    truncated_and_declared,
    extended,
    extended_and_declared,
    cut_out,
    stuttered,
    sent_twice,
    another_part,
    replayed,
    of_another_sender,
    payload_of_another_part,
    payload_of_another_round,
    of_another_model,
    of_another_codec,
    of_another_element_type,
    of_another_size,
    of_another_size_silently,
    declaring_terabytes,
    of_another_count,
    of_another_number,
    of_another_version,
    with_other_flags,
    with_bits_that_mean_nothing,
    garbage,
    garbage_after_the_magic,
    not_finite,
    bomb,
    bomb_that_lies,
    zstd_that_is_damaged,
)
