"""The whole of `llm eval`: tasks in order, samples as they come, results at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from llmtools import terminal
from llmtools.adapters.load import record_model
from llmtools.config import Sections
from llmtools.engine.load import load_with_tokenizer
from llmtools.engine.score import check_context, perplexity
from llmtools.errors import UsageError
from llmtools.evals.multiple_choice import METRICS, batches, metrics, sample, score_batch
from llmtools.evals.task import Example, Task, parse_names
from llmtools.evals.tasks import TASKS
from llmtools.formats.claim import remove
from llmtools.formats.document import read_documents
from llmtools.formats.input_names import expand_inputs
from llmtools.formats.manifest import Recorder
from llmtools.formats.results import FILE_NAME, ResultsDirectory, open_results, write_results
from llmtools.model import Decoder
from llmtools.tokenizer.tokenizer import Tokenizer

PERPLEXITY = "perplexity"
Results = dict[str, dict[str, float | int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalInputs:
    """What `llm eval` was asked for; see its help. minimum: task, metric and value."""

    model: Path
    tasks: str
    data: Path | None
    documents: Sequence[str]
    limit: int | None
    context: int | None
    limit_tokens: int | None
    minimum: tuple[tuple[str, str, float], ...]
    text_key: str
    base: Path | None
    device: str
    output: Path | None
    resume: bool
    force: bool

    def missed(self, results: Results) -> list[str]:
        """What fell below its minimum, in words."""
        return [
            f"{task}.{metric} is {results[task][metric]:.6g}, not at least {value:g}"
            for task, metric, value in self.minimum
            if not results[task][metric] >= value
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The examples of one multiple-choice task and where they are from."""

    task: Task
    file: Path
    digest: str
    examples: list[Example]

    @property
    def prompt_hash(self) -> str:
        """xxh3-128 of all prompts and choices, in order."""
        total = xxhash.xxh3_128()
        for example in self.examples:
            total.update("\0".join([example.context, *example.choices, ""]).encode())
        return total.hexdigest()


def read_questions(inputs: EvalInputs) -> dict[str, Questions]:
    """The examples of the multiple-choice tasks; every mistake about tasks and data is raised here.

    raises: UsageError for unknown tasks and flags without effect, InputError for bad data.
    """
    names = parse_names(inputs.tasks, [PERPLEXITY, *TASKS])
    chosen = [name for name in names if name in TASKS]
    mistakes = []
    if (PERPLEXITY in names) != bool(inputs.documents):
        mistakes.append("--documents and the task perplexity belong together")
    if bool(chosen) != (inputs.data is not None):
        mistakes.append(f"--data and the tasks of it ({', '.join(TASKS)}) belong together")
    if inputs.limit is not None and not chosen:
        mistakes.append("--limit has no effect on perplexity; use --limit-tokens")
    if PERPLEXITY not in names and (inputs.context or inputs.limit_tokens):
        mistakes.append("--context and --limit-tokens have an effect on perplexity alone")
    if inputs.data is not None and inputs.data.is_file() and len(chosen) > 1:
        mistakes.append(f"--data {inputs.data} is one file, and there are {len(chosen)} tasks")
    if inputs.data is not None and not inputs.data.exists():
        mistakes.append(f"--data {inputs.data}: no such file or directory")
    mistakes += [
        f"--min {task}.{metric}: minimums are for {' and '.join(METRICS)} of tasks in --tasks"
        for task, metric, _ in inputs.minimum
        if task not in chosen or metric not in METRICS
    ]
    if mistakes:
        raise UsageError("; ".join(mistakes))
    found = {}
    for name in chosen:
        assert inputs.data is not None
        file = TASKS[name].find(inputs.data)
        examples, digest = TASKS[name].read(file, inputs.limit)
        found[name] = Questions(task=TASKS[name], file=file, digest=digest, examples=examples)
        terminal.note(f"{name}: {len(examples):,} examples of {file}")
    return found


def max_length(decoder: Decoder) -> int:
    """Positions that one example may take."""
    return decoder.config.max_position_embeddings


