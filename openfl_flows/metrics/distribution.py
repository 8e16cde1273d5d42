"""How close a set of generated molecules is to a set of real ones: GuacaMol's and MOSES' measures.

GuacaMol: Brown et al., J. Chem. Inf. Model. 59 (2019) 1096 (KL divergences of descriptors). MOSES:
Polykovskiy et al., Front. Pharmacol. 11 (2020) 565644 (diversity, nearest neighbours, scaffolds,
fragments). Both also have the Fréchet ChemNet Distance, which needs a trained network that this
package does not have. All depend on how many molecules are compared: state the numbers beside them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import Descriptors, rdFingerprintGenerator, rdmolops
from scipy.spatial.distance import cosine
from scipy.stats import entropy, gaussian_kde

CONTINUOUS = ("BertzCT", "MolLogP", "MolWt", "TPSA")
"""GuacaMol's real-valued descriptors."""

COUNTED = (
    "NumHAcceptors",
    "NumHDonors",
    "NumRotatableBonds",
    "NumAliphaticRings",
    "NumAromaticRings",
)
"""GuacaMol's integer descriptors."""

_FLOOR = 1e-10
_DESCRIPTORS = dict(Descriptors.descList)


class MoleculeSet:
    """Molecules, in order and with repetitions, and what the measures need of them, made once.

    Args:
        smiles: Molecules; what is None or no SMILES is left out. Stereochemistry is ignored.
    """

    def __init__(self, smiles: Iterable[str | None]) -> None:
        with rdBase.BlockLogs():
            parsed = [Chem.MolFromSmiles(entry) for entry in smiles if entry]
        self.molecules = tuple(m for m in parsed if m is not None and m.GetNumAtoms())
        for molecule in self.molecules:
            Chem.RemoveStereochemistry(molecule)

    def __len__(self) -> int:
        """Return the number of molecules, repetitions included."""
        return len(self.molecules)

    @cached_property
    def smiles(self) -> tuple[str, ...]:
        """Canonical SMILES, one per molecule."""
        return tuple(Chem.MolToSmiles(molecule) for molecule in self.molecules)

    @cached_property
    def fingerprints(self) -> list[DataStructs.ExplicitBitVect]:
        """Morgan fingerprints as MOSES takes them: radius 2, 1,024 bits."""
        return _fingerprints(self.molecules, 1024)

    @cached_property
    def distinct(self) -> "MoleculeSet":
        """The molecules without repetitions."""
        return MoleculeSet(dict.fromkeys(self.smiles))

    @cached_property
    def scaffolds(self) -> Counter[str]:
        """How often each Bemis-Murcko scaffold of two rings or more occurs."""
        scaffolds = [Chem.MurckoDecompose(molecule) for molecule in self.molecules]
        for scaffold in scaffolds:
            Chem.GetSymmSSSR(scaffold)
        return Counter(Chem.MolToSmiles(s) for s in scaffolds if s.GetRingInfo().NumRings() >= 2)

    @cached_property
    def fragments(self) -> Counter[str]:
        """How often each BRICS fragment occurs."""
        broken = (Chem.MolToSmiles(rdmolops.FragmentOnBRICSBonds(m)) for m in self.molecules)
        return Counter(piece for pieces in broken for piece in pieces.split("."))

    def subset(self, num: int, *, seed: int = 0) -> "MoleculeSet":
        """At most ``num`` of the molecules, drawn without replacement."""
        if num >= len(self):
            return self
        chosen = np.random.default_rng(seed).choice(len(self), num, replace=False)
        part = MoleculeSet(())
        part.molecules = tuple(self.molecules[i] for i in sorted(chosen))
        return part


def compare(
    generated: MoleculeSet, reference: MoleculeSet, train: MoleculeSet | None = None
) -> dict[str, float]:
    """All measures by name; those that a set is too small for are left out.

    Args:
        generated: Valid generated molecules, with repetitions.
        reference: Real molecules that the model did not see.
        train: Real molecules that it saw; as many as ``reference`` has, for figures to compare.

    Returns:
        ``kl_score``, ``internal_diversity``, ``internal_diversity_2``, ``snn``,
        ``scaffold_similarity``, ``fragment_similarity``, each higher being closer or more diverse;
        ``snn_train``, which above ``snn`` tells of copying; and ``num_measured`` and
        ``num_reference``, the sizes that all depend on.
    """
    found = {"num_measured": float(len(generated)), "num_reference": float(len(reference))}
    if len(generated.distinct) < 2 or len(reference.distinct) < 2:
        return found
    divergences = kl_divergences(generated, reference)
    found["kl_score"] = float(np.mean(np.exp([-value for value in divergences.values()])))
    found["internal_diversity"] = internal_diversity(generated)
    found["internal_diversity_2"] = internal_diversity(generated, power=2)
    found["snn"] = nearest_similarity(generated, reference)
    if train is not None and len(train):
        found["snn_train"] = nearest_similarity(generated, train)
    found["scaffold_similarity"] = count_similarity(generated.scaffolds, reference.scaffolds)
    found["fragment_similarity"] = count_similarity(generated.fragments, reference.fragments)
    return {name: value for name, value in found.items() if not np.isnan(value)}


