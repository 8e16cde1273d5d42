"""The assigner of OpenFL: rounds of training, then one round that measures the finished model."""

from collections.abc import Sequence
from typing import Any

from openfl.component.assigner.assigner import Assigner


class RoundsThenEvaluation(Assigner):
    """Gives every site the tasks of the first group in all rounds but the last, then the second's.

    Args:
        task_groups: Two groups, each with its ``tasks`` in order.
    """

    def __init__(self, task_groups: Sequence[dict[str, Any]], **settings: Any) -> None:
        self.task_groups = task_groups
        super().__init__(**settings)

    def define_task_assignments(self) -> None:
        """Check the groups; the assignment follows from the round's number.

        Raises:
            ValueError: There are not two groups.
        """
        if len(self.task_groups) != 2:
            raise ValueError(
                f"assigner.settings.task_groups has {len(self.task_groups)} groups, expected two: "
                "that of every round, and that of the end"
            )
        self.all_tasks_in_groups = [task for group in self.task_groups for task in group["tasks"]]

    def get_all_tasks_for_round(self, round_number: int) -> list[str]:
        """Names of the round's tasks."""
        group = self.task_groups[1 if round_number == self.rounds - 1 else 0]
        return list(group["tasks"])

    def get_tasks_for_collaborator(self, collaborator_name: str, round_number: int) -> list[str]:
        """Every site has all tasks of the round."""
        return self.get_all_tasks_for_round(round_number)

    def get_collaborators_for_task(self, task_name: str, round_number: int) -> list[str]:
        """Every site has all tasks of the round."""
        in_round = task_name in self.get_all_tasks_for_round(round_number)
        return sorted(self.authorized_cols) if in_round else []
