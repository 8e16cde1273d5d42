"""How metrics are written for people: label, unit, and which way is better."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from openfl_flows.metrics.class_scores import rate_of

Better = Literal["lower", "higher", ""]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric as people read it.

    Attributes:
        label: Name in words.
        unit: Unit, empty for a plain number; "%" for a fraction that is shown in percent.
        better: Which way is better, empty where that is not known.
        counted: Whether it is a whole number.
    """

    label: str
    unit: str = ""
    better: Better = ""
    counted: bool = False

    @property
    def scale(self) -> float:
        """Factor from the recorded value to the one that is shown."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def title(self) -> str:
        """Label, unit and direction in one line."""
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.label}{unit}{ {'lower': ' ↓', 'higher': ' ↑', '': ''}[self.better] }"

    def show(self, value: float) -> str:
        """``value`` with its unit, four significant digits."""
        shown = round(value) if self.counted else value * self.scale
        return f"{number(shown)} {self.unit}".strip()


_LOSSES = {
    "distogram_loss": "distogram loss",
    "mse_loss": "loss of positions",
    "smooth_lddt_loss": "smooth lDDT loss",
    "bond_loss": "bond loss",
    "plddt_loss": "pLDDT loss",
    "pde_loss": "PDE loss",
    "pae_loss": "PAE loss",
    "experimentally_resolved_loss": "loss of resolved atoms",
    "confidence_loss": "confidence loss, weighted",
    "diffusion_loss": "diffusion loss, weighted",
    "scaled_distogram_loss": "distogram loss, weighted",
}
_STRUCTURES = {
    "lddt_intra_protein": Metric(label="lDDT within protein chains", better="higher"),
    "lddt_inter_protein_protein": Metric(label="lDDT between protein chains", better="higher"),
    "lddt_intra_ligand": Metric(label="lDDT within ligands", better="higher"),
    "lddt_inter_protein_ligand": Metric(label="lDDT of protein and ligand", better="higher"),
    "ligand_rmsd": Metric(label="ligand RMSD in its pocket", unit="Å", better="lower"),
    "ligand_found": Metric(label="ligands within 2 Å", unit="%", better="higher"),
}
_PREDICTIONS = {
    "loss": Metric(label="loss", better="lower"),
    "accuracy": Metric(label="accuracy", unit="%", better="higher"),
    "balanced_accuracy": Metric(label="balanced accuracy", unit="%", better="higher"),
    "macro_f1": Metric(label="macro-F1", better="higher"),
    "mcc": Metric(label="MCC", better="higher"),
    # Of several targets it is the mean of their errors, whatever their units, as was published.
    "mae": Metric(label="MAE", unit="targets’ units", better="lower"),
    "mse": Metric(label="MSE", unit="targets’ units²", better="lower"),
    "rmse": Metric(label="RMSE", unit="targets’ units", better="lower"),
    "spearman": Metric(label="Spearman’s ρ", better="higher"),
    "pearson": Metric(label="Pearson’s r", better="higher"),
}
_RATES = {
    "recall": Metric(label="recall", unit="%", better="higher"),
    "precision": Metric(label="precision", unit="%", better="higher"),
}
_KNOWN = {
    **_PREDICTIONS,
    **{name: Metric(label=label, better="lower") for name, label in _LOSSES.items()},
    **{
        f"rollout_{name}": Metric(label=f"{label}, predicted whole", better="lower")
        for name, label in {"loss": "loss", **_LOSSES}.items()
    },
    **_STRUCTURES,
    **{
        f"best_{name}": replace(known, label=f"{known.label}, best sample")
        for name, known in _STRUCTURES.items()
    },
    "unmeasured": Metric(label="structures not measured", unit="%", better="lower"),
    "failed_samples": Metric(label="samples left out", unit="%", better="lower"),
    "weight_norm": Metric(label="norm of the weights"),
    "update_norm": Metric(label="norm of the sites’ mean step"),
    "drift": Metric(label="drift of the sites from their mean"),
    "epsilon": Metric(label="privacy spent, ε", better="lower"),
    "nll": Metric(label="NLL", unit="nats", better="lower"),
    "elbo": Metric(label="negative ELBO", unit="nats", better="lower"),
    "x_ce": Metric(label="atom cross-entropy", unit="nats", better="lower"),
    "e_ce": Metric(label="bond cross-entropy", unit="nats", better="lower"),
    "mae_mu": Metric(label="MAE of μ", unit="D", better="lower"),
    "mae_homo": Metric(label="MAE of HOMO", unit="eV", better="lower"),
    "validity": Metric(label="validity", unit="%", better="higher"),
    "strict_validity": Metric(label="strict validity", unit="%", better="higher"),
    "relaxed_validity": Metric(label="relaxed validity", unit="%", better="higher"),
    "uniqueness": Metric(label="uniqueness", unit="%", better="higher"),
    "novelty": Metric(label="novelty", unit="%", better="higher"),
    "connected": Metric(label="connected", unit="%", better="higher"),
    "kl_score": Metric(label="KL score against test (GuacaMol)", better="higher"),
    "internal_diversity": Metric(label="internal diversity, IntDiv₁", better="higher"),
    "internal_diversity_2": Metric(label="internal diversity, IntDiv₂", better="higher"),
    "snn": Metric(label="similarity to nearest test molecule, SNN", better="higher"),
    # Neither way: near molecules may be copied ones.
    "snn_train": Metric(label="similarity to nearest of as many training molecules"),
    "scaffold_similarity": Metric(label="scaffold similarity to test", better="higher"),
    "fragment_similarity": Metric(label="fragment similarity to test", better="higher"),
    "num_measured": Metric(label="molecules that these were measured on", counted=True),
    "num_reference": Metric(label="test molecules that they were compared with", counted=True),
}


def metric(name: str) -> Metric:
    """What is known of the metric ``name``; its own words where nothing is.

    A leading ``train_``, ``val_`` or ``test_`` is kept in the label and does not change the rest;
    nor does ``ema_`` before all, for the moving average of the model. What is measured of
    predictions may have the name of any test set before it, and what is measured of one class has
    the class's name behind it.
    """
    first, _, rest = name.partition("_")
    if first == "ema":
        known = metric(rest)
        return replace(known, label=f"EMA {known.label}")
    if first in SPLITS and rest in _KNOWN:
        known = _KNOWN[rest]
        return replace(known, label=f"{first} {known.label}")
    if name in _KNOWN:
        return _KNOWN[name]
    rate = rate_of(name)
    if rate is not None:
        known, words = _RATES[rate.kind], rate.prefix.replace("_", " ")
        return replace(known, label=f"{words}{known.label} of {rate.name.replace('_', ' ')}")
    for tested, known in sorted(_PREDICTIONS.items(), key=lambda item: -len(item[0])):
        if name.endswith(f"_{tested}"):
            words = name.removesuffix(tested).replace("_", " ")
            return replace(known, label=f"{words}{known.label}")
    return Metric(label=name.replace("_", " "))


def number(value: float) -> str:
    """``value`` with four significant digits; a dash where it is not a number."""
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "–"
    if 1e-3 <= abs(value) < 1e7:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}"
    return f"{value:.4g}"


def size(num_bytes: float) -> str:
    """Bytes in the largest binary unit that leaves a number of at least one."""
    value, units = float(num_bytes), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    while value >= 1024 and (larger := next(units, None)):
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``0.42 s``, ``12.3 s``, ``4 min 05 s``, ``2 h 03 min``."""
    if seconds < 1:
        return f"{seconds:.2g} s"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
