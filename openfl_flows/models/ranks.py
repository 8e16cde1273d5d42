"""The processes of one site that train one model together: a GPU each, all alike.

All of them do the same calls in the same order. What one of them fails at, all of them hear of at
their next exchange, so that none waits for numbers that will not come. One process alone exchanges
nothing and behaves as if this module did not exist.
"""

import contextlib
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_TOLD = "told to all processes of the site"
_SMALL = 2**16
"""Bytes of an array that is not worth a message of its own."""
_ALIGNED = 64


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those of its site; alone by default.

    Of several, each is in torch's default process group before the first exchange.

    Attributes:
        rank: Its number, from 0, who leads.
        size: How many there are.
        local_rank: Its number on this machine, which is that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def device(self, name: str) -> torch.device:
        """The device that a plan names; of several processes, each has the GPU of its own number.

        Raises:
            ValueError: One GPU is named for several processes, or there are too few.
        """
        device = torch.device(name)
        if self.size == 1 or device.type != "cuda":
            return device
        if ":" in name:
            raise ValueError(
                f"training.device={name} with {self.size} processes, expected cuda: each takes the "
                "GPU of its own number"
            )
        found = torch.cuda.device_count()
        if self.local_rank >= found:
            raise ValueError(
                f"training.device={name}: this machine has {found} GPUs, expected one for each of "
                f"its processes, of which this is number {self.local_rank + 1}"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """What this process does of ``items``: every ``size``-th."""
        return items[self.rank :: self.size]

    def in_order(self, work: Callable[[], Sequence[T]]) -> list[T]:
        """What all processes make of their shares, at all of them in the order of the items.

        Raises:
            ValueError: As :meth:`agreed`.
        """
        shares = self._exchanged(work, lambda made: made)[1]
        longest = max(len(share) for share in shares)
        return [share[n] for n in range(longest) for share in shares if n < len(share)]

    def agreed(self, work: Callable[[], T]) -> T:
        """Do ``work`` at all processes, each keeping its result, and fail at all if one fails.

        Raises:
            ValueError: It was raised here, or at another process, whose number it then names.
            RuntimeError: Another process raised something else.
        """
        return self._exchanged(work, lambda made: None)[0]

    def summed(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    @contextlib.contextmanager
    def summing(self) -> Iterator[None]:
        """End this process if something fails here, where others wait for it and cannot be told.

        Raises:
            SystemExit: Something failed, or another process has ended.
        """
        try:
            yield
        except Exception as error:
            if self.size == 1:
                raise
            raise SystemExit(
                f"process {self.rank} of {self.size} ends, as another one did or has to: "
                f"{_line(error)}"
            ) from error

    def broadcast(self, parcel: "Parcel | None" = None) -> "Parcel":
        """Send a parcel from rank 0 to all others.

        Args:
            parcel: What is sent, at rank 0; None at the others.

        Returns:
            What was sent; at the others in memory of its own.
        """
        with self.summing():
            head = [None if parcel is None else (parcel.head, [len(b) for b in parcel.buffers])]
            dist.broadcast_object_list(head, src=0)
            assert head[0] is not None
            arrived = parcel or Parcel(head[0][0], _room(head[0][1]))
            for buffer in arrived.buffers:
                dist.broadcast(_bytes_of(buffer), src=0)
        return arrived

    def _exchanged(self, work: Callable[[], T], shown: Callable[[T], Any]) -> tuple[T, list[Any]]:
        """Do ``work``; its result here, and what all processes show of theirs."""
        if self.size == 1:
            made = work()
            return made, [shown(made)]
        failure: Exception | None = None
        try:
            made = work()
        # Whatever it is: the others would wait for this process.
        except Exception as error:  # noqa: BLE001
            if _TOLD in getattr(error, "__notes__", ()):
                raise
            failure = error
        said = (None, shown(made)) if failure is None else (_Failure.of(failure), None)
        everyone: list[Any] = [None] * self.size
        with self.summing():
            dist.all_gather_object(everyone, said)
        for rank, (failed, _) in enumerate(everyone):
            if failed is not None and failure is None:
                failure = failed.raised_by(rank)
        if failure is not None:
            failure.add_note(_TOLD)
            raise failure
        return made, [show for _, show in everyone]


ALONE = Ranks()
"""A process that is all of its site."""


@dataclass(frozen=True)
class Parcel:
    """A value on its way to other processes.

    Attributes:
        head: The value without the bytes of its larger arrays and tensors.
        buffers: These, where they are: they are sent from there.
    """

    head: bytes
    buffers: list[Any]

    @classmethod
    def of(cls, value: object) -> "Parcel":
        """Pack what ``pickle`` takes; tensors will arrive in the processor's memory."""
        buffers: list[Any] = []

        def small(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if len(raw) >= _SMALL:
                buffers.append(raw)
            return len(raw) < _SMALL

        head = BytesIO()
        _Pickler(head, protocol=5, buffer_callback=small).dump(value)
        return cls(head.getvalue(), buffers)

    def unpacked(self) -> Any:
        """The value; its arrays and tensors are views of the buffers."""
        return pickle.loads(self.head, buffers=self.buffers)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        data: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(data), value.dtype, tuple(value.shape))


def _room(sizes: Sequence[int]) -> list[memoryview]:
    """Unset buffers, in one piece of memory: it goes back as one, too."""
    starts = [0, *accumulate(-(-size // _ALIGNED) * _ALIGNED for size in sizes)]
    empty: Any = np.empty(starts[-1], np.uint8)
    whole = memoryview(empty)
    return [whole[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _bytes_of(buffer: Any) -> Tensor:
    with warnings.catch_warnings():
        # Who sends what may only be read does only read it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.frombuffer(buffer, np.uint8))


def _tensor(data: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not len(data):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


@dataclass(frozen=True)
class _Failure:
    """What one process tells the others of its error."""

    line: str
    by_user: bool

    @classmethod
    def of(cls, error: Exception) -> "_Failure":
        return cls(_line(error), isinstance(error, ValueError))

    def raised_by(self, rank: int) -> Exception:
        kind = ValueError if self.by_user else RuntimeError
        return kind(f"process {rank}: {self.line}")


def _line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
