"""The task runner that plan/plan.yaml names."""

from openfl_flows.taskrunner.runner import LearnerTaskRunner

__all__ = ["LearnerTaskRunner"]
