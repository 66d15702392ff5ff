"""HellaSwag (Zellers et al. 2019): which of four endings follows.

Layouts: llama.cpp's text form, six lines an example (context, number of the right ending, four
endings), already cleaned; and the original JSON lines (ctx_a, ctx_b, activity_label, endings,
label), cleaned as lm-evaluation-harness 0.4.13 does it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from llmtools.errors import InputError
from llmtools.evals.task import Example, Task, field, read_objects, texts

LINES = 6


def parse(where: str, lines: Iterator[tuple[int, str]]) -> Iterator[Example]:
    """Examples of either layout, told apart by the first line."""
    first = next(lines, None)
    if first is None:
        return
    rest = itertools.chain([first], lines)
    if first[1].lstrip().startswith("{"):
        yield from _from_objects(where, rest)
    else:
        yield from _from_text(where, rest)


def _from_text(where: str, lines: Iterator[tuple[int, str]]) -> Iterator[Example]:
    for number in itertools.count():
        block = list(itertools.islice(lines, LINES))
        if not block or all(not line for _, line in block):
            return
        place = f"{where}:{block[0][0]}"
        if len(block) < LINES:
            raise InputError(f"{place}: {len(block)} lines left, an example has {LINES}")
        gold = block[1][1].strip()
        if not (gold.isascii() and gold.isdigit()):
            raise InputError(f"{where}:{block[1][0]}: {gold!r:.60} is not the number of an ending")
        endings = tuple(line for _, line in block[2:])
        yield Example(id=str(number), context=block[0][1], choices=endings, gold=int(gold))


def _from_objects(where: str, lines: Iterator[tuple[int, str]]) -> Iterator[Example]:
    for number, (place, value) in enumerate(read_objects(where, lines)):
        context = f"{field(value, 'ctx_a', str, place)} {capitalized(value, place)}"
        label = value.get("label")
        if not str(label).isdigit():
            raise InputError(f"{place}: field 'label' is {label!r:.60}, not an ending's number")
        yield Example(
            id=str(value.get("ind", number)),
            context=clean(f"{field(value, 'activity_label', str, place)}: {context}"),
            choices=tuple(clean(ending) for ending in texts(value, "endings", place)),
            gold=int(str(label)),
        )


def capitalized(value: dict[str, object], where: str) -> str:
    """The second part of a context, as a sentence of its own."""
    text: str = field(value, "ctx_b", str, where)
    return text.capitalize()


def clean(text: str) -> str:
    """WikiHow's artefacts out: ' [title]' ends a sentence, other brackets and double spaces go."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


HELLASWAG = Task(
    name="hellaswag",
    version="1",
    names=("hellaswag_val_full.txt", "hellaswag_val.jsonl", "hellaswag.jsonl"),
    layouts="llama.cpp's six lines an example, or the original JSON lines",
    parse=parse,
)
