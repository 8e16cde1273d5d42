"""Top-k: the largest magnitudes and where they stand (Aji and Heafield 2017, 1704.05021).

Values are taken in pieces of 2**16; of m values, the k = ceil(fraction m) with the largest
magnitude travel as bfloat16, of equal ones the first. Per piece, the payload is

* the lower bytes of their positions, in rising order: k bytes;
* the upper bytes, as a bit row: the i-th position p sets bit (p >> 8) + i, where bit 0 is the
  lowest of the first byte (Elias 1974; Fano 1971): ceil((k + ceil(m / 256)) / 8) bytes;
* the values in that order: 2 k bytes.

That is 25 bits a value that travels, and 1/2048 byte for each of all.
"""

import math

import numpy as np

from openfl_flows.codecs.base import Codec
from openfl_flows.codecs.casts import (
    PIECE,
    check_finite,
    check_size,
    from_bf16,
    pieces,
    to_bf16,
)
from openfl_flows.state import Array


def topk(*, fraction: float) -> Codec:
    """The share ``fraction`` of every 2**16 values, rounded up; the rest becomes zero.

    The compression of one round is poor: it needs error feedback.
    """

    def count(size: int) -> int:
        return math.ceil(fraction * size)

    def row_bytes(size: int) -> int:
        return -(-(count(size) + -(-size // 256)) // 8)

    def piece_bytes(size: int) -> int:
        return 3 * count(size) + row_bytes(size)

    def num_bytes(n: int) -> int:
        whole, rest = divmod(n, PIECE)
        return whole * piece_bytes(PIECE) + piece_bytes(rest)

    def encode(values: Array, seed: int) -> Array:
        parts = [np.empty(0, np.uint8)]
        for piece in pieces(values.size):
            check_finite(values[piece])
            short = to_bf16(values[piece])
            chosen = _largest(short & 0x7FFF, count(short.size))
            parts.append(chosen.astype(np.uint8))
            parts.append(_upper_row(chosen, row_bytes(short.size)))
            parts.append(short[chosen].astype("<u2", copy=False).view(np.uint8))
        return np.concatenate(parts)

    def decode(payload: Array, n: int) -> Array:
        check_size("topk", payload, num_bytes(n), n)
        values = np.zeros(n, np.float32)
        start = 0
        for piece in pieces(n):
            part = values[piece]
            stop = start + piece_bytes(part.size)
            k = count(part.size)
            lower, row, short = np.split(payload[start:stop], [k, k + row_bytes(part.size)])
            chosen = _positions(lower, row, part.size)
            part[chosen] = from_bf16(short.copy().view("<u2"))
            check_finite(part[chosen])
            start = stop
        return values

    return Codec("topk", False, False, num_bytes, encode, decode)


def _largest(magnitude: Array, k: int) -> Array:
    """Positions, in rising order, of the k largest; of equal ones, the first."""
    least = np.partition(magnitude, magnitude.size - k)[magnitude.size - k]
    chosen = np.flatnonzero(magnitude >= least)
    if chosen.size > k:
        ties = np.flatnonzero(magnitude[chosen] == least)
        chosen = np.delete(chosen, ties[k - chosen.size :])
    return chosen


def _upper_row(positions: Array, num_bytes: int) -> Array:
    row = np.zeros(8 * num_bytes, np.uint8)
    row[(positions >> 8) + np.arange(positions.size)] = 1
    return np.packbits(row, bitorder="little")


def _positions(lower: Array, row: Array, size: int) -> Array:
    """What :func:`_upper_row` and the lower bytes say.

    Raises:
        ValueError: They are not as many rising positions below ``size``.
    """
    bits = np.flatnonzero(np.unpackbits(row, bitorder="little"))
    if bits.size != lower.size:
        raise ValueError(f"topk payload holds {bits.size} positions, expected {lower.size}")
    positions = (bits - np.arange(bits.size) << 8) + lower
    if (np.diff(positions) <= 0).any():
        raise ValueError("topk payload holds positions that do not rise")
    if positions.size and positions[-1] >= size:
        raise ValueError(f"topk payload holds position {positions[-1]} of {size} values")
    return positions
