"""A plan rendered as a whole OpenFL Task Runner workspace, which every party runs with ``fx``."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from itertools import count
from pathlib import Path, PurePath
from typing import Any

import jinja2
import yaml
from openfl.protocols import utils

from openfl_flows.data.blind.config import CLUSTERS, KEY_FILE, agreed_split
from openfl_flows.experiment import Experiment, check, codec_of
from openfl_flows.ops.files import save_state
from openfl_flows.release.keys import read_signers, signers_document
from openfl_flows.taskrunner.attested import Attestation
from openfl_flows.taskrunner.evaluation import (
    BENCHMARKED,
    agreed_policy,
    evaluation_config,
    write_models,
)
from openfl_flows.taskrunner.lint import lint_plan
from openfl_flows.taskrunner.pipeline import ExactPipeline
from openfl_flows.taskrunner.wire import to_model_tensors
from openfl_flows.taskrunner.workspace import COLS, PLAN, Network

TEMPLATE = Path(__file__).parent / "workspace_template"
INITIAL = "save/initial.safetensors"

_TASK_RUNNER = "src.taskrunner.LearnerTaskRunner"
_FOLDERS = ("cert", "data", "local_state", "logs", "save")
_IGNORED = (
    *("/cert/", "/data/", "/local_state/", "/logs/"),
    *("/save/*.pbuf", "/plan/plan_*.yaml", "/*.zip", "__pycache__/"),
)
# What comes above each section of plan/plan.yaml.
_COMMENTS = {
    "network": """\
# The plan of this federation as OpenFL reads it. All parties have the same file; OpenFL names the
# federation by its hash, and a party with another plan is turned away.

# To edit before anyone has the plan: agg_addr and agg_port, where the sites reach the aggregator.
# mTLS both ways stays on.""",
    "aggregator": """
# One OpenFL round more than the federation trains: the last one measures the final model.""",
    "assigner": "\n# What the sites do in a training round, and after the last one.",
    "task_runner": """
# What is trained, as `openfl-flows simulate` takes it. All sites are named here; plan/cols.yaml
# names those of them that may take part.""",
    "tasks": "\n# How the aggregator joins what the sites trained stands with the task `train`.",
}


def export_workspace(
    config: Mapping[str, Any], folder: Path, *, replace: bool = False, deal: bool = True
) -> None:
    """Write the workspace of a plan: plan, code, pins, initial model, and data to rehearse with.

    The same plan gives the same bytes. The folder is there whole or not at all.

    Args:
        config: The composed plan, plain values.
        folder: Where to write; absent or empty.
        replace: Where ``folder`` is an exported workspace already, put the new one in its place;
            the old one is kept beside it under a name with a number.
        deal: Write every site's share of the plan's data to rehearse with.

    Raises:
        ValueError: A value of the plan cannot be used, or the folder is in use; one line that says
            which.
    """
    folder = folder.absolute()
    if config.get("evaluation"):
        config = evaluation_config(config)
    experiment = Experiment.from_config(config)
    _check_agreed(experiment)
    in_use = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if in_use and not (replace and _is_exported(folder)):
        wanted = "an exported workspace to replace" if replace else "an empty folder or none"
        raise ValueError(f"{folder} is in use, expected {wanted}")
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        _write(building, config, experiment, deal)
        if in_use:
            folder.rename(_free_name(folder))
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def render_plan(
    config: Mapping[str, Any], experiment: Experiment, initial_digest: str | None
) -> dict[str, Any]:
    """The sections of ``plan/plan.yaml``.

    Args:
        config: The composed plan.
        experiment: What it describes.
        initial_digest: Digest of the checkpoint in the workspace that the federation starts from,
            None where it starts from the task's own model.

    Raises:
        ValueError: The plan's network cannot be used.
    """
    network: Network = check("network", Network, config.get("network", {}))
    training = ["aggregated_model_validation", "train", "locally_tuned_model_validation"]
    final = ["final_model_validation"]
    if experiment.ema is not None:
        final.append("final_average_validation")
    if experiment.evaluation is not None:
        final = [BENCHMARKED]
    tasks: dict[str, Any] = {name: {"function": name, "kwargs": {}} for name in training + final}
    tasks["train"]["aggregation_type"] = {
        "template": "openfl_flows.taskrunner.aggregation.JoinAggregation",
        "settings": {"join": config["join"], "ema": config["ema"]},
    }
    return {
        "network": _section(
            "openfl.federation.Network",
            agg_addr=network.agg_addr,
            agg_port=network.agg_port,
            client_reconnect_interval=network.client_reconnect_interval,
            use_tls=True,
            require_client_auth=True,
            transport_protocol="grpc",
            cert_folder="cert",
            hash_salt="auto",
            resend_data_on_reconnection=False,
            attestation=_attestation(network.attestation),
        ),
        "aggregator": _section(
            "openfl_flows.taskrunner.aggregator.Aggregator",
            rounds_to_train=experiment.rounds + 1,
            init_state_path="save/init.pbuf",
            best_state_path="save/best.pbuf",
            last_state_path="save/last.pbuf",
            run="local_state/run",
            best=list(experiment.task.best_metric),
            db_store_rounds=1,
            persist_checkpoint=False,
            poll_seconds=network.poll_seconds,
            patience_seconds=network.patience_seconds,
            stall_seconds=network.stall_seconds,
            max_norm_ratio=network.max_norm_ratio,
            readiness=_readiness(network, experiment),
            # OpenFL's own switch, by which it makes sure that no site is left out.
            **({"secure_aggregation": True} if experiment.protection.summed else {}),
            **({} if network.metrics_port is None else {"metrics_port": network.metrics_port}),
        ),
        "assigner": _section(
            "openfl_flows.taskrunner.assigner.RoundsThenEvaluation",
            task_groups=[
                {"name": "rounds", "percentage": 1.0, "tasks": training},
                {"name": "final", "percentage": 1.0, "tasks": final},
            ],
        ),
        "collaborator": _section(
            "openfl_flows.taskrunner.collaborator.Collaborator",
            db_store_rounds=1,
            opt_treatment="CONTINUE_LOCAL",
            use_delta_updates=False,
            stall_seconds=network.stall_seconds,
        ),
        "compression_pipeline": _section("openfl_flows.taskrunner.pipeline.ExactPipeline"),
        "data_loader": _section("src.dataloader.SiteData"),
        "task_runner": _section(
            _TASK_RUNNER, experiment=_agreed(config, experiment, initial_digest)
        ),
        "tasks": tasks,
    }


