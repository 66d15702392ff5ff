"""`llm serve`: a model over the OpenAI HTTP API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmtools import terminal
from llmtools.commands.common import (
    BaseModel,
    Device,
    DryRun,
    Threads,
    command,
    make_app,
    show_plan,
)
from llmtools.commands.process import let_threads_sleep, use_threads

app = make_app()

LOCAL = ("127.0.0.1", "::1", "localhost")


@command(
    app,
    "serve",
    examples=[
        "llm serve tuned.gguf --port 8000",
        "llm serve base/ --host 0.0.0.0 --api-key-file keys.txt --max-batch 32 --name helper",
    ],
)
def serve(
    model: Annotated[Path, typer.Argument(help="A model directory, run, adapter or GGUF file.")],
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.")
    ] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="Only clients with one of its keys (one a line)."),
    ] = None,
    max_batch: Annotated[
        int, typer.Option("--max-batch", min=1, help="Requests that run at once; others wait.")
    ] = 16,
    name: Annotated[
        str | None,
        typer.Option("--name", help="The model's id in the API.  [default: MODEL's last part]"),
    ] = None,
    base: BaseModel = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Serve a model over the OpenAI HTTP API, until SIGTERM or Ctrl-C.

    Requests share batches. Beside /v1/completions, /v1/chat/completions and /v1/models there are
    /health and /metrics (Prometheus).
    """
    from llmtools.formats.model_path import resolve_model

    resolve_model(model)
    let_threads_sleep()
    use_threads(threads)
    from llmtools.engine.load import load_engine
    from llmtools.server.serve import address_of, make_service, open_socket, read_api_keys
    from llmtools.server.serve import serve as run

    keys = [] if api_key_file is None else read_api_keys(api_key_file)
    if dry_run:
        from llmtools.plan.model import plan_serve

        open_socket(host, port).close()
        show_plan(plan_serve(model, base=base, device=device, max_batch=max_batch))
        return
    with open_socket(host, port) as listener:
        if not keys and host not in LOCAL:
            terminal.warn(f"anyone who reaches {host} may use this server; add --api-key-file")
        loaded = load_engine(model, base=base, device=device, max_batch=max_batch)
        service = make_service(loaded, name or model.absolute().name, keys)
        run(
            service,
            listener,
            lambda: terminal.note(
                f"serving {service.name} on {address_of(listener)} (Ctrl-C stops)"
            ),
        )
