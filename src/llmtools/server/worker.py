"""The thread that owns the engine; the event loop only hands requests over and takes outputs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from llmtools.engine.engine import Engine
from llmtools.engine.request import Output, Request
from llmtools.errors import LLMToolsError, ResourceError
from llmtools.server.metrics import Metrics

Deliver = Callable[[Output | LLMToolsError], None]


@dataclass(slots=True)
class _Client:
    """Who waits for a request, and since when its last token is known."""

    deliver: Deliver
    last_s: float
    has_token: bool = False


class Worker:
    """Runs engine steps while there is work. Every method but `start` may be called anywhere."""

    def __init__(self, engine: Engine, metrics: Metrics, *, max_waiting: int) -> None:
        """max_waiting: requests beyond a full batch; more are refused."""
        self._engine = engine
        self._metrics = metrics
        self._limit = engine.limits.max_batch + max_waiting
        self._clients: dict[str, _Client] = {}
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._is_stopping = False
        self._fault: LLMToolsError | None = None
        # A daemon, so that a second Ctrl-C ends the process in the middle of a long step.
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step it is in; requests that still run are dropped."""
        self._is_stopping = True
        self._orders.put(lambda: None)
        self._thread.join()

    @property
    def is_healthy(self) -> bool:
        return self._thread.is_alive() and self._fault is None and not self._is_stopping

    @property
    def is_full(self) -> bool:
        return len(self._clients) >= self._limit

    def submit(self, request: Request, deliver: Deliver) -> None:
        """Queue a request that Engine.check has passed.

        deliver: called in the worker's thread with each output, or once with what went wrong.
        """
        self._clients[request.id] = _Client(deliver, time.perf_counter())
        self._orders.put(lambda: self._add(request))

    def abort(self, request_id: str) -> None:
        """Forget a request and free its place; one that is finished or unknown is no error."""
        self._orders.put(lambda: self._forget(request_id))

    def _add(self, request: Request) -> None:
        client = self._clients.get(request.id)
        if client is None:
            return
        try:
            if self._fault is not None:
                raise self._fault
            self._engine.add(request)
        except LLMToolsError as fault:
            self._forget(request.id)
            client.deliver(fault)

    def _forget(self, request_id: str) -> None:
        self._engine.abort(request_id)
        self._clients.pop(request_id, None)

    def _work(self) -> None:
        while True:
            self._take_orders()
            if self._is_stopping:
                return
            calls, positions = self._engine.num_forward_calls, self._engine.num_positions
            try:
                outputs = self._engine.step()
            except Exception as fault:
                self._fail(fault)
                continue
            self._metrics.forward_calls.inc(self._engine.num_forward_calls - calls)
            self._metrics.positions.inc(self._engine.num_positions - positions)
            for output in outputs:
                self._hand_over(output)

    def _take_orders(self) -> None:
        """Do all orders; wait for one when there is nothing to run."""
        if not self._engine.has_work:
            self._orders.get()()
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return
            order()

    def _hand_over(self, output: Output) -> None:
        client = self._clients[output.request_id]
        now_s = time.perf_counter()
        metrics = self._metrics
        (metrics.token_gap if client.has_token else metrics.first_token).observe(
            now_s - client.last_s
        )
        client.last_s, client.has_token = now_s, True
        metrics.tokens_generated.inc()
        if output.completion is not None:
            metrics.prompt_tokens.inc(output.completion.num_prompt_tokens)
            del self._clients[output.request_id]
        client.deliver(output)

    def _fail(self, fault: Exception) -> None:
        """A step that raises leaves caches half-written: tell everyone, take nothing more."""
        is_known = isinstance(fault, LLMToolsError)
        known = fault if is_known else ResourceError(f"{type(fault).__name__}: {fault}")
        assert isinstance(known, LLMToolsError)
        self._fault = known
        for request_id, client in list(self._clients.items()):
            self._forget(request_id)
            client.deliver(known)
