"""What the aggregator gives to sites that ask for a tensor of the round at hand, and what not."""

import contextlib
import logging
from collections.abc import Iterator

from openfl.utilities import TensorKey

from openfl_flows.state import Array, State
from openfl_flows.taskrunner.broadcast import Broadcast, held_digest, held_tag
from openfl_flows.taskrunner.wire import AVERAGE, to_buckets

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def refusals_told() -> Iterator[None]:
    """Tell the operator of what is refused; the server tells the site."""
    try:
        yield
    except ValueError as error:
        logger.error("Refused: %s", error)
        raise


class Serving:
    """Buckets of the global model, and of its moving average where that is measured.

    Args:
        broadcast: The model.
        average: The moving average, None where no site asks for it.
        round_number: OpenFL's, of the round at hand.
    """

    def __init__(self, broadcast: Broadcast, average: State | None, round_number: int) -> None:
        self._broadcast, self._round = broadcast, round_number
        self._average = {} if average is None else to_buckets(average, AVERAGE)

    @refusals_told()
    def array(self, key: TensorKey, asker: str) -> Array:
        """What is asked for.

        Raises:
            ValueError: There is no such bucket. OpenFL would wait a minute for it.
        """
        name, _, round_number, report, tags = key
        held = held_digest(set(tags))
        others = set(tags) - {"compressed", held_tag(held)}
        if not report and others == {"model"} and round_number == self._round:
            if name in self._broadcast.names:
                return self._broadcast.frame(name, held)
            if name in self._average:
                return self._average[name]
        raise ValueError(
            f"{asker!r} asks for tensor {name[:80]!r} of round {round_number + 1}, expected "
            f"a bucket of the model of round {self._round + 1}"
        )
