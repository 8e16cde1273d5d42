"""From a folder of structures to a set that OpenFold3 trains from: offline, parallel, resumable.

Every structure is prepared on its own, and its record written last, so that whatever is killed is
done again and nothing half-written passes for done. A record names all that it depends on: content
of the file, definitions of its ligands, the date, versions. The set's own files are made of all
records together, ``set.json`` last.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from openfl_flows.atomic import write_json
from openfl_flows.data.structures.alignments import Alignment, read_alignments, write_alignment
from openfl_flows.data.structures.chemistry import Chemist
from openfl_flows.data.structures.definitions import Definitions, read_definitions
from openfl_flows.data.structures.findings import Finding, Refused, outcome_of
from openfl_flows.data.structures.preflight import Trouble, preprocess
from openfl_flows.data.structures.preflight_report import write_reports
from openfl_flows.data.structures.reading import (
    Input,
    duplicates,
    find_inputs,
    ligands,
    read_source,
)
from openfl_flows.data.structures.references import write_references
from openfl_flows.data.structures.repair import repair
from openfl_flows.data.structures.set import CACHE, FORMAT, RECORD
from openfl_flows.data.structures.training_cache import cluster_by_similarity, write_training_cache

_RECORDS = 1
"""Raise when structures must be prepared anew after a change here."""

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What to prepare, and how.

    Attributes:
        source: Folder of structures.
        target: Folder of the set.
        ligands: Table of SMILES or folder of SDF files that define the site's ligands.
        msa: Folder of alignments.
        date: Release date of structures that tell none, YYYY-MM-DD.
        cluster: By exact sequence, or by similarity where MMseqs2 is installed.
        workers: Processes.
    """

    source: Path
    target: Path
    ligands: Path | None = None
    msa: Path | None = None
    date: str | None = None
    cluster: Literal["exact", "mmseqs"] = "exact"
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be used, before anything starts."""
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}, expected at least 1")
        for name, path in (("IN", self.source), ("--ligands", self.ligands), ("--msa", self.msa)):
            if path is not None and not path.exists():
                raise ValueError(f"{name} {path}: no such file or folder")
        if not self.source.is_dir():
            raise ValueError(f"IN {self.source}: expected a folder of structures")
        if self.date is not None:
            try:
                date.fromisoformat(self.date)
            except ValueError:
                raise ValueError(f"--date is {self.date!r}, expected YYYY-MM-DD") from None
        if self.cluster == "mmseqs" and shutil.which("mmseqs") is None:
            raise ValueError("--cluster mmseqs: there is no mmseqs to run, expected it in PATH")


def prepare(
    preparation: Preparation, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Prepare a set; started again it goes on where it was.

    Args:
        preparation: What and how.
        progress: Told how many structures are done, of how many.

    Returns:
        The counts that may leave the site, as in ``preflight/counts.json``.

    Raises:
        ValueError: An option cannot be used.
        OSError: A file cannot be read or written.
    """
    inputs = find_inputs(preparation.source)
    definitions = read_definitions(preparation.ligands)
    alignments = read_alignments(preparation.msa)
    target = preparation.target
    target.mkdir(parents=True, exist_ok=True)
    (target / RECORD).unlink(missing_ok=True)
    shutil.rmtree(target / "work" / "unfinished", ignore_errors=True)
    twice = duplicates(inputs)
    records = {name: _twice_record(name, files) for name, files in twice.items()}
    single = [entry for entry in inputs if entry.id not in twice]
    _forget_others(target, {entry.id for entry in single})
    jobs = [
        Job(entry=entry, definitions=definitions, target=target, date=preparation.date)
        for entry in single
    ]
    todo = [job for job in jobs if job.finished() is None]
    done = len(inputs) - len(todo)
    progress(done, len(inputs))
    for count, _ in enumerate(_run(todo, preparation.workers), done + 1):
        progress(count, len(inputs))
    for job in jobs:
        record = job.finished()
        assert record is not None
        records[job.entry.id] = record
    return _assemble(preparation, records, definitions, alignments)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One structure to prepare.

    Attributes:
        entry: The file.
        definitions: The site's ligands.
        target: Folder of the set.
        date: For structures that tell none.
    """

    entry: Input
    definitions: Definitions
    target: Path
    date: str | None

    @property
    def record(self) -> Path:
        """Where the outcome is written, after all else."""
        return self.target / "work" / "structures" / f"{self.entry.id}.json"

    @property
    def folder(self) -> Path:
        """Where the structure is."""
        return self.target / "structure_files" / self.entry.id

    def key(self) -> str:
        """All that the outcome depends on, but for definitions of ligands."""
        depends = {
            "records": _RECORDS,
            "openfold3": version("openfold3"),
            "biotite": version("biotite"),
            "gemmi": version("gemmi"),
            "rdkit": version("rdkit"),
            "file": self.entry.path.name,
            "sha256": self.entry.sha256,
            "date": self.date,
        }
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()

    def finished(self) -> Record | None:
        """The record of an earlier run that still holds."""
        try:
            record: Record = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return None
        name = self.entry.id
        there = all((self.folder / f"{name}.{kind}").is_file() for kind in ("npz", "fasta"))
        if record["key"] != self.key() or (record["outcome"] != "refused" and not there):
            return None
        # A new definition concerns the structures that have such a ligand.
        if record["definitions"] != self.definitions.relevant(name, record["codes"]):
            return None
        return record


def run_job(job: Job) -> None:
    """Prepare one structure: its files, then its record."""
    entry = job.entry
    work = job.target / "work"
    scratch = work / "unfinished" / f"{entry.id}.{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(job.folder, ignore_errors=True)
    record: Record = {
        "key": job.key(), "id": entry.id, "file": entry.path.name, "sha256": entry.sha256,
    }  # fmt: skip
    findings: list[Finding] = []
    codes: list[str] = []
    try:
        source = read_source(entry.path)
        codes = sorted({residue.code for residue in ligands(source.structure)})
        chemist = Chemist(
            id=entry.id, file=entry.path.name, definitions=job.definitions, block=source.block,
            registry=work / "codes",
        )  # fmt: skip
        repaired = repair(entry, source, chemist, job.date)
        findings += repaired.findings
        references = write_references(
            repaired.components.values(), job.target / "reference_mols", work / "components"
        )
        outcome = preprocess(entry.id, repaired, scratch, references)
        for molecule in sorted((scratch / "reference_mols").glob("*.sdf")):
            os.replace(molecule, job.target / "reference_mols" / molecule.name)
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        (scratch / entry.id).rename(job.folder)
        used = {c.get("reference_mol_id") for c in outcome.metadata["chains"].values()} - {None}
        record |= {
            "metadata": outcome.metadata,
            "references": {**references, **outcome.references},
            "sequences": outcome.sequences,
            "ligands": sorted(used),
            "origins": sorted({one.origin for one in repaired.ligands if one.origin}),
        }
    except Refused as refused:
        findings += refused.reasons
    except Trouble as error:
        text = f"{entry.path.name}: {type(error).__name__}: {error}"
        findings.append(Finding(kind="failed", text=text))
    shutil.rmtree(scratch, ignore_errors=True)
    record["codes"] = codes
    record["definitions"] = job.definitions.relevant(entry.id, codes)
    record["outcome"] = outcome_of(findings)
    record["findings"] = [asdict(finding) for finding in findings]
    write_json(job.record, record)


def _run(jobs: Sequence[Job], workers: int) -> Iterator[None]:
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            run_job(job)
            yield
        return
    # The server of the workers loads the dictionary once; they share its memory.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["openfl_flows.data.structures.preloaded"])
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield from pool.map(run_job, jobs)
        except BrokenProcessPool:
            raise ValueError(
                f"a process died, perhaps for lack of memory: start again with fewer --workers "
                f"than {workers}; what is prepared is kept"
            ) from None


def _forget_others(target: Path, ids: set[str]) -> None:
    """Remove structures whose files are no longer there."""
    for record in (target / "work" / "structures").glob("*.json"):
        if record.stem not in ids:
            record.unlink()
    for folder in (target / "structure_files").glob("*"):
        if folder.name not in ids:
            shutil.rmtree(folder)


def _twice_record(name: str, files: Iterable[Input]) -> Record:
    names = " and ".join(entry.path.name for entry in files)
    text = f"{names}: all are named {name}, expected one file"
    finding = Finding(kind="duplicate_id", text=text)
    return {
        "id": name, "file": names, "sha256": None, "outcome": "refused",
        "findings": [asdict(finding)],
    }  # fmt: skip


def _assemble(
    preparation: Preparation,
    records: Mapping[str, Record],
    definitions: Definitions,
    alignments: Sequence[Alignment],
) -> dict[str, Any]:
    """Make the set's own files of all records."""
    target = preparation.target
    used = {name: record for name, record in records.items() if "metadata" in record}
    pairs = {
        (data["molecule_type"], record["sequences"][chain])
        for record in used.values()
        for chain, data in record["metadata"]["chains"].items()
        if data["molecule_type"] in ("PROTEIN", "RNA")
    }
    folder = target / "alignment_arrays"
    names = {
        (kind, sequence): write_alignment(sequence, kind, alignments, folder)
        for kind, sequence in sorted(pairs)
    }
    taken = {sequence for _, sequence in pairs}
    unused = [str(one.path) for one in alignments if one.query not in taken]
    unused += definitions.unused(
        o for record in records.values() for o in record.get("origins", ())
    )
    proteins = {sequence for kind, sequence in pairs if kind == "PROTEIN"}
    like = cluster_by_similarity(proteins) if preparation.cluster == "mmseqs" else None
    counts = write_reports(target / "preflight", records, unused)
    if used:
        write_training_cache(
            target / CACHE,
            {name: record["metadata"] for name, record in used.items()},
            {code: data for r in used.values() for code, data in r["references"].items()},
            {name: record["sequences"] for name, record in used.items()},
            names,
            like=like,
        )
        write_json(target / RECORD, _set_record(used))
    return counts


def _set_record(used: Mapping[str, Record]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "openfold3": version("openfold3"),
        "structures": {name: _set_entry(used[name]) for name in sorted(used)},
    }


def _set_entry(record: Record) -> dict[str, Any]:
    metadata = record["metadata"]
    chains: dict[str, list[str]] = {}
    for chain, data in metadata["chains"].items():
        chains.setdefault(data["molecule_type"], []).append(chain)
    return {
        "sha256": record["sha256"],
        "release_date": metadata["release_date"],
        "resolution": metadata["resolution"],
        "num_tokens": metadata["token_count"],
        "chains": chains,
        "ligands": record["ligands"],
        "outcome": record["outcome"],
    }
