"""Two results directories on the same examples: is one model better, and how surely?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmtools import terminal
from llmtools.errors import InputError
from llmtools.evals.multiple_choice import METRICS
from llmtools.evals.stats import Comparison, bootstrap_interval, holm, mcnemar
from llmtools.formats.results import read_samples

Samples = dict[tuple[str, str], dict[str, Any]]


def compare(a: Path, b: Path, *, seed: int = 1) -> list[Comparison]:
    """Every metric of every task that both directories have.

    raises: InputError where nothing is shared, an example was put in other words, or samples are
    malformed.
    """
    first, second = _samples(a), _samples(b)
    shared = [key for key in first if key in second]
    if not shared:
        raise InputError(
            f"{a} and {b} share no example: tasks {_tasks(first)} against {_tasks(second)}"
        )
    other = [key for key in shared if _question(first[key]) != _question(second[key])]
    if other:
        task, id = other[0]
        raise InputError(
            f"{len(other):,} of {len(shared):,} shared examples were put in other words or have"
            f" another answer, the first is {id!r} of {task}; such scores cannot be compared"
        )
    alone = len(first) + len(second) - 2 * len(shared)
    if alone:
        terminal.warn(f"{alone:,} examples are in one of the two alone and are left out")
    found = []
    for task in dict.fromkeys(task for task, _ in shared):
        keys = [key for key in shared if key[0] == task]
        for metric in METRICS:
            values = [
                np.array([_score(samples[key], metric, place) for key in keys])
                for samples, place in ((first, a), (second, b))
            ]
            found.append(_comparison(task, metric, *values, seed=seed))
    adjusted = holm([one.p for one in found])
    return [
        Comparison(**{**_fields(one), "p_holm": p}) for one, p in zip(found, adjusted, strict=True)
    ]


def _samples(path: Path) -> Samples:
    found: Samples = {}
    for record in read_samples(path):
        key = (str(record["task"]), str(record["id"]))
        if key in found:
            raise InputError(f"{path}: example {key[1]!r} of {key[0]} is there twice")
        found[key] = record
    return found


def _question(record: Mapping[str, Any]) -> tuple[Any, Any]:
    return record["prompt_hash"], record.get("gold")


def _tasks(samples: Samples) -> str:
    return ", ".join(dict.fromkeys(task for task, _ in samples)) or "none"


def _score(record: Mapping[str, Any], metric: str, path: Path) -> int:
    value = record.get(metric)
    if value not in (0, 1):
        raise InputError(f"{path}: {metric} of example {record['id']!r} is {value!r}, not 0 or 1")
    return int(value)


def _comparison(task: str, metric: str, a: np.ndarray, b: np.ndarray, *, seed: int) -> Comparison:
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    p = mcnemar(only_a, only_b)
    return Comparison(
        task=task,
        metric=metric,
        n=len(a),
        a=float(a.mean()),
        b=float(b.mean()),
        only_a=only_a,
        only_b=only_b,
        interval=bootstrap_interval(b.astype(np.float64) - a, seed=seed),
        p=p,
        p_holm=p,
    )


def _fields(one: Comparison) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Comparison.__slots__}
