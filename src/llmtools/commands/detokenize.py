"""`llm detokenize`: token frames to documents."""

from __future__ import annotations

from llmtools.commands.common import (
    DryRun,
    Force,
    Inputs,
    Output,
    TokenizerPath,
    check_json_output,
    command,
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.commands.process import lean_process
from llmtools.formats.input_names import STDIO

app = make_app()


@command(
    app,
    "detokenize",
    examples=[
        "llm detokenize tokens/ -t tokenizer.json -o docs.jsonl",
        "llm tokenize notes.txt -t tokenizer.json | llm detokenize -t tokenizer.json",
    ],
)
def detokenize(
    *,
    inputs: Inputs = None,
    tokenizer: TokenizerPath,
    output: Output = STDIO,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Decode token frames back to documents; a document's id is the hash that frames keep."""
    check_json_output(output)
    names = resolve_inputs(inputs, (".safetensors",))
    lean_process()
    from llmtools.data.decode import detokenize as run
    from llmtools.tokenizer.load import load_tokenizer

    if dry_run:
        from llmtools.plan.tokens import plan_detokenize

        show_plan(plan_detokenize(names, output, load_tokenizer(tokenizer), force=force))
        return
    counts = run(names, output, load_tokenizer(tokenizer), force=force)
    report(counts, f"detokenize: {counts['tokens']:,} tokens, {counts['documents']:,} documents")
