"""OpenFold3 as a training library: its own module, losses and data, driven for federated rounds."""

import warnings

# On a processor torch warns at each of OpenFold3's casts to float32, in which it computes anyway.
for _message in (
    "In CPU autocast, but the target dtype is not supported",
    "CUDA is not available or torch_xla is imported",
    "Triton is not available",
    "No template paths provided",
):
    warnings.filterwarnings("ignore", message=_message, category=UserWarning)
