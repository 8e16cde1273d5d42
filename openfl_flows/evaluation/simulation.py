"""A federated evaluation in one process: what the parties of a federation would do, in turn."""

from pathlib import Path
from typing import Any

import torch

from openfl_flows.atomic import write_json
from openfl_flows.evaluation.disclosure import Disclosed, disclose
from openfl_flows.evaluation.measure import load_local, load_models, measure, write_disclosed
from openfl_flows.evaluation.policy import Evaluation
from openfl_flows.evaluation.record import FILE, evaluation_record
from openfl_flows.learners.base import Task


def evaluate_federated(
    task: Task, policy: Evaluation, out: Path | str, *, threads: int = 1
) -> dict[str, Any]:
    """Measure the plan's models at every site; write ``evaluation.json`` and the sites' records.

    Args:
        task: The model and its data at the sites.
        policy: What is measured, and what may leave a site.
        out: A new folder.
        threads: Threads of the process.

    Returns:
        The record, as in ``evaluation.json``.

    Raises:
        ValueError: A model or a site's data cannot be used, or ``out`` is taken.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out} exists and is not empty: choose another folder")
    torch.set_num_threads(threads)
    models = load_models(policy, task)
    for site in task.sites:
        # Read twice, so that all that is wrong is told first and one of them is in memory.
        load_local(policy, task, site)
    disclosed: dict[str, Disclosed] = {}
    for site in task.sites:
        at_site = task
        if policy.benchmark is not None:
            at_site = task.at_site(site, policy.at(site, policy.benchmark))
        alone = load_local(policy, task, site)
        measured = measure(at_site.learner(site), {**models, **alone})
        disclosed[site] = disclose(measured, policy, site=site)
    left = {site: found.means for site, found in disclosed.items()}
    record = evaluation_record(
        left, policy, {name: model.digest() for name, model in models.items()}
    )
    for site, found in disclosed.items():
        write_disclosed(out / "sites" / site, site, found)
    write_json(out / FILE, record)
    return record
