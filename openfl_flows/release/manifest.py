"""The manifest of a release, and whether a folder is what its manifest says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openfl_flows.ops.ledger import LEDGER, Ledger, plan_digest, read_ledger
from openfl_flows.release.folder import MANIFEST, is_name, read_document
from openfl_flows.release.tensors import read_model
from openfl_flows.strict_json import digest_of, parse

FORMAT = "openfl_flows.release/1"
EVALUATION_FORMAT = "openfl_flows.evaluation/1"
MODEL, CONFIG, EVALUATION, CARDS = "model.safetensors", "config.json", "evaluation.json", "cards"

_KEYS = {"format", "name", "model", "plan", "versions", "ledger", "evaluation", "cards", "signers"}
_PARTS = {
    "model": {"file", "weights", "round", "digest", "tensors"},
    "plan": {"file", "digest"},
    "ledger": {"file", "lines", "head"},
    "signers": {"need", "keys"},
}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a release holds, once it is known to agree with its manifest.

    Attributes:
        manifest: The content of ``manifest.json``.
        ledger: The history of the model.
    """

    manifest: Mapping[str, Any]
    ledger: Ledger

    @property
    def model_digest(self) -> str:
        """The model's digest."""
        return str(self.manifest["model"]["digest"])


def examine(folder: Path, digests: Mapping[str, str]) -> Contents:
    """Make sure that manifest, model, plan, ledger and cards are of one release.

    What is read here is what had these digests, also where somebody changes files meanwhile.

    Args:
        folder: The release.
        digests: SHA-256 of every file in it but the signatures, by name.

    Raises:
        ValueError: They are not; the message names the file.
    """
    manifest = read_manifest(folder / MANIFEST, digests.get(MANIFEST))
    listed = manifest["files"]
    for name in sorted({*listed, MANIFEST} ^ digests.keys()):
        what = "missing, but" if name in listed else "not"
        raise ValueError(f"{folder / name}: {what} in the manifest")
    for name, expected in sorted(listed.items()):
        if digests[name] != expected:
            raise ValueError(f"{folder / name}: SHA-256 is not that of the manifest")
    # A card in a manifest is a file of the release; the others are named there for good.
    wanted = {MODEL, CONFIG, LEDGER, *(f"{CARDS}/{name}" for name in manifest["cards"])}
    wanted |= set() if manifest["evaluation"] is None else {EVALUATION}
    if wanted != listed.keys():
        different = sorted(wanted ^ listed.keys())[0]
        raise ValueError(f"{folder / different}: the manifest says two things of it")
    ledger = read_ledger(folder / LEDGER)
    if ledger.file_digest() != listed[LEDGER]:
        raise ValueError(f"{folder / LEDGER}: changed while it was verified")
    _check_model(folder, manifest)
    _check_plan(folder, manifest, ledger)
    _check_history(folder, manifest, ledger)
    if manifest["evaluation"] is not None:
        model = manifest["model"]["digest"]
        evaluation = read_evaluation(folder / EVALUATION, model, listed[EVALUATION])
        if evaluation != manifest["evaluation"]:
            raise ValueError(f"{folder / EVALUATION}: the manifest has another summary of it")
    for name, expected in manifest["cards"].items():
        if read_card(folder / CARDS / name, listed[f"{CARDS}/{name}"])["digest"] != expected:
            raise ValueError(f"{folder / CARDS / name}: digest is not that of the manifest")
    return Contents(manifest=manifest, ledger=ledger)


def read_manifest(path: Path, digest: str | None = None) -> dict[str, Any]:
    """The manifest in a file, of which the SHA-256 may be known.

    Raises:
        ValueError: There is none, or it is not of this format; the message names the key.
    """
    document = read_object(path, digest)
    if document.get("format") != FORMAT:
        raise ValueError(f"{path}: format={document.get('format')!r}, expected {FORMAT!r}")
    _expect_keys(path, "", document, {*_KEYS, "files"})
    for part, keys in _PARTS.items():
        _expect_keys(path, part, document[part], keys)
    for key in ("files", "cards", "versions"):
        if not isinstance(document[key], dict):
            raise ValueError(f"{path}: {key}: expected an object")
    for name, digest in {**document["files"], **document["cards"]}.items():
        if not is_name(name) or not isinstance(digest, str):
            raise ValueError(f"{path}: {name!r} is not a file's name with a digest")
    places = {"model": MODEL, "plan": CONFIG, "ledger": LEDGER}
    for part, file in places.items():
        if document[part]["file"] != file:
            raise ValueError(f"{path}: {part}.file={document[part]['file']!r}, expected {file!r}")
    return document


