"""What a classifier predicts for named samples, as a CSV file that people and machines read.

Columns: ``name``, ``target``, ``predicted``, then the probability of every class, four significant
digits, in the order of the classes.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openfl_flows.atomic import write_atomically
from openfl_flows.metrics.classification import class_means
from openfl_flows.metrics.mean import Mean

_FIRST = ("name", "target", "predicted")


@dataclass(frozen=True, eq=False)
class Predictions:
    """A classifier's predictions for N samples of C classes.

    Attributes:
        names: N distinct names.
        true: (N,) indices of the true classes.
        probabilities: (N, C) float32.
        classes: C distinct names.
        chosen: (N,) indices of the predicted classes; the most probable where None. A file has it,
            since rounded probabilities can be equal.

    Raises:
        ValueError: The parts do not fit each other, a name is repeated, or a probability is not
            finite.
    """

    names: Sequence[str]
    true: NDArray[np.integer[Any]]
    probabilities: NDArray[np.float32]
    classes: Sequence[str]
    chosen: NDArray[np.integer[Any]] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be told apart or is no prediction."""
        shape = (len(self.names), len(self.classes))
        if self.probabilities.shape != shape or self.true.shape != shape[:1]:
            raise ValueError(
                f"{shape[0]} names and {shape[1]} classes, but probabilities of shape "
                f"{self.probabilities.shape} and targets of shape {self.true.shape}"
            )
        for what, words in (("name", self.names), ("class", self.classes)):
            if len(set(words)) < len(words):
                raise ValueError(f"{what} {_first_repeated(words)!r} is there twice")
        if self.true.size and not 0 <= self.true.min() <= self.true.max() < shape[1]:
            raise ValueError(f"targets must be indices of the {shape[1]} classes")
        wrong = ~np.isfinite(self.probabilities).all(axis=1)
        if wrong.any():
            name = self.names[int(wrong.argmax())]
            raise ValueError(f"the probabilities of {name!r} are not finite: the model diverged")

    @property
    def predicted(self) -> NDArray[np.integer[Any]]:
        """(N,) indices of the predicted classes."""
        return self.probabilities.argmax(axis=1) if self.chosen is None else self.chosen

    def means(self, prefix: str = "") -> dict[str, Mean]:
        """Accuracy, recalls and precisions, their names after ``prefix`` (such as ``test_``)."""
        means = class_means(self.true, self.predicted, self.classes)
        return {f"{prefix}{name}": mean for name, mean in means.items()}

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow((*_FIRST, *self.classes))
        columns = zip(self.names, self.true, self.predicted, self.probabilities, strict=True)
        for name, true, predicted, row in columns:
            shown = (f"{value:.4g}" for value in row.tolist())
            writer.writerow((name, self.classes[true], self.classes[predicted], *shown))
        write_atomically(path, buffer.getvalue().encode())

    @classmethod
    def read(cls, path: Path) -> "Predictions":
        """Read what :meth:`write` wrote.

        Raises:
            ValueError: It is no such file; the message names the line.
            OSError: It cannot be read.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{path}: is not UTF-8 text, expected a CSV file") from None
        lines = csv.reader(io.StringIO(text, newline=""))
        classes = _classes(path, next(lines, []))
        index = {name: i for i, name in enumerate(classes)}
        rows: dict[str, tuple[int, int, NDArray[np.float32]]] = {}
        for row in lines:
            where = f"{path}, line {lines.line_num}"
            if len(row) != len(_FIRST) + len(classes):
                expected = len(_FIRST) + len(classes)
                raise ValueError(f"{where}: {len(row)} values, expected {expected}")
            name, target, predicted = row[:3]
            if name in rows:
                raise ValueError(f"{where}: name {name!r} is there twice")
            for column, word in (("target", target), ("predicted", predicted)):
                if word not in index:
                    raise ValueError(
                        f"{where}: {column} is {word!r}, expected one of {', '.join(classes)}"
                    )
            probabilities = _probabilities(where, row[3:])
            if probabilities[index[predicted]] < probabilities.max():
                raise ValueError(
                    f"{where}: predicted is {predicted!r}, not the most probable class"
                )
            rows[name] = (index[target], index[predicted], probabilities)
        if not rows:
            raise ValueError(f"{path}: holds no prediction, expected a line for each sample")
        true, chosen, values = zip(*rows.values(), strict=True)
        return cls(tuple(rows), np.array(true), np.stack(values), classes, np.array(chosen))


def predicts_classes(path: Path) -> bool:
    """Whether a file's first line is that of a classifier's predictions.

    Raises:
        OSError: It cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return _is_head(next(csv.reader(file), []))


def _is_head(row: Sequence[str]) -> bool:
    return tuple(row[:3]) == _FIRST and len(row) >= 5


def _classes(path: Path, row: Sequence[str]) -> tuple[str, ...]:
    if not _is_head(row):
        raise ValueError(
            f"{path}, line 1: columns {', '.join(row) or 'none'}, expected "
            f"{', '.join(_FIRST)} and at least two classes"
        )
    classes = tuple(row[3:])
    if len(set(classes)) < len(classes):
        raise ValueError(f"{path}, line 1: class {_first_repeated(classes)!r} is there twice")
    return classes


def _probabilities(where: str, words: Sequence[str]) -> NDArray[np.float32]:
    try:
        values = np.array(words, np.float32)
    except ValueError:
        values = np.array([np.nan], np.float32)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{where}: probabilities {', '.join(words)}, expected numbers from 0 to 1")
    return values


def _first_repeated(words: Sequence[str]) -> str:
    return Counter(words).most_common(1)[0][0]
