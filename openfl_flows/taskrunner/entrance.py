"""The aggregator's side of being ready: asks sites for verdicts, and answers their probes.

Everything goes through OpenFL's own calls. ``GetTasks`` gives a site the task :data:`READINESS`,
``GetAggregatedTensor`` answers its probes, and ``SendLocalTaskResults`` brings the verdict.
"""

import logging
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openfl.utilities import TensorKey

from openfl_flows.ops.run import RunDirectory
from openfl_flows.ops.standings import FOLDER as STANDINGS
from openfl_flows.ops.standings import forget_standings
from openfl_flows.pki.files import read
from openfl_flows.pki.party import CHAIN, read_certificates
from openfl_flows.readiness.gate import Expected, Gate
from openfl_flows.readiness.rules import LARGEST_PROBE_MIB, Readiness
from openfl_flows.readiness.site import FOLDER
from openfl_flows.state import Array
from openfl_flows.taskrunner.serving import refusals_told
from openfl_flows.taskrunner.workspace import WorkspacePlan

logger = logging.getLogger(__name__)

READINESS = "readiness"
"""Name of the task in which a site sends its verdict, and tag of what its probes ask for."""
CLOCK, PROBE, STANDING, VERDICT = "clock", "probe", "standing", "verdict"
"""Names of tensors: the aggregator's time; bytes; rounds that a site took part in; its verdict."""

HELD_SECONDS = 1.0
"""How long a call of a site that waits for others is kept, since they may come any moment."""

_MIB = 2**20
_PROBE = re.compile(rf"{PROBE}:(\d{{1,9}})")


class Entrance:
    """Lets sites into rounds.

    Args:
        rules: What the plan says about being ready.
        plan: The plan.
        sites: The sites that may take part.
        rounds: Number of the last round.
        run: The run, opened.
        workspace: The aggregator's.

    Raises:
        ValueError: The plan wants more sites than there are, or no root of trust is there.
    """

    def __init__(
        self,
        rules: Readiness,
        *,
        plan: WorkspacePlan,
        sites: Sequence[str],
        rounds: int,
        run: RunDirectory,
        workspace: Path = Path(),
    ) -> None:
        self._sites, self._run = tuple(sites), run
        self._gate: Gate | None = None
        if rules.required:
            roots = read_certificates(read(workspace / CHAIN, "the roots to trust"), str(CHAIN))
            model = run.model()
            digests = {
                "spec": model.spec.digest(),
                "frozen": model.kept().digest(),
            }
            self._gate = Gate(
                workspace / FOLDER,
                sites=sites,
                rounds=rounds,
                rules=rules,
                expected=Expected(plan=plan.hash, digests=digests, roots=roots),
            )

    def taking_part(self, round_: int) -> tuple[str, ...]:
        """The sites of a round, from 1; none where it waits for sites."""
        if self._gate is None:
            return self._sites
        return self._gate.taking_part(round_) or ()

    def ask(self, site: str, round_: int) -> tuple[list[str] | None, float]:
        """What a site has to do before it may take part in a round; None if it does.

        Returns:
            The tasks, and the seconds of waiting that are over: where a site has only to wait, and
            the round has not begun, that is for a moment done here.
        """
        if self._gate is None:
            return None, 0.0
        if self._gate.call(site, round_):
            return [READINESS], 0.0
        began = time.monotonic()
        admitted = self._gate.wait(site, round_, HELD_SECONDS)
        return None if admitted else [], time.monotonic() - began

    @refusals_told()
    def take(self, site: str, named_tensors: Sequence[Any], round_: int) -> None:
        """Take what a site sends as its result of :data:`READINESS`; a probe is only to be sent.

        Raises:
            ValueError: It is no verdict of the site's.
        """
        tensors = {tensor.name: tensor for tensor in named_tensors}
        if tensors.keys() == {PROBE} or self._gate is None:
            return
        if tensors.keys() != {VERDICT}:
            found = ", ".join(sorted(tensors))[:80]
            raise ValueError(f"readiness of {site!r} has {found}, expected its verdict alone")
        self._gate.take(site, bytes(tensors[VERDICT].data_bytes), round_)

    @refusals_told()
    def answer(self, key: TensorKey, site: str) -> Array:
        """What a probe asks for, which is in the key's name.

        Raises:
            ValueError: There is no such probe.
        """
        name = key.tensor_name
        if name == CLOCK:
            return np.array([time.time()])
        if name == STANDING:
            rounds = self._run.record["rounds"]
            return np.array([sum(site in record["sites"] for record in rounds)])
        match = _PROBE.fullmatch(name)
        if match is None or int(match[1]) > LARGEST_PROBE_MIB * _MIB:
            raise ValueError(
                f"{site!r} asks for {name[:80]!r}, expected {CLOCK}, {STANDING} or {PROBE}:BYTES, "
                f"at most {LARGEST_PROBE_MIB} MiB"
            )
        # Whatever lies on the way may compress what has a pattern.
        return np.frombuffer(os.urandom(int(match[1])), np.uint8)

    def describe(self, round_: int) -> Mapping[str, Any] | None:
        """What the operator sees of it; None where everybody may take part."""
        return None if self._gate is None else self._gate.describe(round_)


def forget_verdicts(workspace: Path = Path()) -> None:
    """Forget who was ready: it was for a run that somebody has moved away."""
    shutil.rmtree(workspace / FOLDER, ignore_errors=True)
    forget_standings(workspace / FOLDER.parent / STANDINGS)
