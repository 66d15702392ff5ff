"""Which of several processes one is."""

from __future__ import annotations

import pytest

from llmtools.errors import UsageError
from llmtools.shards.place import Place, find_place, parse_shard


def slurm(**values: str) -> Place:
    return find_place("slurm", None, {f"SLURM_{k}": v for k, v in values.items()})


def test_a_shard_counts_from_zero():
    assert parse_shard("2/8") == Place(index=2, count=8, is_shared=True)
    assert find_place("local", "0/1", {}) == Place(index=0, count=1, is_shared=True)
    assert find_place("local", None, {"SLURM_PROCID": "1"}) == Place()


@pytest.mark.parametrize("given", ["8/8", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_what_is_no_shard_is_refused(given):
    with pytest.raises(UsageError, match="0/8 to 7/8"):
        parse_shard(given)


def test_slurm_says_the_place_of_an_array_task_or_of_a_steps_process():
    assert slurm(ARRAY_TASK_ID="3", ARRAY_TASK_COUNT="4") == Place(index=3, count=4, is_shared=True)
    from_five = {"ARRAY_TASK_MIN": "5", "ARRAY_TASK_COUNT": "4"}
    assert slurm(ARRAY_TASK_ID="5", **from_five).index == 0
    assert slurm(ARRAY_TASK_ID="11", ARRAY_TASK_STEP="2", **from_five).index == 3
    assert slurm(PROCID="1", NTASKS="3") == Place(index=1, count=3, is_shared=True)
    # An array with gaps: every place is below the count.
    gaps = {"ARRAY_TASK_MIN": "1", "ARRAY_TASK_COUNT": "3"}
    assert slurm(ARRAY_TASK_ID="7", **gaps).index < 3


def test_without_slurm_or_with_two_places_it_is_refused():
    with pytest.raises(UsageError, match=r"SLURM_ARRAY_TASK_ID .* not set.*--shard"):
        slurm()
    with pytest.raises(UsageError, match="SLURM_ARRAY_TASK_COUNT='x' is not a number"):
        slurm(ARRAY_TASK_ID="1", ARRAY_TASK_COUNT="x")
    for executor in ("slurm", "ray"):
        with pytest.raises(UsageError, match=f"--shard 1/2 has no place beside .*{executor}"):
            find_place(executor, "1/2", {})