def read_object(path: Path, digest: str | None = None) -> dict[str, Any]:
    """A JSON object in a file, every key once; the file's SHA-256 may be known.

    Raises:
        ValueError: There is none.
    """
    try:
        document = parse(read_document(path, digest))
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return document


def read_card(path: Path, digest: str | None = None) -> dict[str, Any]:
    """A card of an evaluation or of data: ``digest`` is the SHA-256 of the canonical form without.

    The file's own SHA-256 may be known.

    Raises:
        ValueError: It is none, or was changed since.
    """
    card = read_object(path, digest)
    content = {key: value for key, value in card.items() if key != "digest"}
    found = digest_of(content)
    if card.get("digest") != found:
        raise ValueError(f"{path}: digest={card.get('digest')!r}, expected {found} of its content")
    return card


def read_evaluation(path: Path, model: str, digest: str | None = None) -> dict[str, Any]:
    """What a manifest says of an evaluation card, which must be of the model.

    The file's SHA-256 may be known.

    Raises:
        ValueError: It is no evaluation card, or of another model.
    """
    card = read_card(path, digest)
    if card.get("format") != EVALUATION_FORMAT:
        raise ValueError(f"{path}: format={card.get('format')!r}, expected {EVALUATION_FORMAT!r}")
    if card.get("candidate") != model:
        raise ValueError(
            f"{path}: of the model {str(card.get('candidate'))[:12]}, expected {model[:12]}"
        )
    return {"digest": card["digest"], "candidate": model, "baseline": card.get("baseline")}


def model_of(ledger: Ledger, weights: str, round_: object) -> str:
    """Digest that the ledger gives the model of a round, or its moving average.

    Args:
        ledger: With an intact chain.
        weights: ``model``, ``best`` or ``ema``; ``best_ema`` where the average was validated.
        round_: The round, from 0.

    Raises:
        ValueError: The ledger has no such model.
    """
    lines = [ledger.lines[0].body, *ledger.rounds]
    last = lines[-1]["round"]
    if weights in ("model", "ema") and round_ != last:
        raise ValueError(f"weights={weights} of round {round_!r}, but the ledger's last is {last}")
    average = weights in ("ema", "best_ema")
    for body in lines:
        if body["round"] == round_:
            found = body.get("average") if average else body["after"]
            # A moving average begins as the model.
            return str(body["after"] if average and round_ == 0 else found)
    raise ValueError(f"the ledger has no round {round_!r}, expected that of the model")


def _check_model(folder: Path, manifest: Mapping[str, Any]) -> None:
    model, expected = read_model(folder / MODEL), manifest["model"]
    if model.digest != expected["digest"]:
        raise ValueError(
            f"{folder / MODEL}: digest {model.digest[:12]}, expected that of the manifest"
        )
    if model.tensors != expected["tensors"]:
        raise ValueError(f"{folder / MODEL}: its tensors are not those of the manifest")


def _check_plan(folder: Path, manifest: Mapping[str, Any], ledger: Ledger) -> None:
    found = plan_digest(read_object(folder / CONFIG, manifest["files"][CONFIG]))
    if found != manifest["plan"]["digest"]:
        raise ValueError(f"{folder / CONFIG}: digest {found[:12]}, expected that of the manifest")
    for number, line in enumerate(ledger.lines, 1):
        if line.body.get("plan", found) != found:
            raise ValueError(f"{folder / LEDGER}: line {number}: of another plan than {CONFIG}")


def _check_history(folder: Path, manifest: Mapping[str, Any], ledger: Ledger) -> None:
    expected, model = manifest["ledger"], manifest["model"]
    if ledger.summary() != {key: expected[key] for key in ("lines", "head")}:
        raise ValueError(
            f"{folder / LEDGER}: {len(ledger.lines)} lines with the head {ledger.head[:12]}, "
            "which are not those of the manifest"
        )
    made = model_of(ledger, model["weights"], model["round"])
    if made != model["digest"]:
        raise ValueError(
            f"{folder / LEDGER}: round {model['round']} made the model {made[:12]}, but the "
            f"release has {model['digest'][:12]}"
        )


def _expect_keys(path: Path, part: str, found: object, keys: set[str]) -> None:
    if not isinstance(found, dict) or found.keys() != keys:
        where = f"{part}: " if part else ""
        raise ValueError(f"{path}: {where}expected an object with {', '.join(sorted(keys))}")