def kl_divergences(generated: MoleculeSet, reference: MoleculeSet) -> dict[str, float]:
    """KL(reference || generated) of each descriptor and of the similarity within a set, in nats.

    GuacaMol's: of distinct molecules; real values by kernel density estimates at 1,000 points,
    integers in 10 bins over the reference's range. Both sets are cut to the size of the smaller
    one, since the nearest neighbour within a set is nearer in a larger one. The divergence is
    infinite where a density cannot be estimated: one set has all the same value and the other not.

    Returns:
        By descriptor, and ``internal_similarity``: of each molecule's nearest neighbour in its set.
    """
    size = min(len(generated.distinct), len(reference.distinct))
    real, drawn = reference.distinct.subset(size), generated.distinct.subset(size)
    divergences = {}
    for name in (*CONTINUOUS, *COUNTED):
        p, q = (_descriptor(name, molecules) for molecules in (real, drawn))
        divergences[name] = _density_kl(p, q) if name in CONTINUOUS else _histogram_kl(p, q)
    p, q = (_nearest_within(molecules) for molecules in (real, drawn))
    return {**divergences, "internal_similarity": _density_kl(p, q)}


def internal_diversity(molecules: MoleculeSet, *, power: int = 1) -> float:
    """1 - the mean over molecules of the power mean of Tanimoto similarities to all molecules.

    MOSES' IntDiv_p, p = 1 or 2, as its package computes it: itself included, and the root taken
    for each molecule, before the mean.
    """
    rows = (
        np.asarray(DataStructs.BulkTanimotoSimilarity(one, molecules.fingerprints))
        for one in molecules.fingerprints
    )
    return 1 - float(np.mean([np.mean(row**power) ** (1 / power) for row in rows]))


def nearest_similarity(generated: MoleculeSet, reference: MoleculeSet) -> float:
    """Mean Tanimoto similarity of each generated molecule to its nearest in ``reference``: SNN."""
    bits = reference.fingerprints
    return float(
        np.mean([max(DataStructs.BulkTanimotoSimilarity(o, bits)) for o in generated.fingerprints])
    )


def count_similarity(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    """Cosine of two vectors of counts; NaN where one of them is empty."""
    if not a or not b:
        return float("nan")
    names = sorted({*a, *b})
    return 1 - float(cosine([a.get(n, 0) for n in names], [b.get(n, 0) for n in names]))


def _fingerprints(molecules: Iterable[Chem.Mol], size: int) -> list[DataStructs.ExplicitBitVect]:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=size)
    return [generator.GetFingerprint(molecule) for molecule in molecules]


def _descriptor(name: str, molecules: MoleculeSet) -> NDArray[np.float64]:
    """A descriptor of every molecule; 0 where RDKit finds it infinite, as GuacaMol has it."""
    function = _DESCRIPTORS[name]
    values = np.array([function(molecule) for molecule in molecules.molecules], dtype=np.float64)
    return np.where(np.isfinite(values), values, 0.0)


def _nearest_within(molecules: MoleculeSet) -> NDArray[np.float64]:
    """Similarity of each molecule to its nearest other one; GuacaMol's 4,096 bits."""
    bits = _fingerprints(molecules.molecules, 4096)
    nearest = np.zeros(len(bits))
    for i in range(1, len(bits)):
        row = np.asarray(DataStructs.BulkTanimotoSimilarity(bits[i], bits[:i]))
        nearest[i] = row.max()
        nearest[:i] = np.maximum(nearest[:i], row)
    return nearest


def _density_kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    spreads = np.ptp(p) > 0, np.ptp(q) > 0
    if not all(spreads):
        # Point masses: equal ones do not diverge, anything else does without bound.
        return 0.0 if not any(spreads) and p[0] == q[0] else float("inf")
    points = np.linspace(min(p.min(), q.min()), max(p.max(), q.max()), num=1000)
    densities = [gaussian_kde(values)(points) + _FLOOR for values in (p, q)]
    return float(entropy(*densities))


def _histogram_kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    real, edges = np.histogram(p, bins=10, density=True)
    if not ((q >= edges[0]) & (q <= edges[-1])).any():
        return float("inf")
    drawn, _ = np.histogram(q, bins=edges, density=True)
    return float(entropy(real + _FLOOR, drawn + _FLOOR))
