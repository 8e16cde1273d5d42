"""Block-wise integers with one scale per block: int8, int4 and int2 (Dettmers et al. 2021).

A block of values x shares a scale s, a bfloat16; every value becomes an integer q of b bits::

    q = round(x / s),   |q| <= 2**(b-1) - 1,   x' = s q

For int8 and int4, s = max|x| / (2**(b-1) - 1), so that |x - x'| <= s/2 and a little more for the
rounding of s. int2 is ternary, q in {-1, 0, 1}: rounded to nearest, what is larger than
``THRESHOLD`` max|x| counts, and s is the mean magnitude of what counts (Li and Liu 2016, Ternary
Weight Networks). Rounded stochastically, s >= max|x| / (2**(b-1) - 1), and E[x'] = x.

The payload is the integers, then the scales. Integers stand in pieces of nearly 2**16 values, cut
into as many lanes as a 32-bit word holds integers: word j of a piece holds element j of each lane,
the first lane in the lowest bits. Scales stand as all their upper, then all their lower bytes: the
upper ones hardly differ and compress well. Values are padded by zeros to whole blocks and words.
"""

import math
from dataclasses import dataclass

import numpy as np

from openfl_flows.codecs.base import Codec
from openfl_flows.codecs.casts import (
    PIECE,
    ceil_bf16,
    check_size,
    from_bf16,
    pieces,
    to_bf16,
)
from openfl_flows.state import Array

THRESHOLD = 0.35
"""Share of a block's largest magnitude above which a ternary value is not zero.

Over rounds of independent Gaussian, Laplace and Student-t (3 degrees) changes with error feedback,
blocks of 64 and zstd at level 1, this takes 0.185, 0.159 and 0.151 bytes a value, and the residual
is 0.55, 0.67 and 0.71 of a change; a threshold of 0.5 takes 0.146, 0.131 and 0.125, the residual
being 0.78, 0.90 and 0.92. A scale of c max|x|, with the threshold at its half and c from 0.6 to 1,
keeps a larger residual at the same bytes. Where changes are correlated by 0.9 from round to round,
it keeps a smaller one (Gaussian, c = 0.6: 0.70 at 0.183 bytes, against 0.81 at 0.178), but what is
sent in a round is farther from that round's change (0.93 against 0.87).

It must be above 1/3: see :func:`_ternary`.
"""

