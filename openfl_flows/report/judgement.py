"""The properties of drawn molecules by each source, and their distances to the targets."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openfl_flows.data.molecules import HARTREE_IN_EV
from openfl_flows.data.xtb import Label, label_cached
from openfl_flows.metrics.oracle import (
    PROPERTIES,
    Calibration,
    Pair,
    calibrate,
    looked_up,
    read_labels,
)
from openfl_flows.metrics.target_errors import Errors
from openfl_flows.seeds import derived_seed


class Judge:
    """A table of labels and, where asked for, GFN2-xTB.

    Args:
        labels: By plain SMILES; may be empty.
        xtb: File of xTB's values; None to do without.
        lines: Calibration of each property; empty without xTB.
        workers: Processes of xTB.
    """

    def __init__(
        self,
        labels: Mapping[str, Pair],
        xtb: Path | None,
        lines: Mapping[str, Calibration],
        workers: int,
    ) -> None:
        self._labels = labels
        self._xtb = xtb
        self._lines = lines
        self._workers = workers
        self._values: dict[str, Label] = {}
        self._failures: dict[str, str] = {}

    def errors(
        self,
        smiles: Sequence[str | None],
        opinion: NDArray[np.float64],
        targets: NDArray[np.float64],
    ) -> tuple[dict[tuple[str, str], Errors], int]:
        """Absolute errors by source and property, and how many molecules have a label.

        Args:
            smiles: (num,) of the molecules, all of a target after another; None where not valid.
            opinion: (num, 2) of the regressor.
            targets: (T, 2), NaN where nothing is wanted.

        Returns:
            (T, num / T) errors, NaN where there is no value; and the count.
        """
        if self._xtb is not None:
            neutral = [s for s in smiles if s is not None and not _charged(s)]
            values, failures = label_cached(neutral, self._xtb, self._workers)
            self._values |= values
            self._failures |= failures
        wanted = np.repeat(targets, len(smiles) // len(targets), 0)
        known = np.array([looked_up(s, self._labels) for s in smiles])
        valid = np.array([s is not None for s in smiles])
        found: dict[tuple[str, str], Errors] = {}
        for k, name in enumerate(PROPERTIES):
            if self._labels:
                found["table", name] = np.abs(known[:, k] - wanted[:, k])
            if self._xtb is not None:
                measured = np.array([self._measured(s)[k] for s in smiles])
                found["xtb", name] = self._lines[name].errors(measured, wanted[:, k])
            own = np.abs(opinion[:, k] - wanted[:, k])
            found["regressor", name] = np.where(valid, own, math.nan)
        shape = (len(targets), -1)
        num = int((~np.isnan(known).all(1)).sum())
        return {key: value.reshape(shape) for key, value in found.items()}, num

    def columns(self) -> tuple[str, ...]:
        """Names of what :meth:`row` gives."""
        return ("table_mu", "table_homo", "xtb_mu", "xtb_homo")

    def row(self, smiles: str | None) -> tuple[str, ...]:
        """A molecule's labels and its calibrated xTB values, empty where there are none."""
        unknown = (math.nan, math.nan)
        xtb = self.properties(smiles) if smiles and self._lines else unknown
        values = (*looked_up(smiles, self._labels), *xtb)
        return tuple("" if math.isnan(value) else f"{value:.4f}" for value in values)

    def properties(self, smiles: str) -> Pair:
        """A molecule's dipole and HOMO by calibrated xTB, or by the table without xTB."""
        if not self._lines:
            return looked_up(smiles, self._labels)
        mu, homo = (
            float(self._lines[name].values(np.array(value)))
            for name, value in zip(PROPERTIES, self._measured(smiles), strict=True)
        )
        return mu, homo

    def note(self) -> str:
        """How the table came about: the calibration and the failures."""
        lines = [
            f"xTB to table, {name}: r {line.r:.3f}, slope {line.slope:.3f}, "
            f"intercept {line.intercept:.3f}, residual MAE {line.mae:.3f}, "
            f"{len(line.residuals)} molecules"
            for name, line in self._lines.items()
        ]
        reasons = list(self._failures.values())
        counts = ", ".join(f"{reasons.count(r)} {r}" for r in sorted(set(reasons)))
        if self._xtb is not None:
            total = len(self._failures) + len(self._values)
            lines.append(f"xTB failed on {len(reasons)} of {total} molecules ({counts})")
        return "".join(f"{line}\n" for line in lines)

    def _measured(self, smiles: str | None) -> Pair:
        value = self._values.get(smiles or "")
        return (math.nan, math.nan) if value is None else (value.mu, value.homo * HARTREE_IN_EV)


def judge(table: Path | None, *, xtb: Path | None, calibrate_on: int, workers: int) -> Judge:
    """Read the table and, where xTB is asked for, fit its calibration.

    Args:
        table: Labels in QM9's columns.
        xtb: File of xTB's values, made if absent; None to do without xTB.
        calibrate_on: Molecules of the table, with both labels, that the calibration is fitted on.
        workers: Processes of xTB.

    Raises:
        ValueError: Neither source is given, xTB has no table to be calibrated on or is not
            installed, or the table cannot be used.
        OSError: The table cannot be read.
    """
    if table is None:
        raise ValueError("--table is missing, expected a table of labels: they are what is real")
    labels = read_labels(table)
    if xtb is None:
        return Judge(labels, None, {}, workers)
    both = sorted(s for s, pair in labels.items() if not math.isnan(sum(pair)) and not _charged(s))
    order = np.random.default_rng(derived_seed("calibration")).permutation(len(both))
    chosen = [both[i] for i in order[:calibrate_on]]
    values, _ = label_cached(chosen, xtb, workers)
    known = np.array([labels[s] for s in values])
    measured = np.array([(v.mu, v.homo * HARTREE_IN_EV) for v in values.values()])
    if len(values) < 3:
        raise ValueError(f"{table}: xTB labels {len(values)} of {len(chosen)}, expected at least 3")
    lines = {name: calibrate(measured[:, k], known[:, k]) for k, name in enumerate(PROPERTIES)}
    return Judge(labels, xtb, lines, workers)


def _charged(smiles: str) -> bool:
    """Whether an atom has a charge: xTB is run on neutral molecules only."""
    return "+" in smiles or "-]" in smiles
