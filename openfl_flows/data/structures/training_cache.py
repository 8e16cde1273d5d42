"""The dataset cache that OpenFold3 trains from; clusters stay when structures are added."""

import hashlib
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openfold3.core.data.io.dataset_cache import write_datacache_to_json
from openfold3.core.data.primitives.caches.clustering import make_interface_cluster_id
from openfold3.core.data.primitives.caches.filtering import (
    build_provisional_clustered_dataset_cache,
)
from openfold3.core.data.primitives.caches.format import (
    ClusteredDatasetCache,
    PreprocessingDataCache,
)
from openfold3.core.data.resources.residues import MoleculeType

from openfl_flows.atomic import replacing, write_json

_SHORTEST = 10
"""Proteins below are clustered by their exact sequence (AlphaFold 3, supplement 2.5.3)."""

_WITH_ALIGNMENT = (MoleculeType.PROTEIN, MoleculeType.RNA)


def write_training_cache(
    file: Path,
    structures: Mapping[str, Mapping[str, Any]],
    references: Mapping[str, Mapping[str, Any]],
    sequences: Mapping[str, Mapping[str, str]],
    alignments: Mapping[tuple[str, str], str],
    *,
    like: Mapping[str, str] | None = None,
) -> None:
    """Write the cache of all accepted structures.

    Args:
        file: Where to.
        structures: OpenFold3's metadata of each.
        references: OpenFold3's metadata of all reference molecules.
        sequences: Of each structure's chains.
        alignments: Name of the alignments by molecule type and sequence.
        like: Representative sequence of each protein sequence; itself where None.
    """
    document = {
        "structure_data": {name: structures[name] for name in sorted(structures)},
        "reference_molecule_data": {name: references[name] for name in sorted(references)},
    }
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        metadata = Path(folder) / "metadata.json"
        write_json(metadata, document)
        preprocessed = PreprocessingDataCache.from_json(metadata)
    cache = build_provisional_clustered_dataset_cache(preprocessed, dataset_name="site")
    _set_clusters(cache, sequences, like or {})
    for name, structure in cache.structure_data.items():
        for chain, data in structure.chains.items():
            if data.molecule_type in _WITH_ALIGNMENT:
                key = (data.molecule_type.name, sequences[name][chain])
                data.alignment_representative_id = alignments[key]
    with replacing(file) as temporary:
        write_datacache_to_json(cache, temporary)


def cluster_by_similarity(sequences: set[str], binary: str = "mmseqs") -> dict[str, str]:
    """Representative of each protein sequence by MMseqs2, with OpenFold3's settings.

    Clusters may change when a structure is added, unlike those of exact sequences.

    Raises:
        ValueError: MMseqs2 is not there, or fails.
    """
    ordered = sorted(sequences)
    with tempfile.TemporaryDirectory() as folder:
        fasta = Path(folder) / "sequences.fasta"
        fasta.write_text("".join(f">{i}\n{s}\n" for i, s in enumerate(ordered)))
        command = (
            f"{binary} easy-cluster {fasta} {folder}/result {folder}/work --min-seq-id 0.4 -c 0.8 "
            "--cov-mode 0 -s 8 --max-seqs 1000 --cluster-mode 0 -v 1"
        )
        try:
            subprocess.run(command.split(), check=True, capture_output=True, text=True)
        except OSError:
            raise ValueError(f"--cluster mmseqs: there is no {binary} to run") from None
        except subprocess.CalledProcessError as error:
            raise ValueError(
                f"--cluster mmseqs: it failed: {error.stderr.strip()[-200:]}"
            ) from None
        rows = (Path(folder) / "result_cluster.tsv").read_text().split()
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return {ordered[int(member)]: ordered[int(first)] for first, member in pairs}


def _set_clusters(
    cache: ClusteredDatasetCache,
    sequences: Mapping[str, Mapping[str, str]],
    like: Mapping[str, str],
) -> None:
    """Cluster chains by sequence, ligands by SMILES, interfaces by both their chains'."""
    sizes: Counter[str] = Counter()
    for name, structure in cache.structure_data.items():
        for chain, data in structure.chains.items():
            if data.molecule_type == MoleculeType.LIGAND:
                what = cache.reference_molecule_data[data.reference_mol_id].canonical_smiles
            else:
                what = sequences[name][chain]
                if data.molecule_type == MoleculeType.PROTEIN and len(what) >= _SHORTEST:
                    what = like.get(what, what)
            data.cluster_id = _cluster_id(data.molecule_type.name, what)
            sizes[data.cluster_id] += 1
        for pair, interface in structure.interfaces.items():
            first, second = (structure.chains[chain].cluster_id for chain in pair.split("_"))
            interface.cluster_id = make_interface_cluster_id(first, second)
            sizes[interface.cluster_id] += 1
    for structure in cache.structure_data.values():
        for part in (*structure.chains.values(), *structure.interfaces.values()):
            part.cluster_size = sizes[part.cluster_id]


def _cluster_id(kind: str, what: str) -> str:
    # OpenFold3 joins two by "_".
    return hashlib.sha256(f"{kind} {what}".encode()).hexdigest()[:16]
