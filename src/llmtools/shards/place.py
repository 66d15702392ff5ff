"""Which of several processes this one is, as the command line or Slurm says.

The place decides only with which units a process begins: whoever has done its own takes what others
have not begun, so that a place that never starts holds nobody up.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llmtools.errors import UsageError

Executor = Literal["local", "slurm", "ray"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Process `index` of `count`. is_shared: others may be at work in the same directory."""

    index: int = 0
    count: int = 1
    is_shared: bool = False


def parse_shard(given: str) -> Place:
    """'2/8' as the third of eight. Raises UsageError for anything else."""
    match = re.fullmatch(r"(\d{1,7})/(\d{1,7})", given)
    if match is None or int(match[1]) >= int(match[2]):
        raise UsageError(f"--shard {given!r}: write I/N with I from 0 to N - 1, as 0/8 to 7/8")
    return Place(index=int(match[1]), count=int(match[2]), is_shared=True)


def find_place(executor: Executor, shard: str | None, environment: Mapping[str, str]) -> Place:
    """This process's place; raises UsageError where nothing says it, or two things do."""
    if executor == "local":
        return Place() if shard is None else parse_shard(shard)
    if shard is not None:
        raise UsageError(f"--shard {shard} has no place beside --executor {executor}")
    return Place() if executor == "ray" else _slurm_place(environment)


def _slurm_place(environment: Mapping[str, str]) -> Place:
    """Of an array job's task, else of a step's process (srun)."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
    if names[0] not in environment:
        names = ("SLURM_PROCID", "SLURM_NTASKS")
    values = {}
    for name in (*names, "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"):
        text = environment.get(name, "1" if name.endswith("_STEP") else "0")
        if not text.isdecimal():
            raise UsageError(f"{name}={text!r} is not a number")
        values[name] = int(text)
    if names[0] not in environment or values[names[1]] < 1:
        raise UsageError(
            "--executor slurm: SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT are not set; start"
            " the line with sbatch --array=0-7 or srun, or use --shard I/N"
        )
    index = values[names[0]]
    if names[0] == "SLURM_ARRAY_TASK_ID":
        index = (index - values["SLURM_ARRAY_TASK_MIN"]) // max(1, values["SLURM_ARRAY_TASK_STEP"])
    count = values[names[1]]
    # An array with gaps, as --array=1,5,7, has indices beyond its count.
    return Place(index=index % count, count=count, is_shared=True)


def num_cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
