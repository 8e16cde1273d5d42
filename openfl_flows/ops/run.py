"""The run directory: one run's record, checkpoints and sites, readable by machines.

``run.json`` is the truth: a round exists once it is in there. It is replaced atomically after the
round's checkpoint and its line of the ledger are on disk, so a kill at any moment leaves the last
whole round.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from openfl_flows.atomic import put_copy, write_atomically
from openfl_flows.ops.files import load_state, map_state, save_state
from openfl_flows.ops.ledger import LEDGER, Ledger, read_ledger
from openfl_flows.ops.ledger_lines import round_line, start_line
from openfl_flows.ops.memory import peak_rss_bytes
from openfl_flows.ops.record import FORMAT, RECORD, encoded, read_record, versions
from openfl_flows.ops.rounds import NOTHING, Checkpoint, RoundRecord
from openfl_flows.state import State

Kind = Literal["federated", "centralized", "local"]
Tested = Literal["last", "best"]
"""Which model is measured on test data: the last one, or the one with the best validation."""
Mode = Literal["min", "max"]
Weights = Literal["model", "average"]
BEST = "best.safetensors"
"""The best model, at the top of the folder."""

# Of the last checkpoint, at the top of the folder of a finished run.
_KEPT = ("model.safetensors", "join.safetensors", "ema.safetensors")


class RunDirectory:
    """One run on disk.

    Args:
        path: The folder; use :meth:`create`, :meth:`open` or :meth:`resume`.
        record: The content of ``run.json``.
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record
        self._kept: str | None = None
        self._ledger: Ledger | None = None
        self._lines: list[str] = []

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        config: Mapping[str, Any],
        initial: Checkpoint,
        kind: Kind = "federated",
        best: tuple[str, Mode] | None = None,
        weights: Weights = "model",
    ) -> "RunDirectory":
        """Start a run in a new folder.

        Args:
            path: The folder; made if absent.
            config: What the run is made from, for its record.
            initial: What the aggregator holds before round 1.
            kind: How the model is trained.
            best: The validation metric that tells the best model, and whether less or more is
                better; None to keep no best model.
            weights: What is validated, and so can be the best: the model, or its moving average.

        Raises:
            ValueError: The folder exists and is not empty.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            go_on = f", or go on with it by resume={path}" if (path / "run.json").exists() else ""
            raise ValueError(f"out={path} exists and is not empty: choose another folder{go_on}")
        record: dict[str, Any] = {
            "format": FORMAT,
            "kind": kind,
            "status": "running",
            "config": config,
            "versions": versions(),
            "initial": {"digest": initial.model.digest(), "metrics": {}},
            "rounds": [],
            "digest": initial.model.digest(),
            "metrics": {},
            "peak_rss_bytes": 0,
        }
        if best is not None:
            unknown = {"round": None, "value": None, "digest": None}
            record["best"] = {"metric": best[0], "mode": best[1], "weights": weights, **unknown}
        run = cls(path, record)
        ledger = run._new_ledger()
        run._save_checkpoint(0, initial, ledger.head)
        run._enter(ledger)
        run.write()
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open a run that exists, finished or not.

        Raises:
            ValueError: There is no readable ``run.json`` of this format.
        """
        return cls(path, read_record(path))

    @classmethod
    def resume(
        cls,
        path: Path,
        *,
        rounds: int,
        average: bool,
        config: Mapping[str, Any],
        kind: Kind = "federated",
    ) -> "RunDirectory":
        """Open a run to go on with it, finished or not; nothing is written yet.

        Args:
            path: The folder.
            rounds: Number of the last round.
            average: Whether the run keeps a moving average.
            config: What it goes on with, for its record; empty to leave the record's.
            kind: How the model is trained.

        Raises:
            ValueError: There is no such run, it is of another kind or beyond ``rounds``, or a
                checkpoint is missing or corrupt.
        """
        run = cls.open(path)
        if run.record["kind"] != kind:
            raise ValueError(f"{path}: a {run.record['kind']} run, expected a {kind} one")
        if run.round > rounds:
            raise ValueError(
                f"federation.rounds={rounds}, expected at least the {run.round} that {path} has"
            )
        run.model(), run.join_state(), run.best_model(), run.frames(), run.residual()
        run.ledger()
        if (run.average() is not None) != average:
            raise ValueError(
                f"{run._checkpoint_folder(run.round) / 'ema.safetensors'}: "
                + ("no such file, but the run" if average else "there is one, but the run")
                + (" keeps a moving average" if average else " keeps no moving average")
            )
        run.record |= {"status": "running", "metrics": {}, "config": config or run.record["config"]}
        run.record.pop("tested", None)
        return run

    def go_on(self) -> None:
        """Write the record of a resumed run, and remove what a kill left half-written."""
        if "ledger" in self.record:
            self._enter(self.ledger())
        self.write()
        for stray in self.path.rglob(".*.tmp"):
            stray.unlink()

    @property
    def round(self) -> int:
        """The last whole round; 0 before the first."""
        return len(self.record["rounds"])

    @property
    def digest_before(self) -> str:
        """Digest of the model that the last whole round began with; "" before the first."""
        known = [self.record["initial"], *self.record["rounds"]]
        return str(known[-2]["digest"]) if len(known) > 1 else ""

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.record["status"] == "finished")

    def site(self, name: str) -> Path:
        """The folder of one site's local state: nothing in it ever leaves the site."""
        return self.path / "sites" / name

    def model(self) -> State:
        """The global model after the last whole round.

        Raises:
            ValueError: The file is missing or corrupt, or is not of the round it should be.
        """
        file = self._checkpoint_folder(self.round) / "model.safetensors"
        model = load_state(file)
        if model.digest() != self.record["digest"]:
            raise ValueError(
                f"{file}: digest {model.digest()[:12]} is not {self.record['digest'][:12]}, "
                f"that of round {self.round} in run.json"
            )
        return model

    def join_state(self) -> State:
        """The join's state after the last whole round.

        Raises:
            ValueError: The file is missing or corrupt.
        """
        return load_state(self._checkpoint_folder(self.round) / "join.safetensors")

    def average(self) -> State | None:
        """The moving average after the last whole round, None where the run keeps none.

        Raises:
            ValueError: The file is corrupt.
        """
        file = self._checkpoint_folder(self.round) / "ema.safetensors"
        return load_state(file) if file.exists() else None

    def frames(self) -> State:
        """The frames that took the model of the last whole round to the sites, if not as it is.

        Raises:
            ValueError: The file is corrupt.
        """
        return self._load_optional("frames")

    def residual(self) -> State:
        """What the aggregator's frames have left out so far; nothing without error feedback.

        Raises:
            ValueError: The file is corrupt.
        """
        return self._load_optional("residual")

    @property
    def validates_average(self) -> bool:
        """Whether it is the moving average that is validated every round."""
        return bool(self.record.get("best", {}).get("weights") == "average")

    def best_model(self) -> State | None:
        """The model with the best validation so far, None where none is kept or measured.

        Raises:
            ValueError: It is missing or corrupt, or is not of the round it should be.
        """
        best = self.record.get("best")
        if best is None or best["round"] is None:
            return None
        file = self._best_file()
        model = load_state(file)
        if model.digest() != best["digest"]:
            raise ValueError(
                f"{file}: digest {model.digest()[:12]} is not {best['digest'][:12]}, "
                f"that of round {best['round']}, the best in run.json"
            )
        return model

    def model_to_test(self, tested: Tested) -> State:
        """The model to measure on test data, once the last one is validated too.

        Raises:
            ValueError: It is to be the best one and no model was ever validated by the metric that
                tells the best, or its file is missing or corrupt.
        """
        if tested == "last":
            return self.model()
        best = self.best_model()
        if best is None:
            metric = self.record.get("best", {}).get("metric")
            raise ValueError(
                f"{self.path}: federation.tested=best, but no model has a finite {metric} on "
                "validation data, which tells the best"
            )
        return best

    @property
    def tested_digest(self) -> str:
        """Digest of the model that a finished run measured on test data."""
        # Runs of before it could be chosen tested the last one.
        return str(self.record.get("tested", self.record)["digest"])

    def ledger(self) -> Ledger:
        """The ledger of the whole rounds; a new one in a run that has none yet.

        Raises:
            ValueError: It is missing or broken, or is not the one in the record.
        """
        if self._ledger is None:
            kept = self.record.get("ledger")
            if kept is None:
                return self._new_ledger()
            file = self.path / LEDGER
            ledger = read_ledger(file).upto(kept["lines"])
            if ledger.summary() != kept:
                raise ValueError(
                    f"{file}: {len(ledger.lines)} lines with the head {ledger.head[:12]}, expected "
                    f"{kept['lines']} with {kept['head'][:12]} as in run.json"
                )
            self._ledger = ledger
        return self._ledger

    def commit(self, round_record: RoundRecord, checkpoint: Checkpoint) -> Checkpoint:
        """Make a round exist: its checkpoint and its line first, then the record that names it.

        Returns:
            The checkpoint; all but the model as files, mapped into memory.
        """
        record = asdict(round_record)
        line = round_line(
            self.record["config"],
            record,
            before=self.record["digest"],
            join_state=checkpoint.join_state.digest(),
            average=None if checkpoint.average is None else checkpoint.average.digest(),
        )
        ledger = self.ledger().append("round", line)
        self._save_checkpoint(round_record.round, checkpoint, ledger.head)
        self._enter(ledger)
        self.record["rounds"].append(record)
        self.record["digest"] = round_record.digest
        self.write()
        for old in range(max(0, round_record.round - 1)):
            shutil.rmtree(self._checkpoint_folder(old), ignore_errors=True)
        folder = self._checkpoint_folder(round_record.round)
        return checkpoint._replace(
            join_state=map_state(folder / "join.safetensors"),
            average=None if checkpoint.average is None else map_state(folder / "ema.safetensors"),
            residual=map_state(folder / "residual.safetensors") if checkpoint.residual else NOTHING,
        )

    def measured(self, metrics: Mapping[str, float]) -> None:
        """Note the validation of the model that the last whole round made.

        The model becomes the best one if it is better than all before: the first wins ties, and
        what is not a finite number, or was not measured, never wins.
        """
        target = self.record["rounds"][-1] if self.record["rounds"] else self.record["initial"]
        target["metrics"] = dict(metrics)
        best = self.record.get("best")
        value = metrics.get(best["metric"], math.nan) if best is not None else math.nan
        if best is not None and math.isfinite(value) and _better(value, best):
            best |= {"round": self.round, "value": value, "digest": self._validated_digest()}

    def finish(self, metrics: Mapping[str, float], *, tested: Tested = "last") -> None:
        """Close the run with its final metrics, and the last model at the top of the folder.

        Args:
            metrics: Of the model that was tested.
            tested: Which one that was.
        """
        self.write()
        for name in _KEPT:
            file = self._checkpoint_folder(self.round) / name
            if file.exists():
                put_copy(file, self.path / name)
        self.record["metrics"] = dict(metrics)
        chosen = self.record["best"] if tested == "best" else self.record | {"round": self.round}
        self.record["tested"] = {key: chosen[key] for key in ("round", "digest")}
        self.record["status"] = "finished"
        self.write()

    def write(self) -> None:
        """Replace ``run.json``, then keep the model that it says is the best."""
        sites = (s for r in self.record["rounds"] for s in r["sites"].values())
        peaks = [s["peak_rss_bytes"] for s in sites]
        self.record["peak_rss_bytes"] = max(peak_rss_bytes(), *peaks, 0)
        write_atomically(self.path / RECORD, encoded(self.record, self._lines))
        best = self.record.get("best")
        if best is not None and best["digest"] != self._kept:
            source, file = self._best_file(), self.path / BEST
            if source != file:
                put_copy(source, file)
            self._kept = best["digest"]

    def _best_file(self) -> Path:
        """Where the best model is: in its round's checkpoint as long as there is one.

        The record names it first, and the copy at the top is made before that checkpoint goes.
        """
        name = "ema.safetensors" if self.validates_average else "model.safetensors"
        checkpoint = self._checkpoint_folder(self.record["best"]["round"]) / name
        return checkpoint if checkpoint.is_file() else self.path / BEST

    def _validated_digest(self) -> str:
        if not self.validates_average:
            return str(self.record["digest"])
        average = self.average()
        assert average is not None
        return average.digest()

    def _load_optional(self, name: str) -> State:
        file = self._checkpoint_folder(self.round) / f"{name}.safetensors"
        return load_state(file) if file.exists() else NOTHING

    def _checkpoint_folder(self, round_: int) -> Path:
        return self.path / "checkpoints" / f"{round_:05d}"

    def _new_ledger(self) -> Ledger:
        line = start_line(
            self.record["config"],
            kind=self.record["kind"],
            round_=self.round,
            model=self.record["digest"],
        )
        return Ledger().append("start", line)

    def _enter(self, ledger: Ledger) -> None:
        """Put a ledger in place and into the record, which is still to be written."""
        ledger.write(self.path / LEDGER)
        self._ledger, self.record["ledger"] = ledger, ledger.summary()

    def _save_checkpoint(self, round_: int, checkpoint: Checkpoint, head: str) -> None:
        folder = self._checkpoint_folder(round_)
        save_state(folder / "model.safetensors", checkpoint.model, ledger=head)
        save_state(folder / "join.safetensors", checkpoint.join_state, ledger=head)
        if checkpoint.average is not None:
            save_state(folder / "ema.safetensors", checkpoint.average, ledger=head)
        for name, state in (("frames", checkpoint.frames), ("residual", checkpoint.residual)):
            if state:
                save_state(folder / f"{name}.safetensors", state)


def _better(value: float, best: Mapping[str, Any]) -> bool:
    if best["value"] is None:
        return True
    return bool(value < best["value"] if best["mode"] == "min" else value > best["value"])
