"""OpenFold3 at its published size: what travels, and what it costs; what takes minutes is slow."""

import math
from collections import Counter

import pytest

from openfl_flows.models.openfold3.config import OpenFold3Config
from openfl_flows.models.openfold3.network import network_spec, outline, state_dict_names
from openfl_flows.state import Spec, bucket_forms
from tests.bench.federation_models import openfold3_shapes
from tests.bench.openfold3 import BYTES, measure
from tests.bench.openfold3_phases import Phase


def moving(**changes: str) -> Spec:
    spec = network_spec(outline(OpenFold3Config(size="published", **changes)))
    return Spec(tensor for tensor in spec if tensor.reduce != "keep")


def test_every_parameter_travels_once_in_few_buckets():
    network = outline(OpenFold3Config(size="published"))
    assert len(state_dict_names(network)) == 4890
    spec = moving()
    assert Counter(tensor.shape for tensor in spec) == Counter(openfold3_shapes())
    assert 4 * sum(math.prod(tensor.shape) for tensor in spec) == BYTES
    assert len(bucket_forms(spec)) == 36


def test_the_confidence_stage_sends_its_heads_alone():
    spec = moving(stage="confidence")
    assert all(tensor.name.startswith("aux_heads.") for tensor in spec)
    assert len(bucket_forms(spec)) == 2


def least(phases: list[Phase], name: str) -> float:
    return min(phase.cpu_seconds for phase in phases if phase.name == name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sending_and_receiving_cost_little_more_than_copying():
    phases, _ = measure("exchange")
    copying = least(phases, "np.copyto, into new memory")
    assert least(phases, "send") < 3 * copying
    assert least(phases, "receive") < 2 * copying


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_checkpoint_is_read_without_a_copy():
    phases, _ = measure("checkpoint")
    before = next(phase for phase in phases if phase.name == "write published.pt").after
    reads = [phase for phase in phases if phase.name.startswith("load_weights")]
    assert len(reads) == 3
    assert all(phase.anonymous_peak < before + 0.1 * BYTES for phase in reads)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_site_holds_no_copy_beyond_what_training_needs():
    phases, _ = measure("site")
    peaks = {phase.name: phase.anonymous_peak / BYTES for phase in phases}
    # Parameters, accumulator and Adam's two moments at the end of the first step; from the second
    # on also gradients in the backward pass, and activations.
    assert peaks["round 1: receive, one step of two samples"] < 4.5
    assert max(peaks.values()) < 6.5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_join_of_more_sites_takes_no_more_memory():
    two, five = (
        max(phase.anonymous_peak for phase in measure("aggregator", sites=sites)[0])
        for sites in (2, 5)
    )
    assert five < two + 0.1 * BYTES
    assert five < 2.2 * BYTES
