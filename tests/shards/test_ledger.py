"""The ledger: what a crash leaves, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmtools.errors import InputError, UsageError
from llmtools.shards.ledger import LEDGER, PLAN, Ledger, check_plan, read_plan, write_plan
from llmtools.shards.unit import Outcome, Part, Stage, Unit

UNIT = Unit(phase=0, index=3, stages=(Stage(name="filter"),), outputs=("a",), rejects=(None,))
PART = Part(path="a", num_bytes=2, num_lines=1, digest="00")
OUTCOME = Outcome(code=0, output=PART, rejects=(None,), counts=({"documents": 2},))


def test_what_is_done_is_read_back(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.start(UNIT, 7)
    ledger.finish(UNIT, OUTCOME)
    ledger.publish()
    ledger.close()
    again = Ledger(tmp_path)
    assert again.done == {"0.3": OUTCOME}
    assert again.attempts["0.3"] == 1
    assert again.is_publishing
    assert again.finished is None
    again.close()


def test_every_way_to_cut_the_last_line_leaves_the_lines_before(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.start(UNIT, 7)
    ledger.finish(UNIT, OUTCOME)
    ledger.close()
    data = (tmp_path / LEDGER).read_bytes()
    first = data.index(b"\n") + 1
    for cut in range(first, len(data)):
        (tmp_path / LEDGER).write_bytes(data[:cut])
        torn = Ledger(tmp_path)
        # A line that lacks only its line end is whole.
        assert torn.done == ({"0.3": OUTCOME} if cut == len(data) - 1 else {})
        torn.finish(UNIT, OUTCOME)
        torn.close()
        mended = Ledger(tmp_path)
        assert mended.done == {"0.3": OUTCOME}
        mended.close()


def plan(words: int = 20, digest: str = "aa", **more: str) -> dict:
    return {
        "settings": {"version": "1"},
        "stages": [{"title": "filter", "values": {"min_doc_words": words}}],
        "inputs": {"a": {"bytes": 1, "mtime_ns": 5, "digest": digest}, **more},
    }


def test_another_plan_is_refused_with_what_changed(tmp_path):
    with pytest.raises(UsageError, match="filter: min_doc_words was 20, now 30"):
        check_plan(tmp_path, plan(), plan(30))
    with pytest.raises(InputError, match="a has changed"):
        check_plan(tmp_path, plan(), plan(digest="bb"))
    with pytest.raises(InputError, match="b is new"):
        check_plan(tmp_path, plan(), plan(b={"bytes": 1}))
    with pytest.raises(InputError, match="b is gone"):
        check_plan(tmp_path, plan(b={"bytes": 1}), plan())
    other = plan()
    other["stages"] = [{"title": "dedup", "values": {}}]
    with pytest.raises(UsageError, match="the pipeline was 'filter', now 'dedup'"):
        check_plan(tmp_path, plan(), other)


def test_a_file_that_was_only_touched_is_the_same(tmp_path):
    touched = plan()
    touched["inputs"]["a"] = touched["inputs"]["a"] | {"mtime_ns": 6}
    check_plan(tmp_path, plan(), touched)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}"])
def test_a_plan_that_is_none_is_refused(tmp_path, data):
    (tmp_path / PLAN).write_bytes(data)
    with pytest.raises(InputError, match=r"plan\.json.*--no-resume"):
        read_plan(tmp_path)


def test_a_plan_is_read_back(tmp_path):
    assert read_plan(tmp_path) is None
    write_plan(tmp_path, plan())
    assert read_plan(tmp_path) == plan()


def test_the_files_of_several_processes_are_one_ledger(tmp_path):
    one, two = (Ledger(tmp_path, f"ledger-{n}.jsonl") for n in range(2))
    one.finish(replace(UNIT, attempt="a"), OUTCOME)
    assert not two.done
    two.refresh()
    assert two.done == {"0.3": OUTCOME}
    # What one process finds gone is gone for all, and an attempt that is lost stays so.
    two.lose("0.3")
    one.refresh()
    assert not one.done
    assert one.losses["0.3"] == 1
    two.finish(replace(UNIT, attempt="b"), OUTCOME)
    one.refresh()
    one.close()
    two.close()
    both = Ledger(tmp_path)
    assert both.done == one.done == {"0.3": OUTCOME}
    both.close()


def test_a_line_that_is_still_being_written_is_read_later(tmp_path):
    reader = Ledger(tmp_path, "ledger-0.jsonl")
    line = b'{"event": "start", "unit": "0.3", "pid": 1}\n'
    with open(tmp_path / "ledger-1.jsonl", "ab", buffering=0) as writer:
        for cut in (0, 10, len(line) - 1):
            writer.truncate(0)
            writer.write(line[:cut])
            reader.refresh()
            assert not reader.attempts
        writer.write(line[cut:] + line[:5])
        reader.refresh()
        assert reader.attempts["0.3"] == 1
        reader.refresh()
        assert reader.attempts["0.3"] == 1
    reader.close()
