"""Units as tasks of a Ray cluster.

A task gets a unit as JSON and answers with its outcome; data stays in files, which all nodes see
under the same paths. Ray's object store holds nothing, and Ray's own retries are off: the ledger
must know of each time that a unit is begun.
"""

from __future__ import annotations

import json
import os
import re
import socket
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from llmtools import __version__, signals
from llmtools.errors import ResourceError
from llmtools.shards.ledger import outcome_from
from llmtools.shards.local import LOOK_AGAIN_S, UnitFailed
from llmtools.shards.place import num_cpus
from llmtools.shards.unit import Outcome, Unit, attempt_of

# The least that Ray takes; nothing is put there.
STORE_BYTES = 80 << 20
# How often a unit is begun again when its node or process dies.
RETRIES = 3
CONNECT_S = 20.0
INSTALL = "pip install 'llmtools-cli[ray]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How tasks are run.

    target: 'module:function' that answers a request, both lines of JSON. workers: units in hand at
    a time, as many as the cluster has CPUs where None. address: of a cluster; where None that of
    RAY_ADDRESS, else one is started on this machine. folder: where units write.
    """

    target: str
    workers: int | None
    address: str | None
    folder: str


def check_ray() -> None:
    """Raises ResourceError where Ray is not installed."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise ResourceError(f"--executor ray needs the package ray: {INSTALL}")


def run_task(target: str, directory: str, version: str, request: str) -> str:
    """One request, on whichever node Ray has chosen; runs in a process of Ray's."""
    import importlib

    if version != __version__:
        raise RuntimeError(f"this node has llmtools {__version__}, the run is of {version}")
    os.chdir(directory)
    module, _, name = target.partition(":")
    answer: str = getattr(importlib.import_module(module), name)(request)
    return answer


def _check_reachable(address: str) -> None:
    """Ray itself goes on trying for minutes. Raises ResourceError."""
    match = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+)\]?:(\d{1,5})", address)
    if match is None:
        # 'auto' and the like: what Ray finds on this machine.
        return
    try:
        socket.create_connection((match[1], int(match[2])), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as fault:
        raise ResourceError(f"Ray at {address}: {fault}; no cluster listens there") from fault


class RayPool:
    """A connection to a cluster, made at the first unit and closed at the end of the block."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ray: Any = None
        self._task: Any = None
        self._limit = 1

    def __enter__(self) -> RayPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def run(
        self,
        take: Callable[[], Unit | None],
        on_start: Callable[[Unit, int], None],
        on_done: Callable[[Unit, Outcome], None],
    ) -> None:
        """Run what `take` gives, until it gives nothing while no task is under way.

        A unit whose process or node dies is begun again a few times. Raises UnitFailed for the
        first that fails, or that is out of luck.
        """
        busy: dict[Any, Unit] = {}
        deaths: Counter[str] = Counter()

        def begin(unit: Unit) -> None:
            on_start(unit, os.getpid())
            busy[self._submit({"unit": asdict(unit)})] = unit

        while True:
            while len(busy) < self._limit and (unit := take()) is not None:
                begin(unit)
            if not busy:
                return
            ready, _ = self._ray.wait(list(busy), num_returns=1, timeout=LOOK_AGAIN_S)
            for task in ready:
                unit = busy.pop(task)
                answer = self._answer(task, unit)
                if answer is None:
                    deaths[unit.key] += 1
                    if deaths[unit.key] > RETRIES:
                        died = f"its task died {deaths[unit.key]} times"
                        raise UnitFailed(unit, 4, f"{died}. The same command goes on from here")
                    begin(attempt_of(unit, self._settings.folder))
                    continue
                outcome = outcome_from(answer)
                if outcome.code:
                    raise UnitFailed(unit, outcome.code, outcome.message)
                on_done(unit, outcome)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request to one task, and its answer."""
        answer = self._answer(self._submit(request), None)
        if answer is None:
            raise ResourceError("a task of Ray died before any unit was begun")
        return answer

    def _submit(self, request: dict[str, Any]) -> Any:
        if self._ray is None:
            self._connect()
        line = json.dumps(request)
        return self._task.remote(self._settings.target, os.getcwd(), __version__, line)

    def _answer(self, task: Any, unit: Unit | None) -> dict[str, Any] | None:
        """None where the process or the node of a task died."""
        from ray.exceptions import RayError, RayTaskError

        try:
            value: dict[str, Any] = json.loads(self._ray.get(task))
        except RayTaskError as fault:
            lines = str(fault.cause if fault.cause is not None else fault).strip().splitlines()
            message = f"Ray could not run a unit here: {lines[-1]}"
            if unit is not None:
                raise UnitFailed(unit, 4, message) from fault
            raise ResourceError(message) from fault
        except RayError:
            return None
        return value

    def _connect(self) -> None:
        address = self._settings.address or os.environ.get("RAY_ADDRESS")
        # Ray asks for a choice of behaviour of future versions, and reports use over the network.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray

            options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
            if address is None:
                options |= {"num_cpus": self._settings.workers or num_cpus()}
                options |= {"object_store_memory": STORE_BYTES, "include_dashboard": False}
            else:
                _check_reachable(address)
                options |= {"address": address}
            try:
                ray.init(**options)
            except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as fault:
                where = "a local cluster" if address is None else address
                raise ResourceError(f"Ray at {where}: {fault}") from fault
        # Ray has put its own handlers in place of ours.
        signals.install()
        self._ray = ray
        remote = ray.remote(num_cpus=1, max_retries=0)
        self._task = remote(run_task)
        cluster = int(self._ray.cluster_resources().get("CPU", 1))
        self._limit = self._settings.workers or max(1, cluster)
