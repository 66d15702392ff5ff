"""Rule `refinedweb`: the line rules of RefinedWeb (Penedo et al. 2023) as DCLM has them.

A line goes when more than half of it is upper case, all of it digits, it counts ('3 likes'), or it
has one word; of lines of up to ten words "items in cart", a closing "Read more..." and an opening
"Sign-in" go. A document goes when more than a twentieth of its words did.

    source: DCLM, baselines/mappers/modifiers.py and dclm_baseline_refinedweb.yaml
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.rules.characters import DIGIT, SPACE, UPPER, character_table
from llmtools.data.rules.rule import Check, Rule, Verdicts, judge
from llmtools.data.rules.settings import Conventions, RefinedWebSettings
from llmtools.data.rules.utf8 import class_at
from llmtools.data.rules.words import OPENS_ALNUM, words_of
from llmtools.jit import kernel

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint16]

_COUNTED = "likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes|downloads"
_COUNTER = re.compile(rf"^\W*\d(?:,|\.|\d)*[kmb]?\s+(?:{_COUNTED}|views|followers)\W*$")
# Where none of these stands, no line needs to be looked at in Python.
_SUSPECT = re.compile(
    rf"\d[kmb]?\s+(?:{_COUNTED}|views|followers)|items in cart|read more|sign-in", re.IGNORECASE
)
_PHRASES = (
    re.compile(r"\s?items in cart", re.IGNORECASE),
    re.compile(r"\s?read more...$", re.IGNORECASE),
    re.compile(r"^sign-in\s?", re.IGNORECASE),
)
_MOST_WORDS = 10


class RefinedWebRule(Rule):
    """Removes lines that are no text, and drops what they were too much of."""

    def __init__(self, name: str, settings: RefinedWebSettings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        self._settings = settings
        self.checks = (
            Check(
                rule=name, measure="removed_words_ratio", threshold=settings.max_removed_words_ratio
            ),
            Check(rule=name, measure="words_left", threshold=1, is_minimum=True),
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        texts = {}
        for row, text in enumerate(self._kept_lines(batch)):
            found = str(text, "utf-8")
            if _SUSPECT.search(found):
                found = "\n".join(edit_lines(found.split("\n")))
            edited = found.strip().encode()
            if edited != batch.text(row):
                texts[row] = edited
        every = range(len(batch.documents))
        before = _count(batch)
        after = _count(batch.take(every, texts)) if texts else before
        values = np.stack([(before - after) / np.maximum(before, 1), after], axis=1)
        rejects = judge(values, self.checks)
        measures: list[dict[str, Any]] = []
        if annotate:
            measures = [
                {"removed_words_ratio": ratio, "words_left": int(left)}
                for ratio, left in values.tolist()
            ]
        kept = {row: text for row, text in texts.items() if annotate or rejects[row] is None}
        return Verdicts(rejects=rejects, measures=measures, texts=kept)

    def _kept_lines(self, batch: Batch) -> list[memoryview]:
        """The texts without the lines that a kernel can judge."""
        index, blocks = character_table()
        out = np.empty(batch.buffer.size + len(batch.documents), np.uint8)
        ends = np.zeros(len(batch.documents) + 1, np.int64)
        one = self._settings
        limits = np.array([one.max_uppercase_ratio, one.max_numeric_ratio, one.min_line_words])
        _keep_lines(batch.buffer, batch.offsets, index, blocks, limits, out, ends)
        return [out[ends[row] : ends[row + 1]].data for row in range(len(batch.documents))]


def edit_lines(lines: list[str]) -> list[str]:
    """The lines without counters and without the phrases of short ones."""
    kept = []
    for line in lines:
        if _COUNTER.search(line.lower()):
            continue
        is_emptied = False
        for phrase in _PHRASES:
            if len(line.split()) <= _MOST_WORDS:
                edited = phrase.sub("", line)
                is_emptied = is_emptied or bool(line and not edited.strip())
                line = edited
        if not is_emptied:
            kept.append(line)
    return kept


def _count(batch: Batch) -> npt.NDArray[np.float64]:
    """Words between white space that start with a letter or a digit, (D,)."""
    words = words_of(batch, "fast")
    total = np.zeros(words.kinds.size + 1)
    np.cumsum(words.kinds & OPENS_ALNUM != 0, out=total[1:])
    counted: npt.NDArray[np.float64] = np.diff(total[words.offsets])
    return counted


@kernel
def _keep_lines(
    buffer: Bytes,
    offsets: Integers,
    index: Kinds,
    blocks: Kinds,
    limits: npt.NDArray[np.float64],
    out: Bytes,
    ends: Integers,
) -> None:
    at = 0
    for d in range(offsets.size - 1):
        begin, stop = offsets[d], offsets[d + 1]
        while begin <= stop:
            i = begin
            chars, upper, digits, words, in_word = 0, 0, 0, 0, False
            while i < stop and buffer[i] != 10:
                found, width = class_at(buffer, i, index, blocks)
                chars += 1
                upper += 1 if found & UPPER != 0 else 0
                digits += 1 if found & DIGIT != 0 else 0
                is_space = found & SPACE != 0
                words += 1 if not is_space and not in_word else 0
                in_word = not is_space
                i += width
            stays = chars == 0
            if chars > 0:
                stays = upper / chars <= limits[0] and digits / chars <= limits[1]
                stays = stays and words >= limits[2]
            if stays:
                for k in range(begin, i):
                    out[at] = buffer[k]
                    at += 1
                out[at] = 10
                at += 1
            begin = i + 1
        ends[d + 1] = at
