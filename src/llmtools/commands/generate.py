"""`llm generate`: text from prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
from llmtools.errors import InputError, UsageError
from llmtools.formats.input_names import STDIO

app = make_app()


@command(
    app,
    "generate",
    examples=[
        "llm generate base/ 'Once upon a time' --temperature 0.8 --top-p 0.95 --max-tokens 100",
        "llm generate tuned.gguf --jsonl --max-tokens 64 < prompts.jsonl > answers.jsonl",
    ],
)
def generate(
    model: Annotated[Path, typer.Argument(help="A model directory, run, adapter or GGUF file.")],
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue.  [default: stdin]")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Answer the prompt as a message in a conversation.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", help="With --chat: the system message.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, help="New tokens at most.  [default: 256]"),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="0 takes the likeliest.  [default: the model's, or 0]"),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Only the k likeliest tokens; 0 is all.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Only the likeliest that add up to this.")
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option("--min-p", help="Only tokens of at least this share of the likeliest's."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Makes sampling repeatable.  [default: random]")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.")
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on after the end of the text.")
    ] = False,
    jsonl: Annotated[
        bool,
        typer.Option("--jsonl", help="One request a line from stdin, one result a line out."),
    ] = False,
    base: BaseModel = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Generate text from a prompt, streamed as it comes, or from many at once with --jsonl.

    A --jsonl line is {"prompt": TEXT} or {"messages": [...]}, with any of id, max_tokens,
    temperature, top_k, top_p, min_p, seed, stop and ignore_eos for that line alone. Beside
    messages may be tools, documents, chat_template_kwargs and continue_final_message. What a
    model writes to call a tool is in its text.
    """
    if system is not None and not chat:
        raise UsageError("--system has no effect without --chat")
    if jsonl and (prompt is not None or chat or terminal.display().json):
        raise UsageError("--jsonl reads prompts and messages from stdin and always writes JSON")
    if prompt is None and terminal.stdin_is_terminal():
        raise UsageError("no prompt: give a PROMPT, or pipe text in")
    settings: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "stop": stop,
        "ignore_eos": ignore_eos,
    }
    let_threads_sleep()
    use_threads(threads)
    from llmtools.engine.jobs import DEFAULT_MAX_TOKENS
    from llmtools.engine.load import load_engine
    from llmtools.engine.prompt import encode_prompt
    from llmtools.engine.sampling import Sampling

    # A value out of range is refused before the model is read.
    Sampling(**{k: v for k, v in settings.items() if k in Sampling.__slots__ and v is not None})
    if dry_run:
        from llmtools.plan.model import plan_generate

        def prompt_ids(tokenizer: Any) -> list[int]:
            assert prompt is not None
            return encode_prompt(tokenizer, _messages(system, prompt) if chat else prompt)

        show_plan(
            plan_generate(
                model,
                base=base,
                device=device,
                prompt_ids=None if prompt is None else prompt_ids,
                max_tokens=max_tokens or DEFAULT_MAX_TOKENS,
            )
        )
        return
    text = "" if jsonl else _read_stdin() if prompt is None else prompt
    loaded = load_engine(model, base=base, device=device)
    if jsonl:
        _run_lines(loaded, settings)
        return
    ids = encode_prompt(loaded.tokenizer, _messages(system, text) if chat else text)
    request = loaded.request("prompt", ids, settings, DEFAULT_MAX_TOKENS)
    given = [n for n in ("top_k", "top_p", "min_p", "seed") if settings[n] is not None]
    if given and request.sampling.temperature == 0:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        terminal.warn(f"no effect at temperature 0, which takes the likeliest token: {flags}")
    streams = not terminal.display().json
    for output in loaded.engine.run([request]):
        if streams and output.text:
            terminal.emit_text(output.text)
        done = output.completion
    assert done is not None
    if streams:
        terminal.emit_text("" if done.text.endswith("\n") else "\n")
    else:
        terminal.emit_json(done.to_json())


def _messages(system: str | None, text: str) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": text}]


def _read_stdin() -> str:
    """The prompt on stdin, without the line end that programs put behind their output."""
    from llmtools.formats.stream import open_input

    with open_input(STDIO) as stream:
        try:
            return stream.read().decode().removesuffix("\n")
        except UnicodeDecodeError as fault:
            raise InputError(f"<stdin>: not UTF-8 at byte {fault.start}") from fault


def _run_lines(loaded: Any, settings: dict[str, Any]) -> None:
    from llmtools.engine.jobs import read_jobs, run_jobs
    from llmtools.formats.records import read_records

    jobs = read_jobs(read_records([STDIO]), loaded, settings)
    with terminal.progress("generate", total=len(jobs), unit="prompt") as bar:
        for job, done in run_jobs(loaded, jobs):
            terminal.emit_json({"id": job.id, **done.to_json()})
            bar.update()
