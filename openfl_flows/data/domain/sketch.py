"""What a site tells of its training data: keyed hashes of parts that many of its items have.

A part of at least ``floor`` items is hashed with the sites' secret, ``HMAC-SHA256(secret, what NUL
part)``, cut to 64 bits, and the ``keep`` smallest hashes leave the site, sorted, without counts.
These are a random sample of the parts, the same at all sites (bottom-k: Cohen and Kaplan, PODC
2007), so that sketches of any size merge: a part whose hash is above the sketch's ``threshold`` is
one that the sketch says nothing of.

The distance of an item is the share of its parts, of those that the sketch can speak of, which no
site has often: 0 where all are known, 1 where none is.
"""

import base64
import hmac
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openfl_flows.atomic import write_json
from openfl_flows.data.blind.folds import commitment
from openfl_flows.data.domain.parts import Kind, Parts
from openfl_flows.strict_json import digest_of

FORMAT = "openfl_flows.domain/1"
ALL = 2**64 - 1
"""Threshold of a sketch that holds every part."""
FLOOR = 10
KEEP = 65_536
"""512 KiB of hashes."""
LEAST_PARTS = 5
"""Of an item that a distance is told of: fewer parts say little."""
INSIDE = 0.95
"""Share of a site's own items within its radius."""

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A site's sketch, or that of several sites together.

    Attributes:
        kind: Molecules or proteins.
        word: Residues of a protein's words; 0 for molecules.
        floor: In how many items a part is, at least.
        key: Commitment of the secret, to tell another one.
        sites: Number of sites.
        threshold: Hashes above it are unknown.
        radius: Distance within which 95 % of a site's items lie, each without itself, in steps of
            0.01; of several sites the largest.
        hashes: Sorted.
    """

    kind: Kind
    word: int
    floor: int
    key: str
    sites: int
    threshold: int
    radius: float
    hashes: Hashes


def make_sketch(
    items: Iterable[Parts],
    secret: bytes,
    *,
    kind: Kind,
    word: int = 0,
    floor: int = FLOOR,
    keep: int = KEEP,
) -> Sketch:
    """The sketch of a site's training items.

    Items of the same parts are one: a compound that was measured ten times is no ten compounds.

    Raises:
        ValueError: The floor or the size protects or says nothing, or there are fewer different
            items than the floor.
    """
    if floor < 2:
        raise ValueError(
            f"--floor is {floor}, expected at least 2: a part of one item is that item's"
        )
    if keep < 1:
        raise ValueError(f"--keep is {keep}, expected at least 1")
    known = list(dict.fromkeys(items))
    if len(known) < floor:
        raise ValueError(f"{len(known)} different items, expected at least {floor}")
    counts = Counter(part for parts in known for part in parts)
    frequent = {part: count for part, count in counts.items() if count >= floor}
    hashes = np.array(sorted({_hash(part, secret, kind, word) for part in frequent}), np.uint64)
    complete = len(hashes) <= keep
    return Sketch(
        kind=kind,
        word=word,
        floor=floor,
        key=commitment(secret),
        sites=1,
        threshold=ALL if complete else int(hashes[keep - 1]),
        radius=_radius(known, counts, floor),
        hashes=hashes[:keep],
    )


def merge_sketches(sketches: Sequence[Sketch]) -> Sketch:
    """The sketch of all sites together, which needs no secret and names nobody.

    Raises:
        ValueError: They are of different kinds, floors or secrets.
    """
    first = sketches[0]
    for other in sketches[1:]:
        for name in ("kind", "word", "floor", "key"):
            if getattr(other, name) != getattr(first, name):
                raise ValueError(
                    f"sketches with {name} {getattr(first, name)} and {getattr(other, name)}, "
                    "expected the same of all sites"
                )
    threshold = min(sketch.threshold for sketch in sketches)
    hashes = np.unique(np.concatenate([sketch.hashes for sketch in sketches]))
    return Sketch(
        kind=first.kind,
        word=first.word,
        floor=first.floor,
        key=first.key,
        sites=sum(sketch.sites for sketch in sketches),
        threshold=threshold,
        radius=max(sketch.radius for sketch in sketches),
        hashes=hashes[hashes <= np.uint64(threshold)],
    )


def distances(items: Iterable[Parts | None], sketch: Sketch, secret: bytes) -> NDArray[np.float64]:
    """Distance of each item, (N,); NaN where too few of its parts can be spoken of.

    Raises:
        ValueError: The secret is another one.
    """
    if commitment(secret) != sketch.key:
        raise ValueError(
            f"the key has the commitment {commitment(secret)}, expected {sketch.key} of the sketch"
        )
    known = set(sketch.hashes.tolist())
    found = []
    for parts in items:
        hashes = [_hash(part, secret, sketch.kind, sketch.word) for part in parts or ()]
        spoken = [number for number in hashes if number <= sketch.threshold]
        share = sum(number in known for number in spoken) / max(1, len(spoken))
        found.append(1 - share if len(spoken) >= LEAST_PARTS else math.nan)
    return np.array(found)


def write_sketch(path: Path, sketch: Sketch) -> str:
    """Write a sketch as JSON; return its digest, which is in the file too."""
    document = _document(sketch)
    digest = digest_of(document)
    write_json(path, {**document, "digest": digest})
    return digest


def read_sketch(path: Path) -> Sketch:
    """Read what :func:`write_sketch` wrote.

    Raises:
        ValueError: The file is missing, is none of these, or is damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a sketch")
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        digest = document.pop("digest")
        if document.pop("format") != FORMAT:
            raise ValueError("another format")
        raw = base64.b64decode(document.pop("hashes"), validate=True)
        hashes = np.frombuffer(raw, ">u8").astype(np.uint64)
        threshold = int(document.pop("threshold"), 16)
        sketch = Sketch(hashes=hashes, threshold=threshold, **document)
        if digest_of(_document(sketch)) != digest or np.any(hashes[1:] <= hashes[:-1]):
            raise ValueError("its digest is another")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: expected a sketch in the format {FORMAT}: {error}") from None
    return sketch


def _document(sketch: Sketch) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": sketch.kind,
        "word": sketch.word,
        "floor": sketch.floor,
        "key": sketch.key,
        "sites": sketch.sites,
        "threshold": f"{sketch.threshold:016x}",
        "radius": sketch.radius,
        "hashes": base64.b64encode(sketch.hashes.astype(">u8").tobytes()).decode(),
    }


def _hash(part: bytes, secret: bytes, kind: Kind, word: int) -> int:
    message = f"{FORMAT}\0{kind}\0{word}\0".encode() + part
    return int.from_bytes(hmac.digest(secret, message, "sha256")[:8], "big")


def _radius(items: Sequence[Parts], counts: Mapping[bytes, int], floor: int) -> float:
    """The 95th percentile of the items' distances, each to a sketch made without it."""
    own = [
        sum(counts[part] <= floor for part in parts) / len(parts)
        for parts in items
        if len(parts) >= LEAST_PARTS
    ]
    if not own:
        return 0.0
    return math.ceil(100 * float(np.quantile(own, INSIDE))) / 100
