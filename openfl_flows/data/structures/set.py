"""A prepared set of structures on disk, as ``openfl-flows data prepare`` writes it."""

import json
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from openfl_flows.atomic import replacing, write_json

RECORD = "set.json"
"""Written last: a folder without it is no finished set."""

CACHE = "cache.json"
"""OpenFold3's dataset cache of all accepted structures."""

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class StructureSet:
    """Prepared structures with what OpenFold3's datasets read of them.

    Attributes:
        folder: Holds ``set.json``, ``cache.json``, ``structure_files/``, ``reference_mols/`` and
            ``alignment_arrays/``.
    """

    folder: Path

    def __getstate__(self) -> dict[str, Any]:
        """Send the folder, not what was read, to other processes: they read it again."""
        return {"folder": self.folder}

    @classmethod
    def open(cls, folder: Path) -> "StructureSet":
        """The set in ``folder``.

        Raises:
            ValueError: There is none, it is unfinished, of another format, or empty.
        """
        wanted = "expected a set that `openfl-flows data prepare` wrote"
        record = folder / RECORD
        if not record.is_file():
            raise ValueError(f"{record}: no such file, {wanted}")
        try:
            found = json.loads(record.read_text())["format"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{record}: not readable, {wanted}") from None
        if found != FORMAT:
            raise ValueError(f"{record}: format={found}, expected {FORMAT}")
        opened = cls(folder=folder.absolute())
        if not opened.structures:
            raise ValueError(f"{folder / CACHE}: holds no structure, expected at least one")
        return opened

    @cached_property
    def cache(self) -> Mapping[str, Any]:
        """The dataset cache as plain values.

        Raises:
            ValueError: It cannot be read.
        """
        file = self.folder / CACHE
        try:
            cache: dict[str, Any] = json.loads(file.read_text())
            cache["structure_data"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{file}: not a readable dataset cache of OpenFold3") from None
        return cache

    @property
    def structures(self) -> Mapping[str, Any]:
        """What the cache says of each structure, by its id."""
        structures: Mapping[str, Any] = self.cache["structure_data"]
        return structures

    def paths(self, cache_file: Path) -> dict[str, Any]:
        """``dataset_paths`` of an OpenFold3 dataset over the structures of ``cache_file``."""
        return {
            "dataset_cache_file": str(cache_file),
            "target_structures_directory": str(self.folder / "structure_files"),
            "target_structure_file_format": "npz",
            "reference_molecule_directory": str(self.folder / "reference_mols"),
            "alignment_array_directory": str(self.folder / "alignment_arrays"),
        }

    def subset(self, ids: Collection[str]) -> dict[str, Any]:
        """The cache of some structures alone, with the sizes of their clusters counted anew.

        OpenFold3 draws a chain or interface the less often the more of its cluster there are, so a
        share must count its own.

        Raises:
            ValueError: An id is not in the set.
        """
        if unknown := sorted(set(ids) - self.structures.keys()):
            raise ValueError(f"{self.folder / CACHE}: holds no structure {unknown[0]}")
        chosen = {name: self.structures[name] for name in sorted(ids)}
        counts = Counter(
            (kind, part["cluster_id"])
            for structure in chosen.values()
            for kind in ("chains", "interfaces")
            for part in structure[kind].values()
        )
        counted = {
            name: {
                **structure,
                **{
                    kind: {
                        key: {**part, "cluster_size": counts[kind, part["cluster_id"]]}
                        for key, part in structure[kind].items()
                    }
                    for kind in ("chains", "interfaces")
                },
            }
            for name, structure in chosen.items()
        }
        return {**self.cache, "structure_data": counted}

    def write_cache(self, ids: Collection[str], file: Path) -> None:
        """Write the cache of some structures alone."""
        with replacing(file) as temporary:
            # OpenFold3 reads the kind of cache from the second line of the file.
            temporary.write_text(json.dumps(self.subset(ids), indent=1))

    def copy(self, ids: Collection[str], folder: Path) -> "StructureSet":
        """Write some of the structures as a set of their own.

        Reference molecules are copied whole: they are of the public dictionary, or of ``ids``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(ids):
            _copy_tree(self.folder / "structure_files" / name, folder / "structure_files" / name)
        for name in sorted(self._reference_molecules(ids)):
            _copy_file(self.folder / "reference_mols" / name, folder / "reference_mols" / name)
        for name in sorted(self._alignments(ids)):
            _copy_file(self.folder / "alignment_arrays" / name, folder / "alignment_arrays" / name)
        self.write_cache(ids, folder / CACHE)
        write_json(folder / RECORD, {"format": FORMAT})
        return StructureSet.open(folder)

    def _alignments(self, ids: Collection[str]) -> set[str]:
        chains = (c for name in ids for c in self.structures[name]["chains"].values())
        named = {c["alignment_representative_id"] for c in chains} - {None}
        return {f"{name}.npz" for name in named}

    def _reference_molecules(self, ids: Collection[str]) -> set[str]:
        """All but those of entities of other structures, which are named ``<id>_<entity>``."""
        others = self.structures.keys() - set(ids)
        files = {file.name for file in (self.folder / "reference_mols").glob("*.sdf")}
        return {name for name in files if name.partition("_")[0] not in others}


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copyfile)


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
