"""POMDP tasks: registers every row of `envs.tasks.TASKS` with Gymnasium, e.g. `gymnasium.make("envs:HopperV-v0")`."""

from envs.augmented import AugmentedMDP
from envs.tasks import TASKS, Task, register, task

__all__ = ["TASKS", "AugmentedMDP", "Task", "task"]

register()