def _agreed(
    config: Mapping[str, Any], experiment: Experiment, initial_digest: str | None
) -> dict[str, Any]:
    """The plan as every party needs it, with what was measured on data as constants."""
    federation = {**config["federation"], "sites": list(experiment.task.sites)}
    # There is nothing to choose, see _check_agreed.
    federation.pop("tested", None)
    return {
        "name": config.get("name", "federation"),
        "seed": config["seed"],
        "initial": None if initial_digest is None else INITIAL,
        **({} if initial_digest is None else {"initial_digest": initial_digest}),
        **agreed_policy(experiment.evaluation, experiment.task, INITIAL),
        # Else what joins the models is the aggregator's alone.
        **({"ema": config["ema"]} if experiment.validate == "average" else {}),
        "model": {**config["model"], **experiment.task.agreement()},
        # Sites read their own data; where those of the rehearsal came from is nobody's business.
        "data": {key: _without_folder(value) for key, value in config["data"].items()},
        "partition": config["partition"],
        "codec": codec_of(config),
        **({} if experiment.protection.noise is None else {"privacy": config["privacy"]}),
        **({} if experiment.schema is None else {"schema": config["schema"]}),
        **({"split": agreed_split(experiment.split)} if experiment.split.blind else {}),
        "federation": federation,
        # Nothing else of where a simulation runs decides a bit.
        "runtime": {"threads": experiment.runtime.threads},
    }


def _attestation(rules: Attestation) -> dict[str, Any]:
    """Who has to prove what runs there, with the signers as a part of the plan.

    Raises:
        ValueError: The file of the signers is not there, or does not say who they are.
    """
    signers = rules.signers
    if isinstance(signers, str):
        signers = signers_document(read_signers(Path(signers).expanduser()))
    return {**asdict(rules), "signers": signers}


def _readiness(network: Network, experiment: Experiment) -> dict[str, Any]:
    """When rounds begin, without what does not go with the rest of the plan.

    Raises:
        ValueError: A site may come late, and something in the plan needs all of them.
    """
    rules = network.readiness
    late = {"least_sites": rules.least_sites, "cycle_rounds": rules.cycle_rounds}
    for key, value in late.items():
        needs_all = {
            "federation.validate=average": experiment.validate == "average",
            "federation.secure_aggregation=true": experiment.protection.summed,
        }
        for what, needed in needs_all.items():
            if value is not None and needed:
                raise ValueError(
                    f"network.readiness.{key}={value} with {what}, expected null: it needs every "
                    "site in every round"
                )
    if rules.least_sites is not None and rules.least_sites > len(experiment.task.sites):
        raise ValueError(
            f"network.readiness.least_sites={rules.least_sites}, expected at most the "
            f"{len(experiment.task.sites)} of federation.sites"
        )
    return asdict(rules)


