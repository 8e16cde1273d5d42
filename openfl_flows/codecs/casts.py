"""Codecs that cast value by value: identity, bf16 and fp16; and the bits of bfloat16.

All numbers travel little-endian. numpy has no bfloat16: it is the upper half of a float32, kept
here as uint16.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from openfl_flows.codecs.base import Codec
from openfl_flows.state import Array

PIECE = 2**16
"""Values that are worked on at once: a piece and its scratch stay in the cache of one core."""

_INFINITY_BF16 = 0x7F80
_INFINITY_FP16 = 0x7C00
_SMALLEST_NORMAL_FP16 = 0x38800000  # the bits of 2**-14 as a float32


def pieces(n: int, size: int = PIECE) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``n`` values in order."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def to_bf16(values: Array) -> Array:
    """The bits of the nearest bfloat16, ties to even: float32 -> uint16 of the same shape.

    What lies beyond the largest bfloat16, 3.3895e38, becomes it: no finite value becomes infinite.
    The values must be finite.
    """
    bits = values.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    short = rounded.astype(np.uint16)
    too_large = (short & _INFINITY_BF16) == _INFINITY_BF16
    if too_large.any():
        short[too_large] -= 1
    return short


def from_bf16(bits: Array) -> Array:
    """The float32 of the same value: uint16 -> float32 of the same shape, exactly."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def ceil_bf16(values: Array) -> Array:
    """The bits of the next bfloat16 upward of non-negative values below 3.38e38."""
    return ((values.view(np.uint32) + 0xFFFF) >> 16).astype(np.uint16)


def check_finite(values: Array) -> None:
    """Refuse values that no codec can carry.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"a value is {values[~np.isfinite(values)][0]}, expected finite ones")


def check_size(name: str, payload: Array, expected: int, n: int) -> None:
    """Refuse a payload of another length than its codec's.

    Raises:
        ValueError: The length is another.
    """
    if payload.size != expected:
        raise ValueError(
            f"{name} payload of {payload.size} bytes, expected {expected} for {n} values"
        )


def identity() -> Codec:
    """The values themselves: 4 bytes a value, bit for bit. The payload is a view of them."""

    def encode(values: Array, seed: int) -> Array:
        for piece in pieces(values.size):
            check_finite(values[piece])
        return np.ascontiguousarray(values, "<f4").view(np.uint8)

    def decode(payload: Array, n: int) -> Array:
        check_size("identity", payload, 4 * n, n)
        values = np.empty(n, np.float32)
        values.view(np.uint8)[:] = payload
        for piece in pieces(n):
            check_finite(values[piece])
        return values

    return Codec("identity", True, False, lambda n: 4 * n, encode, decode)


def bf16() -> Codec:
    """bfloat16, rounded to nearest even: 2 bytes a value, relative error at most 2**-8.

    What lies beyond the largest bfloat16, 3.3895e38, becomes it.
    """
    return _of_two_bytes("bf16", to_bf16, lambda bits, out: np.copyto(out, from_bf16(bits)))


def fp16() -> Codec:
    """IEEE half precision, rounded to nearest even: 2 bytes a value.

    Relative error at most 2**-11 above 6.1e-5, absolute error at most 2**-25 below it: what is
    smaller than 3e-8 becomes zero. A value that rounds beyond 65504 is refused, not saturated.
    """
    return _of_two_bytes(
        "fp16", _to_fp16, lambda bits, out: _every_half().take(bits, out=out, mode="clip")
    )


def _of_two_bytes(
    name: str, to_bits: Callable[[Array], Array], read_bits: Callable[[Array, Array], object]
) -> Codec:
    """A codec of 16 bits a value: those of values, and values into an array from theirs."""

    def encode(values: Array, seed: int) -> Array:
        payload = np.empty(values.size, "<u2")
        for piece in pieces(values.size):
            check_finite(values[piece])
            payload[piece] = to_bits(values[piece])
        return payload.view(np.uint8)

    def decode(payload: Array, n: int) -> Array:
        check_size(name, payload, 2 * n, n)
        values = np.empty(n, np.float32)
        for piece in pieces(n):
            # A payload may lie at an odd address of its frame.
            bits = payload[2 * piece.start : 2 * piece.stop].copy().view("<u2")
            read_bits(bits, values[piece])
            check_finite(values[piece])
        return values

    return Codec(name, False, False, lambda n: 2 * n, encode, decode)


@cache
def _every_half() -> Array:
    """The float32 of every pattern of bits, which numpy casts slowly where halves are small."""
    patterns: Array = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return patterns


def _to_fp16(values: Array) -> Array:
    """The bits of the nearest half, ties to even: finite float32 -> uint32 below 2**16.

    numpy's own cast gives the same bits, ten times slower where halves are small.

    Raises:
        ValueError: A value is too large for one.
    """
    bits = values.view(np.uint32)
    magnitude = bits & 0x7FFFFFFF
    # As a normal half, and as a multiple of 2**-24, what the others are: the smaller is right.
    normal = np.maximum(magnitude, _SMALLEST_NORMAL_FP16)
    rounded: Array = normal >> 13
    rounded &= 1
    rounded -= (112 << 23) - 0xFFF  # exponents are biased by 127 and by 15
    rounded += normal
    rounded >>= 13
    fixed = (magnitude.view(np.float32) + np.float32(0.5)).view(np.uint32)
    fixed -= np.float32(0.5).view(np.uint32)
    np.minimum(rounded, fixed, out=rounded)
    if rounded.max(initial=0) >= _INFINITY_FP16:
        raise ValueError(f"{np.abs(values).max()} is beyond fp16, expected at most 65504")
    rounded |= bits >> 16 & 0x8000
    return rounded
