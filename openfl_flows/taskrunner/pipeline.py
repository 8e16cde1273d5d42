"""The pipeline of what travels: bytes as they are, with element type and shape beside them.

OpenFL's own lossless pipeline casts everything to float32, which changes sums of metrics, counts
and digests.
"""

from typing import Any

import numpy as np
from openfl.pipelines.pipeline import TransformationPipeline, Transformer

from openfl_flows.state import Array

DTYPES = (
    "float32", "float64", "float16", "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8", "bool",
)  # fmt: skip
"""Element types by their number on the wire: append, never reorder."""


class RawBytes(Transformer):
    """An array as its bytes, little-endian and in C order."""

    lossy = False

    def forward(self, data: Array, **_: Any) -> tuple[bytes, dict[str, list[int]]]:
        """Give bytes, and metadata: the number of the element type, then the shape.

        Raises:
            ValueError: The element type has no number.
        """
        array = np.asarray(data)
        if array.dtype.name not in DTYPES:
            raise ValueError(f"cannot send {array.dtype.name}, expected one of {', '.join(DTYPES)}")
        return array.tobytes(), {"int_list": [DTYPES.index(array.dtype.name), *array.shape]}

    def backward(self, data: bytes, metadata: dict[str, Any], **_: Any) -> Array:
        """Give the array back, a read-only view of ``data``."""
        code, *shape = metadata["int_list"]
        return np.frombuffer(data, dtype=DTYPES[code]).reshape(shape)


class ExactPipeline(TransformationPipeline):
    """Every tensor arrives bit for bit as it was sent."""

    def __init__(self) -> None:
        super().__init__(transformers=[RawBytes()])
