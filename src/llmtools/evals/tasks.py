"""The multiple-choice tasks that there are."""

from __future__ import annotations

from llmtools.evals.arc import ARC_EASY
from llmtools.evals.hellaswag import HELLASWAG
from llmtools.evals.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (HELLASWAG, ARC_EASY)}
