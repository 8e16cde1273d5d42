"""A release is made: the model of a finished run with its plan, ledger and cards in one folder."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from openfl_flows.atomic import put_copy, write_atomically
from openfl_flows.ops.ledger import LEDGER, Ledger, decisive, plan_digest, read_ledger
from openfl_flows.ops.ledger_lines import disagreements
from openfl_flows.ops.record import read_record, run_in
from openfl_flows.release.folder import MANIFEST, files_of, is_name, read_document, sha256_of
from openfl_flows.release.keys import Signers, fingerprint
from openfl_flows.release.manifest import (
    CARDS,
    CONFIG,
    EVALUATION,
    FORMAT,
    MODEL,
    Contents,
    examine,
    model_of,
    read_card,
    read_evaluation,
)
from openfl_flows.release.tensors import read_model

Weights = Literal["model", "best", "ema"]


def make_release(
    folder: Path,
    out: Path,
    *,
    signers: Signers,
    weights: Weights = "model",
    evaluation: Path | None = None,
    cards: Iterable[Path] = (),
) -> Contents:
    """Write a release that nobody has signed yet; the same run gives the same bytes.

    Args:
        folder: A finished run, or a workspace or rehearsal with one.
        out: The release: a new or empty folder, which is there whole or not at all.
        signers: Whose signatures the parties have agreed to ask for.
        weights: The last model, the one with the best validation, or the moving average.
        evaluation: An evaluation card of the model (``openfl_flows.evaluation/1``).
        cards: Cards of training data, under their files' names.

    Returns:
        What the release holds.

    Raises:
        ValueError: The run is not finished or disagrees with its ledger, the model holds a number
            that is not finite, or a card cannot be used.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty, expected a new folder for the release")
    run = run_in(folder)
    record = read_record(run)
    model = run / f"{weights}.safetensors"
    if record["status"] != "finished" or not model.is_file():
        raise ValueError(f"{model}: no such file: the run is {record['status']}")
    ledger = _agreeing(run, record)
    building = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    try:
        put_copy(model, building / MODEL)
        ledger.write(building / LEDGER)
        _write(building / CONFIG, published(record["config"]))
        if evaluation is not None:
            write_atomically(building / EVALUATION, read_document(evaluation.resolve()))
        for card in cards:
            _take_card(card, building / CARDS / card.name)
        _write(building / MANIFEST, _manifest(building, record, ledger, weights, signers))
        released, _ = files_of(building)
        contents = examine(building, {name: sha256_of(building / name) for name in released})
        if out.exists():
            out.rmdir()
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return contents


def published(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a plan goes into a release: nothing of where one party kept what."""
    told = {key: config[key] for key in ("name", "federation") if key in config}
    return {**decisive(config), **told}


def _agreeing(run: Path, record: Mapping[str, Any]) -> Ledger:
    file = run / LEDGER
    if "ledger" not in record:
        raise ValueError(f"{run}: the run kept no ledger, expected one of a newer version")
    ledger = read_ledger(file)
    for difference in disagreements(ledger, record):
        raise ValueError(f"{file}: {difference}")
    return ledger.upto(record["ledger"]["lines"])


def _manifest(
    folder: Path, record: Mapping[str, Any], ledger: Ledger, weights: Weights, signers: Signers
) -> dict[str, Any]:
    model = read_model(folder / MODEL)
    round_, kind = len(record["rounds"]), str(weights)
    if weights == "best":
        best = record["best"]
        round_, kind = best["round"], "best_ema" if best.get("weights") == "average" else "best"
    made = model_of(ledger, kind, round_)
    if made != model.digest:
        raise ValueError(
            f"{weights}.safetensors has digest {model.digest[:12]}, expected {made[:12]} as in "
            f"{LEDGER} of round {round_}"
        )
    summary = None
    if (folder / EVALUATION).exists():
        summary = read_evaluation(folder / EVALUATION, model.digest)
    released, _ = files_of(folder)
    files = {name: sha256_of(folder / name) for name in released}
    return {
        "format": FORMAT,
        "name": str(record["config"].get("name", "")),
        "model": {
            "file": MODEL,
            "weights": kind,
            "round": round_,
            "digest": model.digest,
            "tensors": model.tensors,
        },
        "plan": {"file": CONFIG, "digest": plan_digest(record["config"])},
        "versions": record["versions"],
        "ledger": {"file": LEDGER, **ledger.summary()},
        "evaluation": summary,
        "cards": {
            Path(name).name: read_card(folder / name)["digest"]
            for name in released
            if name.startswith(f"{CARDS}/")
        },
        "signers": {
            "need": signers.need,
            "keys": {name: fingerprint(key) for name, key in sorted(signers.keys.items())},
        },
        "files": files,
    }


def _take_card(source: Path, target: Path) -> None:
    if not is_name(target.name) or target.suffix != ".json":
        raise ValueError(f"{source}: expected a card's name: letters, digits and '.json'")
    if target.exists():
        raise ValueError(f"{source}: there is another card of this name, expected one for each")
    read_card(source.resolve())
    write_atomically(target, read_document(source.resolve()))


def _write(path: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())
