"""Claims: one owner at a time, whatever becomes of the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmtools.shards.claims import CLAIMS, Claims
from llmtools.shards.ledger import Ledger
from llmtools.shards.place import Place
from llmtools.shards.queue import Queue
from llmtools.shards.unit import Outcome, Stage, Unit

SHARED = Place(index=0, count=2, is_shared=True)
OTHER = Place(index=1, count=2, is_shared=True)


def write_owner(folder: Path, name: str, beat: int, **about: object) -> None:
    """An owner on another machine."""
    values = {"host": "far", "machine": "far away", "pid": 1, "started": "1", **about}
    (folder / CLAIMS / name).write_text(json.dumps({**values, "beat": beat}))


def test_a_claim_is_one_owners_until_it_lets_go(tmp_path):
    with Claims(tmp_path, SHARED) as one, Claims(tmp_path, OTHER) as two:
        assert one.take("0.1") == 1
        assert two.take("0.1") == 0
        assert one.take("0.1") == 1
        assert two.busy() == {"0.1": one.owner}
        assert f"process {os.getpid()} on" in two.describe(one.owner)
        one.release("0.1")
        assert two.take("0.1") == 1
    assert not (tmp_path / CLAIMS).exists()


@pytest.mark.parametrize("is_dead", [False, True])
def test_of_many_that_ask_at_once_one_gets_it(tmp_path, is_dead):
    with Claims(tmp_path, SHARED) as first:
        if is_dead:
            os.symlink("owner-gone", tmp_path / CLAIMS / "k.1")
        barrier = threading.Barrier(8)
        found: list[int] = []

        def ask() -> None:
            with Claims(tmp_path, OTHER) as claims:
                barrier.wait()
                found.append(claims.take("k"))
                barrier.wait()

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [0] * 7 + [2 if is_dead else 1]
        assert first.busy() == {}


def test_a_killed_process_of_this_machine_is_known_to_be_gone_at_once(tmp_path):
    script = (
        "import sys; from pathlib import Path; from llmtools.shards.claims import Claims;"
        "from llmtools.shards.place import Place;"
        "c = Claims(Path(sys.argv[1]), Place()); c.__enter__(); c.take('u');"
        "print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    with Claims(tmp_path, SHARED) as claims:
        assert claims.take("u") == 0
        process.kill()
        process.communicate(timeout=60)
        assert claims.busy() == {}
        assert claims.take("u") == 2
        assert claims.take("v") == 1


def test_an_owner_elsewhere_is_gone_when_its_beat_stands_still(tmp_path):
    with Claims(tmp_path, SHARED, stale_s=0.3) as claims:
        write_owner(tmp_path, "owner-far", beat=1)
        os.symlink("owner-far", tmp_path / CLAIMS / "u.1")
        assert claims.take("u") == 0
        time.sleep(0.4)
        write_owner(tmp_path, "owner-far", beat=2)
        assert claims.take("u") == 0, "it has beaten since"
        time.sleep(0.4)
        assert claims.take("u") == 2
        # A process id that is used again is not the owner's.
        machine = json.loads((tmp_path / CLAIMS / claims.owner).read_bytes())["machine"]
        write_owner(tmp_path, "owner-near", beat=1, machine=machine, pid=os.getpid(), started="0")
        os.symlink("owner-near", tmp_path / CLAIMS / "w.1")
        assert claims.take("w") == 2


def test_the_beat_goes_on(tmp_path):
    with Claims(tmp_path, SHARED, beat_s=0.02) as claims:
        path = tmp_path / CLAIMS / claims.owner
        beats = set()
        deadline = time.monotonic() + 60
        while len(beats) < 3 and time.monotonic() < deadline:
            beats.add(json.loads(path.read_bytes())["beat"])
            time.sleep(0.01)
        assert len(beats) >= 3


def test_a_process_that_stood_still_too_long_ends_itself(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from llmtools.shards.claims import Claims;"
        "from llmtools.shards.place import Place;"
        "c = Claims(Path(sys.argv[1]), Place(is_shared=True), beat_s=.05, stale_s=.5);"
        "c.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=-1)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(1)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


def test_when_the_claims_are_removed_nothing_more_is_given_out(tmp_path):
    with Claims(tmp_path, SHARED) as claims:
        subprocess.run(["rm", "-r", str(tmp_path / CLAIMS)], check=True)
        assert claims.take("0.1") == 0
        assert claims.is_over
    with Claims(tmp_path, SHARED) as late, Claims(tmp_path, OTHER) as newer:
        # A newcomer has made the directory again.
        (tmp_path / CLAIMS / late.owner).unlink()
        assert late.take("0.2") == 0
        assert late.is_over
        assert newer.take("0.2") == 1


def units(count: int) -> list[Unit]:
    stage = Stage(name="filter")
    return [
        Unit(
            phase=0,
            index=n,
            stages=(stage,),
            outputs=(f"w/phase-00/{n:05d}.jsonl",),
            rejects=("a",),
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [1, 7, 20])
def test_two_queues_give_each_unit_once_and_own_ones_first(tmp_path, count):
    ledgers = [Ledger(tmp_path, f"ledger-{n}.jsonl") for n in range(2)]
    with Claims(tmp_path, SHARED) as one, Claims(tmp_path, OTHER) as two:
        queues = [
            Queue(units(count), place, claims, ledger, "w")
            for place, claims, ledger in zip((SHARED, OTHER), (one, two), ledgers, strict=True)
        ]
        given: list[list[Unit]] = [[], []]
        # The first is three times as fast.
        for turn in range(count * 4):
            which = int(turn % 4 == 3)
            unit = queues[which].take()
            if unit is not None:
                given[which].append(unit)
                ledgers[which].finish(unit, Outcome(code=0))
                queues[which].done(unit)
        indices = [[unit.index for unit in units] for units in given]
        assert sorted(indices[0] + indices[1]) == list(range(count))
        own = (count + 1) // 2
        assert [index % 2 for index in indices[0][:own]] == [0] * own
        assert queues[0].take() is None
        assert queues[0].left() == {}
    for ledger in ledgers:
        ledger.refresh()
        assert len(ledger.done) == count
        ledger.close()


def test_every_attempt_writes_under_names_of_its_own(tmp_path):
    with Claims(tmp_path, SHARED) as claims:
        ledger = Ledger(tmp_path)
        first = Queue(units(1), SHARED, claims, ledger, "w").take()
        claims.release("0.0")
        second = Queue(units(1), SHARED, claims, ledger, "w").take()
        ledger.close()
    assert first is not None and second is not None
    assert first.outputs != second.outputs
    assert first.outputs[0].startswith("w/phase-00/00000-")
    assert first.rejects == second.rejects == ("a",), "what lies elsewhere keeps its name"
