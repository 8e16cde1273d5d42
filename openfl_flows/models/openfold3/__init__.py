"""OpenFold3 as a training library: its own module, losses and data, driven for federated rounds."""

import warnings

# What OpenFold3 imports puts filters of its own in front, and warns of what a processor lacks.
with warnings.catch_warnings(record=True):
    import openfold3.entry_points.experiment_runner
    import openfold3.projects.of3_all_atom.runner  # noqa: F401

# On a processor torch warns at each of OpenFold3's casts to float32, in which it computes anyway.
for _message in (
    "In CPU autocast, but the target dtype is not supported",
    "CUDA is not available or torch_xla is imported",
    "No template paths provided",
):
    warnings.filterwarnings("ignore", message=_message, category=UserWarning)
