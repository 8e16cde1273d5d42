"""Named arrays that travel: an immutable State, its Spec, its digest, its packing in buckets."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Reduce = Literal["mean", "max", "keep"]

BUCKET_BYTES = 40 * 2**20
"""Largest bucket. An aggregator holds several copies of those that it is sending."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """What one tensor of a State must look like, and how sites' versions of it become one.

    Attributes:
        name: Key in the State.
        shape: Shape of the array.
        dtype: numpy name of the element type, e.g. ``float32``.
        reduce: ``mean`` for what is trained, ``max`` for integers such as step counters,
            ``keep`` for frozen tensors, which stay what the global model holds.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    reduce: Reduce

    @classmethod
    def of(cls, name: str, array: Array) -> Self:
        """Describe ``array``: floating point is averaged, everything else takes the maximum."""
        reduce: Reduce = "mean" if array.dtype.kind == "f" else "max"
        return cls(name=name, shape=array.shape, dtype=_dtype_name(array.dtype), reduce=reduce)


@cache
def _dtype_name(dtype: np.dtype[Any]) -> str:
    # numpy works it out anew each time, which is most of what describing a large model costs.
    return dtype.name


class Spec(tuple[TensorSpec, ...]):
    """The tensors of a model in sorted name order; equal specs are a precondition of every join."""

    __slots__ = ()

    def digest(self) -> str:
        """SHA-256 over names, shapes, element types and reductions, in hexadecimal."""
        rows = [[t.name, list(t.shape), t.dtype, t.reduce] for t in self]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def difference(self, other: "Spec") -> str:
        """Name the first tensor in which two specs differ, for an error message; '' if equal."""
        mine, theirs = {t.name: t for t in self}, {t.name: t for t in other}
        for name in sorted(mine.keys() | theirs.keys()):
            a, b = mine.get(name), theirs.get(name)
            if a is None or b is None:
                return f"tensor {name!r} is {'missing' if b is None else 'unexpected'}"
            if a != b:
                theirs_is, mine_is = (f"{t.dtype}{t.shape} reduced by {t.reduce}" for t in (b, a))
                return f"tensor {name!r} is {theirs_is}, expected {mine_is}"
        return ""


