"""The data loader of OpenFL: where a site's data lie. The learner itself reads them."""

from pathlib import Path
from typing import Any

from openfl.federated.data.loader import DataLoader


class SiteData(DataLoader):
    """The folder that ``plan/data.yaml`` names for a site.

    Args:
        data_path: The folder; None where a model is made without data, as ``fx plan initialize``
            does.
    """

    def __init__(self, data_path: str | None = None, **_: Any) -> None:
        super().__init__()
        self.folder = None if data_path is None else Path(data_path)

    def get_feature_shape(self) -> list[int]:
        """Nothing: a model's shape follows from the plan, not from the data."""
        return []
