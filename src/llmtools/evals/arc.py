"""ARC (Clark et al. 2018), the easy set: science questions, each choice scored as the answer.

Layouts: {"query", "choices", "gold"} of llm-foundry's local data (the query begins "Question: ");
{"question", "choices": {"text", "label"}, "answerKey"} as the Hugging Face data set; and the
original {"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"}.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmtools.errors import InputError
from llmtools.evals.task import Example, Task, field, read_objects, texts


def parse(where: str, lines: Iterator[tuple[int, str]]) -> Iterator[Example]:
    """Examples of any of the layouts."""
    for number, (place, value) in enumerate(read_objects(where, lines)):
        id = str(value.get("id", number))
        if "query" in value:
            yield Example(
                id=id,
                context=f"{field(value, 'query', str, place)}\nAnswer:",
                choices=texts(value, "choices", place),
                gold=field(value, "gold", int, place),
            )
        else:
            yield _with_key(id, value, place)


def _with_key(id: str, value: dict[str, Any], place: str) -> Example:
    question = value.get("question")
    if isinstance(question, dict):
        rows = [one for one in field(question, "choices", list, place) if isinstance(one, dict)]
        columns = {name: [one.get(name) for one in rows] for name in ("text", "label")}
        question = question.get("stem")
    else:
        columns = field(value, "choices", dict, place)
    if not isinstance(question, str):
        raise InputError(f"{place}: no question: a string 'query', 'question' or 'stem'")
    labels, key = texts(columns, "label", place), field(value, "answerKey", str, place)
    if key not in labels:
        raise InputError(f"{place}: answerKey {key!r} is none of {', '.join(labels)}")
    return Example(
        id=id,
        context=f"Question: {question}\nAnswer:",
        choices=texts(columns, "text", place),
        gold=labels.index(key),
    )


ARC_EASY = Task(
    name="arc_easy",
    version="1",
    names=("arc_easy.jsonl", "ARC-Easy-Test.jsonl"),
    layouts="JSON lines with query, choices and gold, or with question, choices and answerKey",
    parse=parse,
)
