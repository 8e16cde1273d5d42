"""OpenFold3's random numbers under one seed: it draws from four generators of the process."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from openfold3.projects.of3_all_atom.model import OpenFold3

from openfl_flows.seeds import derived_seed


@contextlib.contextmanager
def seeded(seed: int, network: OpenFold3 | None = None) -> Iterator[None]:
    """Draw everything in this context from ``seed``; the process's generators are left as found.

    Weights, crops and alignments come from numpy, conformers and conditioning from ``random``,
    noise and dropout from torch. With ``network``, the number of recycles too: its own generator is
    in no checkpoint, so that a module built anew would repeat its numbers every round.
    """
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            if network is not None:
                network.synced_generator = np.random.default_rng(derived_seed(seed, "recycles"))
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
