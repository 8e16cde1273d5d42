"""The data loader that plan/plan.yaml names."""

from openfl_flows.taskrunner.loader import SiteData

__all__ = ["SiteData"]