_SMALLEST_SCALE = np.float32(2.0**-126)  # a bfloat16 below it has fewer than 8 digits
_SMALLEST_SCALE_BITS = 0x0080
_LARGEST = np.float32(3.3e38)  # beyond it, q s could be infinite once s is rounded up
_LARGEST_FLOAT = np.finfo(np.float32).max
_ROUND = np.float32(1.5 * 2**23)  # y + this has y, rounded to nearest even, in its low bits
_TWO_TO_23_BITS = 0x4B000000  # with an integer in its low bits, it is 2**23 + that integer


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Where integers and scales stand."""

    bits: int
    block: int

    @property
    def lanes(self) -> int:
        return 32 // self.bits

    @property
    def largest(self) -> int:
        return (1 << self.bits - 1) - 1

    @property
    def grain(self) -> int:
        """Values are padded to a multiple of this."""
        return math.lcm(self.block, self.lanes)

    @property
    def piece(self) -> int:
        return PIECE // self.grain * self.grain

    def padded(self, n: int) -> int:
        return -(-n // self.grain) * self.grain

    def code_bytes(self, n: int) -> int:
        return self.padded(n) * self.bits // 8

    def num_scales(self, n: int) -> int:
        return self.padded(n) // self.block

    def num_bytes(self, n: int) -> int:
        return self.code_bytes(n) + 2 * self.num_scales(n)


def block_codec(name: str, *, bits: int, block: int, stochastic: bool) -> Codec:
    """Integers with one scale per ``block`` values: bits/8 + 2/block bytes a value.

    Values beyond 3.3e38 become it. A block whose scale would be below 2**-126 becomes zeros.

    Args:
        name: The codec's name.
        bits: 8, 4 or 2.
        block: Values that share a scale; a multiple of 8, at most 4096.
        stochastic: Round up or down at random, so that the expectation is the value, instead of
            to nearest, ties to even.
    """
    layout = _Layout(bits=bits, block=block)

    def encode(values: Array, seed: int) -> Array:
        n = values.size
        payload = np.empty(layout.num_bytes(n), np.uint8)
        scales = np.empty(layout.num_scales(n), np.uint16)
        random = np.random.SFC64(seed) if stochastic else None
        for piece in pieces(layout.padded(n), layout.piece):
            x = values[piece]
            if x.size < piece.stop - piece.start:
                x = np.concatenate([x, np.zeros(piece.stop - piece.start - x.size, np.float32)])
            codes, scale = _quantise(x, layout, random)
            scales[piece.start // block : piece.stop // block] = scale
            payload[piece.start * bits // 8 : piece.stop * bits // 8] = _pack(codes, layout)
        payload[layout.code_bytes(n) :].reshape(2, -1)[:] = scales >> 8, scales & 255
        return payload

    def decode(payload: Array, n: int) -> Array:
        check_size(name, payload, layout.num_bytes(n), n)
        scales = _read_scales(name, payload[layout.code_bytes(n) :], n, layout)
        values = np.empty(n, np.float32)
        for piece in pieces(layout.padded(n), layout.piece):
            packed = payload[piece.start * bits // 8 : piece.stop * bits // 8]
            integers = _unpack(packed, layout)
            inside = values[piece].size
            if integers.min() < -layout.largest:
                raise ValueError(f"{name} payload holds {-layout.largest - 1}, never written")
            if integers[inside:].any():
                raise ValueError(f"{name} payload is not zero beyond its {n} values")
            rows = integers.reshape(-1, block)
            rows *= scales[piece.start // block : piece.stop // block, None]
            values[piece] = integers[:inside]
        return values

    return Codec(name, False, bits < 8, layout.num_bytes, encode, decode)


def _quantise(x: Array, layout: _Layout, random: np.random.SFC64 | None) -> tuple[Array, Array]:
    """Codes (two's complement in the low bits of uint32) and scales (bfloat16 bits) of a piece."""
    magnitude = x.view(np.uint32) & 0x7FFFFFFF
    absmax = magnitude.reshape(-1, layout.block).max(axis=1).view(np.float32)
    finite = np.isfinite(absmax)
    if not finite.all():
        raise ValueError(f"a value is {absmax[~finite][0]}, expected finite ones")
    if (absmax > _LARGEST).any():
        x, absmax = np.clip(x, -_LARGEST, _LARGEST), np.minimum(absmax, _LARGEST)
    x = x.reshape(-1, layout.block)
    if random is not None:
        integers, scale = _stochastic(x, absmax, layout.largest, random)
    elif layout.largest == 1:
        integers, scale = _ternary(x, absmax)
    else:
        integers, scale = _nearest(x, absmax, layout.largest)
    vanishing = scale < _SMALLEST_SCALE_BITS
    integers[vanishing] = _ROUND
    scale[vanishing] = 0
    codes = integers.view(np.uint32).ravel()
    codes &= 2**layout.bits - 1
    return codes, scale


def _nearest(x: Array, absmax: Array, largest: int) -> tuple[Array, Array]:
    scale = to_bf16(absmax / np.float32(largest))
    y = x * _inverse(from_bf16(scale))
    y += _ROUND
    return y, scale


def _stochastic(
    x: Array, absmax: Array, largest: int, random: np.random.SFC64
) -> tuple[Array, Array]:
    # A little wider than the largest value, so that no rounding error leads beyond ``largest``.
    scale = ceil_bf16(absmax * np.float32((1 + 2**-16) / largest))
    y = x * _inverse(from_bf16(scale))
    bits = random.random_raw(-(-y.size // 4)).astype("<u8", copy=False).view("<u2")[: y.size]
    dither = bits.astype(np.float32).reshape(y.shape)
    dither += np.float32(0.5 - 2**15)
    dither *= np.float32(2**-16)
    y += dither
    y += _ROUND
    return y, scale


def _ternary(x: Array, absmax: Array) -> tuple[Array, Array]:
    # Half the step is the threshold; as it is above a third of the largest, nothing becomes 2.
    step = absmax * np.float32(2 * THRESHOLD)
    y = x * _inverse(step)
    integers = y + _ROUND
    signs = integers - _ROUND
    y *= signs
    np.abs(signs, out=signs)
    total, count = np.add.reduce(y, axis=1), np.add.reduce(signs, axis=1)
    return integers, to_bf16(step * (total / np.maximum(count, 1)))


def _inverse(scale: Array) -> Array:
    inverse: Array = 1 / np.maximum(scale, _SMALLEST_SCALE)
    return inverse[:, None]


def _pack(codes: Array, layout: _Layout) -> Array:
    lanes = codes.reshape(layout.lanes, -1)
    words = lanes[0]
    for k in range(1, layout.lanes):
        lanes[k] <<= layout.bits * k
        words |= lanes[k]
    packed: Array = words.astype("<u4", copy=False).view(np.uint8)
    return packed


def _unpack(packed: Array, layout: _Layout) -> Array:
    """The integers of a piece as float32, in order."""
    sign = 2 ** (layout.bits - 1)
    words = packed.copy().view("<u4").astype(np.uint32, copy=False)
    lanes = np.empty((layout.lanes, words.size), np.uint32)
    for k, lane in enumerate(lanes):
        np.right_shift(words, layout.bits * k, out=lane)
    lanes &= 2**layout.bits - 1
    lanes ^= _TWO_TO_23_BITS | sign
    integers: Array = lanes.view(np.float32).ravel()
    integers -= np.float32(2**23 + sign)
    return integers


def _read_scales(name: str, planes: Array, n: int, layout: _Layout) -> Array:
    upper, lower = planes.reshape(2, -1)
    bits = upper.astype(np.uint16) << 8 | lower
    scales = from_bf16(bits)
    top = (_LARGEST_FLOAT / np.float32(layout.largest)).view(np.uint32) >> 16
    legal = (bits >= _SMALLEST_SCALE_BITS) & (bits <= top) | (bits == 0)
    if not legal.all():
        raise ValueError(f"{name} payload holds the scale {scales[~legal][0]}, never written")
    if bits[-(-n // layout.block) :].any():
        raise ValueError(f"{name} payload holds a scale beyond its {n} values")
    return scales