def evaluate(inputs: EvalInputs) -> Results:
    """Measure, or go on measuring; returns task -> metric -> value.

    raises: as read_questions, load_with_tokenizer and open_results.
    """
    questions = read_questions(inputs)
    names = parse_names(inputs.tasks, [PERPLEXITY, *TASKS])
    documents = expand_inputs(inputs.documents) if inputs.documents else []
    recorder = Recorder("eval", {"tasks": names, "limit": inputs.limit})
    digest = record_model(inputs.model, recorder, base=inputs.base)
    decoder, tokenizer = load_with_tokenizer(inputs.model, base=inputs.base, device=inputs.device)
    check_context(decoder, inputs.context)
    model: dict[str, Any] = {
        "path": str(inputs.model),
        "digest": digest,
        "tokenizer": tokenizer.identity,
    }
    settings: dict[str, Any] = {
        "tasks": ",".join(names),
        "limit": inputs.limit,
        "context": inputs.context,
        "limit_tokens": inputs.limit_tokens,
    }
    recorder.settings = {**settings, "model": model}
    for found in questions.values():
        recorder.read_path(found.file)
    with ExitStack() as stack:
        directory = None
        if inputs.output is not None:
            data: dict[str, Any] = {name: found.digest for name, found in questions.items()}
            sections: Sections = {"eval": settings, "model": model, "data": data}
            directory = stack.enter_context(
                open_results(inputs.output, sections, resume=inputs.resume, force=inputs.force)
            )
        results = _choices(questions, decoder, tokenizer, directory)
        if PERPLEXITY in names:
            results[PERPLEXITY] = _perplexity(inputs, documents, decoder, tokenizer, recorder)
        results = {name: results[name] for name in names}
        if directory is not None:
            tasks = {
                name: {
                    "task": found.task.label,
                    "file": str(found.file),
                    "digest": found.digest,
                    "prompt_hash": found.prompt_hash,
                }
                for name, found in questions.items()
            }
            write_results(directory.path, results, tasks=tasks, model=model, settings=settings)
            try:
                recorder.wrote_tree(directory.path)
                recorder.count(**results)
                recorder.write_beside(directory.path)
            except BaseException:
                # Without its manifest the run is not finished, and goes on here another time.
                remove(directory.path / FILE_NAME)
                raise
    return results


def _choices(
    questions: Mapping[str, Questions],
    decoder: Decoder,
    tokenizer: Tokenizer,
    directory: ResultsDirectory | None,
) -> Results:
    """Score every multiple-choice task, going on where the directory's samples end."""
    if directory is not None:
        directory.keep_samples(_whole_batches(questions, directory.samples, decoder, tokenizer))
    left = [] if directory is None else list(directory.samples)
    if left:
        terminal.note(f"going on after {len(left):,} examples")
    results: Results = {}
    for name, found in questions.items():
        count = len(found.examples)
        samples, left = left[:count], left[count:]
        with terminal.progress(name, total=count - len(samples), unit="ex") as bar:
            for first, held in batches(found.examples, tokenizer, max_length(decoder)):
                if first < len(samples):
                    continue
                scored = zip(found.examples[first:], score_batch(decoder, held), strict=False)
                records = [sample(found.task.label, *pair) for pair in scored]
                samples += records
                if directory is not None:
                    directory.append(records)
                bar.update(len(records))
        results[name] = metrics(samples)
    return results


def _whole_batches(
    questions: Mapping[str, Questions],
    samples: Sequence[Mapping[str, Any]],
    decoder: Decoder,
    tokenizer: Tokenizer,
) -> int:
    """How many samples to keep: those of batches that were written whole."""
    if not samples:
        return 0
    ends, before = [0], 0
    for found in questions.values():
        for first, held in batches(found.examples, tokenizer, max_length(decoder)):
            ends.append(before + first + len(held))
        before += len(found.examples)
    return max(end for end in ends if end <= len(samples))


def _perplexity(
    inputs: EvalInputs,
    documents: Sequence[str],
    decoder: Decoder,
    tokenizer: Tokenizer,
    recorder: Recorder,
) -> dict[str, float | int]:
    with terminal.progress(PERPLEXITY, total=inputs.limit_tokens, unit="tok") as bar:
        read = read_documents(documents, text_key=inputs.text_key, on_read=recorder.read)
        result = perplexity(
            decoder,
            tokenizer,
            (document.text for document in read),
            context=inputs.context,
            limit_tokens=inputs.limit_tokens,
            progress=bar,
        )
    return asdict(result)


def count_positions(inputs: EvalInputs, tokenizer: Tokenizer, limit: int) -> int:
    """Positions that the multiple-choice examples take, for a plan."""
    return sum(
        item.num_positions
        for found in read_questions(inputs).values()
        for _, held in batches(found.examples, tokenizer, limit)
        for items in held
        for item in items
    )
