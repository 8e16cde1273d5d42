"""DiGress: discrete denoising diffusion of molecular graphs (Vignac et al., ICLR 2023)."""

from openfl_flows.models.digress.bounds import Bounds, Prediction
from openfl_flows.models.digress.checkpoint import load_published, to_published
from openfl_flows.models.digress.config import DigressConfig, regressor_config
from openfl_flows.models.digress.denoiser import Denoiser
from openfl_flows.models.digress.graphs import Graphs
from openfl_flows.models.digress.guidance import Guidance, Selection, error_variance
from openfl_flows.models.digress.process import Noisy
from openfl_flows.models.digress.regressor import Regressor
from openfl_flows.models.digress.sampling import Sampled
from openfl_flows.models.digress.schedule import Descent, stratified_timesteps
from openfl_flows.models.digress.statistics import (
    QM9_PUBLISHED,
    GraphStatistics,
    count_statistics,
    merge_counts,
    statistics_from_counts,
)

__all__ = [
    "QM9_PUBLISHED",
    "Bounds",
    "Denoiser",
    "Descent",
    "DigressConfig",
    "GraphStatistics",
    "Graphs",
    "Guidance",
    "Noisy",
    "Prediction",
    "Regressor",
    "Sampled",
    "Selection",
    "count_statistics",
    "error_variance",
    "load_published",
    "merge_counts",
    "regressor_config",
    "statistics_from_counts",
    "stratified_timesteps",
    "to_published",
]