class State(Mapping[str, Array]):
    """Immutable named arrays in sorted name order.

    Copies are free: ``copy.deepcopy(state) is state``. OpenFL's local runtime deep-copies every
    attribute of a flow for every site at every step, so this is what lets all sites of a
    simulation share one global model.

    Args:
        arrays: Name to array. Arrays that own their memory are taken over and made read-only: make
            no writable view of one before you hand it over. Views of writable memory are copied,
            because their owner could still change them.
        frozen: Names whose tensors are never averaged (``reduce='keep'``).

    Raises:
        ValueError: A frozen name is not among the arrays, or an array does not hold booleans,
            integers or floating point numbers that numpy itself knows.
    """

    __slots__ = ("_arrays", "_digest", "_spec")

    def __init__(self, arrays: Mapping[str, Array], *, frozen: Sequence[str] = ()) -> None:
        """Take over ``arrays`` and make them read-only."""
        self._arrays = {name: _frozen_array(name, arrays[name]) for name in sorted(arrays)}
        unknown = sorted(set(frozen) - set(self._arrays))
        if unknown:
            raise ValueError(f"frozen tensor {unknown[0]!r} is not in the state")
        specs = (TensorSpec.of(name, array) for name, array in self._arrays.items())
        self._spec = Spec(
            TensorSpec(name=s.name, shape=s.shape, dtype=s.dtype, reduce="keep")
            if s.name in frozen
            else s
            for s in specs
        )
        self._digest: str | None = None

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._arrays, self.frozen)

    def __repr__(self) -> str:
        return f"State({len(self)} tensors, {self.nbytes:,} bytes)"

    @property
    def spec(self) -> Spec:
        """Names, shapes, element types and reductions."""
        return self._spec

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the tensors that are never averaged."""
        return tuple(t.name for t in self._spec if t.reduce == "keep")

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    def digest(self) -> str:
        """SHA-256 over the spec and every byte of every tensor, in hexadecimal; computed once."""
        if self._digest is None:
            sha = hashlib.sha256(self._spec.digest().encode())
            for array in self._arrays.values():
                sha.update(np.ascontiguousarray(array).data)
            self._digest = sha.hexdigest()
        return self._digest

    def map(self, function: Callable[..., Array], *others: "State") -> "State":
        """Apply ``function(mine, *theirs)`` to every tensor of states with the same names."""
        return State(
            {name: function(array, *(o[name] for o in others)) for name, array in self.items()},
            frozen=self.frozen,
        )

    def trained(self) -> "State":
        """Only the tensors that a join averages."""
        return State({t.name: self[t.name] for t in self._spec if t.reduce == "mean"})

    def travelling(self) -> "State":
        """Only the tensors that change from round to round: all but the frozen ones."""
        return State({t.name: self[t.name] for t in self._spec if t.reduce != "keep"})

    def kept(self) -> "State":
        """Only the frozen tensors, which every party has of its own."""
        return State({name: self[name] for name in self.frozen}, frozen=self.frozen)

    def with_arrays(self, arrays: Mapping[str, Array]) -> "State":
        """This state with some of its tensors replaced.

        Raises:
            ValueError: A name is not in this state.
        """
        unknown = sorted(set(arrays) - set(self._arrays))
        if unknown:
            raise ValueError(f"tensor {unknown[0]!r} is not in the state")
        return State({**self._arrays, **arrays}, frozen=self.frozen)


def pack(state: State, max_bytes: int = BUCKET_BYTES) -> list[Array]:
    """Lay the tensors end to end in flat buckets of at most ``max_bytes``.

    A bucket holds one element type and one reduction: frozen tensors never share a bucket with
    trained ones. Tensors are taken in name order and split across buckets where needed, so that
    every bucket but the last of its kind is full. Elementwise joins give the same bits on buckets
    as on tensors. Buckets are read-only.

    Raises:
        ValueError: ``max_bytes`` is smaller than one element.
    """
    buckets = []
    for kind, cuts in _layout(state.spec, max_bytes).items():
        flat = np.concatenate([state[t.name].ravel() for t in state.spec if _kind(t) == kind])
        flat.flags.writeable = False
        buckets += [flat[start:stop] for start, stop in cuts]
    return buckets


def bucket_forms(spec: Spec, max_bytes: int = BUCKET_BYTES) -> list[tuple[str, int]]:
    """Element type and number of elements of every bucket that :func:`pack` makes.

    Raises:
        ValueError: ``max_bytes`` is smaller than one element.
    """
    layout = _layout(spec, max_bytes).items()
    return [(dtype, stop - start) for (dtype, _), cuts in layout for start, stop in cuts]


def unpack(buckets: Sequence[Array], spec: Spec) -> State:
    """Rebuild the State that :func:`pack` laid out.

    A tensor that lies in one bucket, and that is read-only, is a view of it: a State of buckets
    that are mapped from a file takes next to no memory.

    Raises:
        ValueError: The buckets hold another number of elements than ``spec`` asks for, or an
            element type that it does not name.
    """
    arrays: dict[str, Array] = {}
    by_kind = sorted(spec, key=lambda t: (*_kind(t), t.name))
    for dtype in sorted({t.dtype for t in spec} | {b.dtype.name for b in buckets}):
        parts = [b for b in buckets if b.dtype.name == dtype]
        tensors = [t for t in by_kind if t.dtype == dtype]
        found, expected = sum(b.size for b in parts), sum(_size(t) for t in tensors)
        if found != expected:
            raise ValueError(f"buckets hold {found} {dtype} elements, expected {expected}")
        start = 0
        for tensor in tensors:
            stop = start + _size(tensor)
            arrays[tensor.name] = _cut(parts, start, stop, dtype).reshape(tensor.shape)
            start = stop
    return State(arrays, frozen=[t.name for t in spec if t.reduce == "keep"])


def _layout(spec: Spec, max_bytes: int) -> dict[tuple[str, Reduce], list[tuple[int, int]]]:
    """Where each kind of tensor, laid end to end, is cut into buckets."""
    layout = {}
    for kind in sorted({_kind(t) for t in spec}):
        step = max_bytes // np.dtype(kind[0]).itemsize
        if step < 1:
            raise ValueError(f"max_bytes={max_bytes} is smaller than one {kind[0]} element")
        size = sum(_size(t) for t in spec if _kind(t) == kind)
        layout[kind] = [(start, min(start + step, size)) for start in range(0, size, step)]
    return layout


def _kind(tensor: TensorSpec) -> tuple[str, Reduce]:
    return tensor.dtype, tensor.reduce


def _size(tensor: TensorSpec) -> int:
    return math.prod(tensor.shape)


def _cut(parts: Sequence[Array], start: int, stop: int, dtype: str) -> Array:
    """Elements ``start`` to ``stop`` of parts laid end to end; a view where one part has them."""
    pieces = []
    begin = 0
    for part in parts:
        if start < begin + part.size and begin < stop:
            pieces.append(part[max(start - begin, 0) : stop - begin])
        begin += part.size
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype)


def _frozen_array(name: str, array: Array) -> Array:
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"tensor {name!r} has element type {array.dtype}, expected bool, integer or float"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.owndata and _can_still_change(array):
        array = array.copy()
    array.flags.writeable = False
    return array


def _can_still_change(view: Array) -> bool:
    owner: object = view
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return True
        owner = owner.base
    return False


def _rebuild(arrays: dict[str, Array], frozen: tuple[str, ...]) -> State:
    return State(arrays, frozen=frozen)
