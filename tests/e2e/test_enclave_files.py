"""A federation whose parties have only what their manifests measure: nothing else is there.

No enclave, but its view of the files: what is missing in a manifest stops a party here as there.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.parity import compare_rounds
from openfl_flows.taskrunner.rehearsal import rehearse
from openfl_flows.tee.lint_files import MOST_FILES
from tests.enclave_view import Launcher, trusted
from tests.tiny import OVERRIDES

TOY = ("experiment=toy", "federation.rounds=1", "runtime.quiet=true")
DIGRESS = (
    *OVERRIDES, "experiment=demo", "federation.sites=2", "federation.rounds=1",
    "federation.epochs=1", "runtime.quiet=true",
)  # fmt: skip
ESM = (
    "experiment=esm_scl", "data.limit=150", "federation.sites=2", "federation.rounds=1",
    "federation.epochs=1", "runtime.quiet=true",
)  # fmt: skip
OPENFOLD3 = (
    "experiment=of3_demo", "federation.rounds=1", "federation.steps=1", "runtime.quiet=true",
    "model.network.diffusion_samples=2", "model.training.crops.tokens=16",
    "model.training.optimization.warmup_steps=1", "model.training.validation_crops=2",
    "model.training.test_rollouts=0", "model.predictions=0",
)  # fmt: skip
# The C library is Gramine's, there under other paths.
GLIBC = ("ld-linux-x86-64.so.2", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so",
         "libutil.so")  # fmt: skip

# Looked for by name, and done without: text from right to left in pictures, and processors' memory.
OPTIONAL = ("libfribidi.so", "libnuma.so")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "overrides", [TOY, DIGRESS, ESM, OPENFOLD3], ids=["toy", "digress", "esm", "openfold3"]
)
def test_the_measured_files_are_all_that_a_federation_needs(
    overrides: Sequence[str], tmp_path: Path
) -> None:
    export_workspace(compose(overrides), tmp_path / "workspace")
    launcher = Launcher(tmp_path / "view")
    run = rehearse(
        tmp_path / "workspace", out=tmp_path / "parties", launch=launcher, quiet=True
    )  # fmt: skip
    plain = simulate_experiment(Experiment.from_config(compose(overrides)), tmp_path / "plain")
    assert [row.equal for row in compare_rounds(plain, run)] == [True, True]
    for name in ("aggregator", "site-1"):
        measured = {path.resolve() for path in trusted(launcher.manifests[name])}
        assert len(measured) < (10_000 if "experiment=demo" in overrides else MOST_FILES)
        outside = {
            path
            for path in launcher.loaded(name)
            if path.resolve() not in measured
            and not path.name.startswith(GLIBC)
            # What the party has written itself.
            and not path.is_relative_to(tmp_path / "parties" / name / "local_state")
            and not path.name.startswith(OPTIONAL)
            # Tables of the C library.
            and not path.is_relative_to("/usr/lib/locale")
            and "gconv" not in path.parts
        }
        assert not {path for path in outside if path.is_file()}
