"""A dry step is taken in a copy of the process, and once."""

import os
from dataclasses import replace

import pytest
import torch

from openfl_flows.readiness.dry_step import Step, StepError, apart, once

STEP = Step(
    load_seconds=1.0, seconds=1.0, grown_bytes=1, model_bytes=1, num_samples=1, num_rejected=0,
    spec="s", frozen="f", finite=True,
)  # fmt: skip


def test_what_was_found_is_found_again() -> None:
    looked: list[int] = []

    def look() -> Step:
        looked.append(1)
        return STEP

    step = once(look)
    assert step() is step() is STEP
    assert looked == [1]


def test_what_failed_fails_again_without_a_second_try() -> None:
    looked: list[int] = []

    def look() -> Step:
        looked.append(1)
        raise StepError("no", of_data=True)

    step = once(look)
    for _ in range(2):
        with pytest.raises(StepError, match="no") as error:
            step()
        assert error.value.of_data
    assert looked == [1]


def test_a_process_that_uses_a_gpu_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    assert apart(lambda: STEP) == STEP
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(AssertionError, match="GPU"):
        apart(lambda: STEP)


def test_where_no_process_can_be_started_it_is_taken_in_this_one(monkeypatch) -> None:
    def refuse() -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fork", refuse)
    assert apart(lambda: replace(STEP, num_samples=os.getpid())).num_samples == os.getpid()
