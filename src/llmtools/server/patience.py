"""Limits on how long a client may take to say what it wants.

uvicorn waits for ever for the head of a request once its first byte is there, so a few clients that
send a byte now and then would hold all connections. The body has its own limit (app.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# As long as nginx gives each of both by default (client_header_timeout, client_body_timeout).
HEAD_SECONDS = 60.0
BODY_SECONDS = 60.0
# Connections open at once; more are answered 503. Far above what a batch and its queue can use.
MAX_CONNECTIONS = 1024


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request head takes longer than HEAD_SECONDS."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._wait_for_head()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
