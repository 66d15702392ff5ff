"""Running the server: a socket, a model, and a stop that lets answers finish."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from llmtools.engine.load import LoadedModel
from llmtools.errors import InputError, ResourceError
from llmtools.server.app import Service, create_app
from llmtools.server.metrics import Metrics
from llmtools.server.patience import MAX_CONNECTIONS, PatientProtocol
from llmtools.server.worker import Worker

MAX_WAITING = 256
# How long a stop waits for answers that are under way.
STOP_SECONDS = 30
MIN_KEY_CHARS = 8


def open_socket(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; ResourceError when the address is not to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as fault:
        raise ResourceError(f"cannot listen on {host} port {port}: {fault.strerror}") from fault
    return listener


def address_of(listener: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return (
        f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
    )


def read_api_keys(path: Path) -> list[str]:
    """One key a line; blank lines and lines that begin with # say nothing.

    raises: InputError for a file without keys or with one too short to be a secret.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{path}: cannot read API keys: {fault}") from fault
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise InputError(f"{path}: no API keys; write one on each line")
    short = [number for number, key in enumerate(keys, 1) if len(key) < MIN_KEY_CHARS]
    if short:
        raise InputError(f"{path}: key {short[0]} has fewer than {MIN_KEY_CHARS} characters")
    return keys


def make_service(model: LoadedModel, name: str, api_keys: Sequence[str] = ()) -> Service:
    """A service whose worker has not been started."""
    metrics = Metrics(model.engine)
    worker = Worker(model.engine, metrics, max_waiting=MAX_WAITING)
    return Service(
        name=name,
        model=model,
        worker=worker,
        metrics=metrics,
        api_keys=tuple(api_keys),
        started_s=int(time.time()),
    )


class _Server(uvicorn.Server):
    """Says when it has taken over the signals and accepts connections."""

    on_ready: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()


def make_server(service: Service) -> _Server:
    """An HTTP server for a service; it logs errors alone, on stderr."""
    config = uvicorn.Config(
        create_app(service),
        log_level="error",
        access_log=False,
        lifespan="off",
        http=PatientProtocol,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
        server_header=False,
    )
    return _Server(config)


def _is_fault(record: logging.LogRecord) -> bool:
    """A second Ctrl-C cancels what is under way; uvicorn would print a traceback for each."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError | KeyboardInterrupt)


def serve(service: Service, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, which let answers under way finish for up to 30 s.

    A second Ctrl-C ends at once (130). on_ready: called when connections are accepted.
    """
    server = make_server(service)
    logging.getLogger("uvicorn.error").addFilter(_is_fault)
    service.worker.start()
    try:
        listener.listen(128)
        server.on_ready = on_ready
        server.run(sockets=[listener])
        if server.force_exit:
            raise KeyboardInterrupt
    except (KeyboardInterrupt, SystemExit):
        # uvicorn raises the signal again after a stop that went well.
        if server.force_exit or not server.should_exit:
            raise
    finally:
        service.worker.stop()
