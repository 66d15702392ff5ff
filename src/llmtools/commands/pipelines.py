"""Commands as stages of a pipeline: parsed without being run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmtools import cli
from llmtools.commands.common import resolve_values
from llmtools.commands.rule_flags import rule_fields
from llmtools.errors import InputError, UsageError
from llmtools.formats.input_names import STDIO
from llmtools.formats.manifest import digest_file
from llmtools.shards.pipeline import KINDS, Pipeline, check_names
from llmtools.shards.unit import Stage

# What a stage reads and writes; the rest of its values decide what it does.
_PLACES = (
    "inputs paths files_from output force rejects stats phase explain work_dir shard dry_run"
).split()
# Flags of the whole run, which a stage cannot have on its own.
_RUNS_OWN = frozenset(
    "-h --help --show-config -n --dry-run --workers --work-dir --shard-bytes --resume"
    " --no-resume --executor --shard --ray-address".split()
) | (cli.GLOBAL_FLAGS | cli.GLOBAL_VALUES) - {"--config"}


def parse_pipeline(stages: Sequence[Sequence[str]]) -> Pipeline:
    """The stages' command lines, each read by its own parser; all mistakes in one UsageError."""
    mistakes = check_names(stages)
    if mistakes:
        raise UsageError("\n".join(mistakes))
    values: list[dict[str, Any]] = []
    for number, words in enumerate(stages, 1):
        is_first, is_last = number == 1, number == len(stages)
        flags = [word for word in words if word in _RUNS_OWN]
        if flags:
            mistakes.append(f"stage {number}: {flags[0]} has no place in a stage; llm run has it")
            continue
        try:
            verb = KINDS[words[0]].verb
            found = resolve_values(words[0], verb, list(words[1 if verb is None else 2 :]))
            mistakes += [f"stage {number}: {m}" for m in misplaced(found, is_first, is_last)]
            if found.get("stats") is not None:
                reason = "--stats has no place in a stage; --json of llm run has the same of all"
                mistakes.append(f"stage {number}: {reason}")
            values.append(found)
        except UsageError as fault:
            mistakes.append(f"stage {number}: {fault}")
    if mistakes:
        raise UsageError("\n".join(mistakes))
    return make_pipeline([words[0] for words in stages], values)


def make_pipeline(names: Sequence[str], values: Sequence[dict[str, Any]]) -> Pipeline:
    """A pipeline of commands with all their values."""
    stages = tuple(
        Stage(
            name=name,
            verb=KINDS[name].verb,
            values={key: value for key, value in found.items() if key not in _PLACES},
        )
        for name, found in zip(names, values, strict=True)
    )
    first, last = values[0], values[-1]
    return Pipeline(
        stages=stages,
        inputs=tuple(first.get("paths") or first.get("inputs") or ()),
        output=last["output"],
        force=last["force"],
        rejects=tuple(found.get("rejects") for found in values),
    )


def misplaced(values: dict[str, Any], is_first: bool, is_last: bool) -> list[str]:
    """Inputs and outputs that a stage at this place cannot have."""
    found = []
    inputs = values.get("paths") or values.get("inputs") or []
    if is_first and (not inputs or STDIO in inputs):
        found.append("the first stage names its files; stdin could not be read again")
    if not is_first and inputs:
        found.append(f"reads the stage before it, not {inputs[0]!r}; only the first names files")
    if values.get("files_from") is not None:
        found.append("--files-from has no place in a pipeline, which makes its own lists")
    output = values.get("output", STDIO)
    if is_last and output == STDIO:
        found.append("the last stage needs -o: stdout could not be resumed")
    if not is_last and output != STDIO:
        found.append(f"gives what it writes to the next stage; -o {output} belongs to the last one")
    if not is_last and values.get("format", "frames") not in ("frames", "packed"):
        found.append(f"--format {values['format']} belongs to the last stage; others write frames")
    if not is_last and values.get("force"):
        found.append("-f belongs to the last stage")
    for flag in ("phase", "explain"):
        if values.get(flag) is not None:
            found.append(f"--{flag} has no place here; it is for llm dedup alone")
    if values.get("rejects") == STDIO:
        found.append("--rejects needs a file")
    return found


def settings_of(pipeline: Pipeline) -> dict[str, str]:
    """What decides the output besides values: contents of tokenizers and scorers, by digest."""
    found = {}
    for stage in pipeline.stages:
        if stage.name == "filter":
            named = (
                stage.values.get(k) for k, (f, _) in rule_fields().items() if f.metadata["is_file"]
            )
            for file in (Path(str(name)) for name in named if name is not None):
                if file.is_file():
                    found[f"contents of {file}"] = digest_file(file)[1]
        for scorer in stage.values.get("scorers") or ():
            files = sorted(Path(scorer).glob("*")) if os.path.isdir(scorer) else [Path(scorer)]
            for file in filter(Path.is_file, files):
                found[f"contents of {file}"] = digest_file(file)[1]
        name = stage.values.get("tokenizer")
        if name is not None:
            from llmtools.tokenizer.load import load_tokenizer_once

            # It may stand in several files; what they say counts. A mistake in them is found with
            # those of the other stages, before any of the work.
            with suppress(InputError):
                own = load_tokenizer_once(str(name))
                found[f"contents of {name}"] = f"{own.identity}, bos {own.bos_id}, eos {own.eos_id}"
    return found
