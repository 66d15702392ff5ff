"""Units on this machine: worker processes that each run one unit after another.

A worker is given a unit as a line of JSON and answers with its outcome; it ends when the line to
its parent closes, so that nothing goes on working for a run that was killed.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any

from llmtools.errors import LLMToolsError
from llmtools.shards.ledger import outcome_from
from llmtools.shards.unit import Outcome, Unit

STOP_SECONDS = 5.0
LOOK_AGAIN_S = 1.0


class UnitFailed(LLMToolsError):
    """A unit ended with an error; the exit code is the unit's own."""

    def __init__(self, unit: Unit, code: int, message: str) -> None:
        titles = " | ".join(stage.title for stage in unit.stages)
        super().__init__(f"{titles}, unit {unit.index} ({unit.where}): {message}")
        self.exit_code = code


class _Worker:
    """One worker process and the unit it has in hand."""

    def __init__(self, program: Sequence[str]) -> None:
        # A terminal's Ctrl-C reaches the whole group; the worker, which inherits the mask, leaves
        # it to its parent.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.unit: Unit | None = None
        self._answer = b""

    def fileno(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def give(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        data = memoryview(json.dumps(request).encode() + b"\n")
        try:
            while data:
                data = data[self.process.stdin.write(data) :]
        except BrokenPipeError:
            # It has died; reading from it finds that out.
            return

    def take(self) -> dict[str, Any] | None:
        """The answer, once it is complete. Raises EOFError where the worker has died."""
        data = os.read(self.fileno(), 1 << 16)
        if not data:
            raise EOFError
        self._answer += data
        if not self._answer.endswith(b"\n"):
            return None
        answer, self._answer = self._answer, b""
        value: dict[str, Any] = json.loads(answer)
        return value


class Pool:
    """Worker processes, started when units come and stopped at the end of the block."""

    def __init__(self, program: Sequence[str], workers: int) -> None:
        self._program = program
        self._limit = workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.process.send_signal(signal.SIGTERM)
        for worker in self._workers:
            try:
                worker.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                if pipe is not None:
                    pipe.close()
        self._workers = []

    def run(
        self,
        take: Callable[[], Unit | None],
        on_start: Callable[[Unit, int], None],
        on_done: Callable[[Unit, Outcome], None],
    ) -> None:
        """Run what `take` gives, until it gives nothing while no worker is busy.

        The first failure ends it: raises UnitFailed with what that unit said.
        """
        with selectors.DefaultSelector() as ready:
            for worker in self._workers:
                ready.register(worker, selectors.EVENT_READ, worker)
            while self._fill(take, on_start, ready):
                # What others leave undone may come meanwhile.
                for key, _ in ready.select(LOOK_AGAIN_S):
                    worker = key.data
                    unit = worker.unit
                    try:
                        answer = worker.take()
                    except EOFError:
                        raise _death(worker, unit) from None
                    if answer is None or unit is None:
                        continue
                    outcome = outcome_from(answer)
                    if outcome.code:
                        raise UnitFailed(unit, outcome.code, outcome.message)
                    worker.unit = None
                    on_done(unit, outcome)

    def _fill(
        self,
        take: Callable[[], Unit | None],
        on_start: Callable[[Unit, int], None],
        ready: selectors.BaseSelector,
    ) -> bool:
        """Give every idle worker a unit, starting workers for it; whether any is busy."""
        idle = [worker for worker in self._workers if worker.unit is None]
        while idle or len(self._workers) < self._limit:
            unit = take()
            if unit is None:
                break
            if not idle:
                idle.append(_Worker(self._program))
                self._workers.append(idle[0])
                ready.register(idle[0], selectors.EVENT_READ, idle[0])
            worker = idle.pop()
            worker.unit = unit
            on_start(unit, worker.process.pid)
            worker.give({"unit": asdict(unit)})
        return any(worker.unit is not None for worker in self._workers)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request to one worker, and its answer."""
        if not self._workers:
            self._workers.append(_Worker(self._program))
        worker = self._workers[0]
        worker.give(request)
        while True:
            try:
                answer = worker.take()
            except EOFError:
                raise _death(worker, None) from None
            if answer is not None:
                return answer


def _death(worker: _Worker, unit: Unit | None) -> LLMToolsError:
    code = worker.process.wait()
    cause = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    hint = (
        "; the system kills what takes too much memory: try fewer --workers" if code == -9 else ""
    )
    message = f"its worker process ended by {cause}{hint}. The same command goes on from here"
    if unit is not None:
        return UnitFailed(unit, 4, message)
    fault = LLMToolsError(message)
    fault.exit_code = 4
    return fault
