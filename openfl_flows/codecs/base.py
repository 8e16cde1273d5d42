"""The Codec: a pair of pure functions between float32 values and bytes; and how a link uses it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from openfl_flows.state import Array


class Codec(NamedTuple):
    """How n float32 values become bytes and, nearly, the same values again.

    A codec owns no state and no header: the payload is the values, and their number comes from
    what both sides know. Equal values and seed give equal bytes on every machine.

    Attributes:
        name: As it stands in frames, e.g. ``int4``: ASCII, at most 31 characters.
        exact: Whether decoding gives back the very bits that were encoded.
        compress: Whether a general compressor makes the payload smaller by more than it costs.
        num_bytes: ``num_bytes(n)``: payload bytes of n values. It depends on n alone, so a
            receiver knows every limit before it allocates anything.
        encode: ``encode(values, seed)``: (n,) float32 -> (num_bytes(n),) uint8. The seed matters
            under stochastic rounding only. ValueError where a value is NaN or infinite.
        decode: ``decode(payload, n)``: (num_bytes(n),) uint8 -> (n,) float32. ValueError where
            the payload is no encoding of n finite values.
    """

    name: str
    exact: bool
    compress: bool
    num_bytes: Callable[[int], int]
    encode: Callable[[Array, int], Array]
    decode: Callable[[Array, int], Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression:
    """A codec, and whether the sender remembers what it lost.

    Attributes:
        codec: How values become bytes.
        error_feedback: Whether what one round's bytes left out is added to the next round's
            values (Seide et al. 2014; Karimireddy et al. 2019, Algorithm 1)::

                sent_r     = decode(encode(Δ_r + e_r))
                e_{r+1}    = Δ_r + e_r - sent_r,   e_0 = 0

            The sum of what was sent then differs from the sum of the Δ by one residual, ever.
    """

    codec: Codec
    error_feedback: bool = False
