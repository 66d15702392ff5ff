"""`llm quantize`: a smaller model, and what it costs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmtools import terminal
from llmtools.commands.common import (
    BaseModel,
    Device,
    DryRun,
    Force,
    Threads,
    command,
    make_app,
    show_plan,
)
from llmtools.commands.process import use_threads
from llmtools.errors import InputError, UsageError
from llmtools.formats.manifest import Recorder

app = make_app()


@command(
    app,
    "quantize",
    examples=[
        "llm quantize base/ --method rtn --scheme Q8_0 -o base.gguf",
        "llm quantize tuned/ --scheme Q4_0 --documents held-out.jsonl --json -o tuned.gguf",
    ],
)
def quantize(
    model: Annotated[str, typer.Argument(help="A model directory, run, adapter or GGUF file.")],
    output: Annotated[str, typer.Option("-o", "--output", help="The GGUF file to write.")],
    method: Annotated[
        Literal["rtn"], typer.Option("--method", help="rtn: round each value to nearest.")
    ] = "rtn",
    scheme: Annotated[
        Literal["Q8_0", "Q4_0", "F16"],
        typer.Option("--scheme", help="Stored type: 8.5, 4.5 or 16 bits a weight."),
    ] = "Q8_0",
    documents: Annotated[
        list[str] | None,
        typer.Option("--documents", help="Measure perplexity on these before and after."),
    ] = None,
    limit_tokens: Annotated[
        int | None,
        typer.Option("--limit-tokens", min=2, help="Score the first N tokens only."),
    ] = None,
    base: BaseModel = None,
    force: Force = False,
    dry_run: DryRun = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Write a smaller model and show what it costs.

    Rows that are not whole blocks of 32 stay F16; under Q4_0 the embedding and head are Q8_0.
    """
    from llmtools.adapters.load import record_model
    from llmtools.formats.input_names import STDIO
    from llmtools.formats.model_path import resolve_model
    from llmtools.formats.output import check_output, claim_outputs
    from llmtools.quant.gguf_export import export_gguf

    if limit_tokens is not None and not documents:
        raise UsageError("--limit-tokens has no effect without --documents")
    if device != "auto" and not documents:
        raise UsageError("--device has no effect without --documents: only scoring runs there")
    if output == STDIO and (documents or terminal.display().json):
        raise UsageError("the model cannot go to stdout here; give it a place with -o FILE")
    if Path(output).is_dir():
        raise UsageError(f"{output} is a directory; name the GGUF file to write")
    check_output(output, force=force)
    use_threads(threads)
    if dry_run:
        from llmtools.formats.input_names import expand_inputs
        from llmtools.plan.model import plan_quantize

        texts = expand_inputs(documents or [])
        show_plan(
            plan_quantize(
                model,
                output,
                scheme,
                base=base,
                device=device,
                documents=texts,
                limit_tokens=limit_tokens,
            )
        )
        return
    source = resolve_model(model)
    recorder = Recorder(
        "quantize", {"method": method, "scheme": scheme, "limit_tokens": limit_tokens}
    )
    record_model(source, recorder, base=base)
    texts = _read_texts(documents, recorder)
    with (
        claim_outputs([output], force=force, is_directory=False),
        _whole_model(source, base) as whole,
    ):
        before = _score(whole, texts, limit_tokens, device)
        export = export_gguf(whole, output, scheme, manifest=recorder.id, force=force)
    summary: dict[str, Any] = {
        "output": output,
        "method": method,
        "scheme": scheme,
        "parameters": export.num_parameters,
        "bytes_before": export.bytes_before,
        "bytes_after": export.bytes_after,
        "bits_per_weight": export.bits_per_weight,
        "types": export.types,
    }
    if before is not None:
        summary["before"] = before
        summary["after"] = _score(Path(output), texts, limit_tokens, device)
    recorder.wrote(export.stream)
    recorder.count(**{k: v for k, v in summary.items() if k not in recorder.settings})
    recorder.write_beside(output)
    _show(summary)


@contextmanager
def _whole_model(source: Path, base: Path | None) -> Iterator[Path]:
    """The model itself, or a temporary directory with an adapter merged into its base."""
    from llmtools.adapters.load import is_adapter, load_any, tokenizer_path_for
    from llmtools.model import save_model
    from llmtools.tokenizer.load import load_tokenizer

    if not is_adapter(source):
        if base is not None:
            raise UsageError(f"--base has no effect: {source} is not an adapter")
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="llmtools-") as folder:
        merged = Path(folder) / source.name
        merged.mkdir()
        save_model(merged, load_any(source, base=base))
        load_tokenizer(tokenizer_path_for(source, base=base)).save(merged)
        yield merged


def _read_texts(documents: list[str] | None, recorder: Recorder) -> list[str]:
    from llmtools.formats.document import read_documents
    from llmtools.formats.input_names import expand_inputs

    if not documents:
        return []
    inputs = expand_inputs(documents)
    texts = [document.text for document in read_documents(inputs, on_read=recorder.read)]
    if not any(texts):
        raise InputError(f"{', '.join(documents)}: no text to measure perplexity on")
    return texts


def _score(
    model: Path, texts: list[str], limit_tokens: int | None, device: str
) -> dict[str, Any] | None:
    if not texts:
        return None
    from llmtools.engine.score import perplexity_of_model

    return asdict(perplexity_of_model(model, texts, limit_tokens=limit_tokens, device=device))


def _show(summary: dict[str, Any]) -> None:
    if terminal.display().json:
        terminal.emit_json(summary)
        return
    before, after = summary["bytes_before"], summary["bytes_after"]
    terminal.note(
        f"{summary['output']}: {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB"
        f" ({100 * after / before:.0f} %, {summary['bits_per_weight']:.2f} bits a weight)"
    )
    if "before" in summary:
        old, new = summary["before"]["perplexity"], summary["after"]["perplexity"]
        terminal.note(f"perplexity {old:.4f} -> {new:.4f} ({100 * (new / old - 1):+.2f} %)")
