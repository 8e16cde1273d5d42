"""Named compressions: a codec with or without error feedback. The plan's ``codec`` group."""

from collections.abc import Callable, Mapping
from typing import Any

from openfl_flows.codecs import casts
from openfl_flows.codecs.base import Codec, Compression
from openfl_flows.codecs.blocks import block_codec
from openfl_flows.codecs.sparse import topk as topk_codec

ROUNDINGS = ("nearest", "stochastic")
MAX_BLOCK = 4096
MAX_FRACTION = 0.5


def identity() -> Compression:
    """The values themselves."""
    return AS_IT_IS


def bf16(*, error_feedback: bool = False) -> Compression:
    """bfloat16 values: 2 bytes a value."""
    return Compression(codec=casts.bf16(), error_feedback=error_feedback)


def fp16(*, error_feedback: bool = False) -> Compression:
    """Half precision values: 2 bytes a value, none beyond 65504."""
    return Compression(codec=casts.fp16(), error_feedback=error_feedback)


def int8(
    *, rounding: str = "nearest", block: int = 128, error_feedback: bool = False
) -> Compression:
    """Integers of 8 bits: 1.016 bytes a value at the default block."""
    return Compression(codec=_blocks("int8", 8, rounding, block), error_feedback=error_feedback)


def int4(*, rounding: str = "nearest", block: int = 64, error_feedback: bool = True) -> Compression:
    """Integers of 4 bits: 0.531 bytes a value at the default block, less once compressed.

    Without error feedback each sync adds about a tenth of its step as noise, which shows where
    steps are large.
    """
    return Compression(codec=_blocks("int4", 4, rounding, block), error_feedback=error_feedback)


def int2(*, rounding: str = "nearest", block: int = 64, error_feedback: bool = True) -> Compression:
    """Ternary values: 0.281 bytes a value at the default block, less once compressed."""
    return Compression(codec=_blocks("int2", 2, rounding, block), error_feedback=error_feedback)


def topk(*, fraction: float = 0.03, error_feedback: bool = True) -> Compression:
    """The largest magnitudes: 3.125 bytes for each that travels."""
    fits = 0 < fraction <= MAX_FRACTION
    _check("topk", "fraction", fraction, fits, f"above 0 and up to {MAX_FRACTION}")
    return Compression(codec=topk_codec(fraction=fraction), error_feedback=error_feedback)


EXACT: Codec = casts.identity()
"""What integers travel by, whatever the floating point values do."""

AS_IT_IS = Compression(codec=EXACT)
"""What holds where nobody asks for a codec."""

COMPRESSIONS: Mapping[str, Callable[..., Compression]] = {
    "identity": identity,
    "bf16": bf16,
    "fp16": fp16,
    "int8": int8,
    "int4": int4,
    "int2": int2,
    "topk": topk,
}


def build_compression(
    name: str,
    *,
    rounding: str | None = None,
    block: int | None = None,
    fraction: float | None = None,
    error_feedback: bool | None = None,
) -> Compression:
    """The named compression; an option that is None is the codec's default.

    Args:
        name: A key of :data:`COMPRESSIONS`.
        rounding: ``nearest`` or ``stochastic``, for int8, int4 and int2.
        block: Values that share a scale, a multiple of 8 up to 4096, for int8, int4 and int2.
        fraction: Share of the values that travels, for topk.
        error_feedback: Whether the sender adds what a round lost to the next, for all but identity.

    Raises:
        ValueError: The name is unknown, an option does not belong to it or is out of its range.
    """
    if name not in COMPRESSIONS:
        expected = ", ".join(COMPRESSIONS)
        raise ValueError(f"codec.name={name!r} is unknown, expected one of {expected}")
    options: dict[str, Any] = {
        "rounding": rounding,
        "block": block,
        "fraction": fraction,
        "error_feedback": error_feedback,
    }
    try:
        return COMPRESSIONS[name](**{k: v for k, v in options.items() if v is not None})
    except TypeError as error:
        raise ValueError(f"codec.name={name!r}: {error}") from None


def _blocks(name: str, bits: int, rounding: str, block: int) -> Codec:
    _check(name, "rounding", rounding, rounding in ROUNDINGS, " or ".join(ROUNDINGS))
    fits = block % 8 == 0 and 0 < block <= MAX_BLOCK
    _check(name, "block", block, fits, f"a multiple of 8 up to {MAX_BLOCK}")
    return block_codec(name, bits=bits, block=block, stochastic=rounding == "stochastic")


def _check(name: str, option: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"codec.name={name!r}: {option}={value!r}, expected {expected}")