def _check_agreed(experiment: Experiment) -> None:
    """Refuse what a simulation or a baseline can do and a federation cannot."""
    if experiment.tested != "last":
        raise ValueError(
            f"federation.tested={experiment.tested}: a federation tests the last model, expected "
            "federation.tested=last; its run keeps the best one, too (best.safetensors)"
        )
    if experiment.site is not None:
        raise ValueError(f"site={experiment.site} is of the command local, expected site=null")


def _write(folder: Path, config: Mapping[str, Any], experiment: Experiment, deal: bool) -> None:
    sites = list(experiment.task.sites)
    state = experiment.initial_state()
    digest = None if experiment.initial is None else state.digest()
    plan = render_plan(config, experiment, digest)
    for finding in lint_plan(plan, sites):
        raise ValueError(finding)

    shutil.copytree(TEMPLATE / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("plan", *_FOLDERS):
        (folder / name).mkdir()
    for site in sites if deal else ():
        (folder / "data" / site).mkdir()
        experiment.task.write_site_data(site, folder / "data" / site)
    proto = utils.construct_model_proto(to_model_tensors(state), 0, ExactPipeline())
    utils.dump_proto(proto, folder / "save" / "init.pbuf")
    if digest is not None:
        save_state(folder / INITIAL, state)
    if (clusters := experiment.split.clusters) is not None:
        shutil.copyfile(Path(clusters).expanduser(), folder / CLUSTERS)
    if experiment.evaluation is not None:
        write_models(experiment.evaluation, experiment.task, folder)

    private = [f"/{Path(KEY_FILE).parent}/"] if experiment.split.blind else []
    readme = jinja2.Template((TEMPLATE / "README.md.j2").read_text(), keep_trailing_newline=True)
    network = plan["network"]["settings"]
    files: dict[Path | str, str] = {
        PLAN: "".join(_section_text(name, section) for name, section in plan.items()),
        COLS: "# The sites that may take part, all or some of those that plan.yaml names.\n"
        + _yaml({"collaborators": sites}),
        "plan/data.yaml": "# Where each site keeps its data: a path at the site.\n"
        + "".join(f"{site},data/{site}\n" for site in sites),
        "requirements.txt": _pins(),
        "README.md": readme.render(
            name=config.get("name", "federation"),
            sites=sites,
            evaluation=experiment.evaluation,
            **network,
        ),
        ".workspace": "current_plan_name: default\n",
        ".gitignore": "".join(f"{pattern}\n" for pattern in (*_IGNORED, *private)),
        # OpenFL writes to save/ without making it, and a checkout has no empty folders.
        "save/.gitkeep": "",
    }
    for file, text in files.items():
        (folder / file).write_text(text)


def _is_exported(folder: Path) -> bool:
    if not (folder / PLAN).is_file():
        return False
    return f"template: {_TASK_RUNNER}\n" in (folder / PLAN).read_text(errors="replace")


def _free_name(folder: Path) -> Path:
    names = (folder.with_name(f"{folder.name}.{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def _section(template: str, **settings: Any) -> dict[str, Any]:
    return {"template": template, "settings": settings}


def _section_text(name: str, section: Mapping[str, Any]) -> str:
    comment = f"{_COMMENTS[name]}\n" if name in _COMMENTS else "\n"
    return comment + _yaml({name: section})


def _yaml(document: Mapping[str, Any]) -> str:
    text: str = yaml.dump(document, Dumper=_Plain, sort_keys=False, width=100)
    return text


class _Plain(yaml.SafeDumper):
    """YAML that repeats what occurs twice, where PyYAML would refer to the first."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _without_folder(value: Any) -> Any:
    """A file's name in place of its absolute path, which means nothing elsewhere."""
    absolute = isinstance(value, str) and PurePath(value).is_absolute()
    return PurePath(value).name if absolute else value


def _pins() -> str:
    """This package and what it depends on directly, in the versions that run here."""
    required = (r for r in metadata.requires("openfl-flows") or () if "extra ==" not in r)
    names = {re.split(r"[^\w.-]", requirement)[0] for requirement in required}
    # A build's local suffix, as in 2.9.0+cpu, is not known to package indexes.
    versions = {name: metadata.version(name).partition("+")[0] for name in names | {"openfl-flows"}}
    return "".join(f"{name}=={versions[name]}\n" for name in sorted(versions))
