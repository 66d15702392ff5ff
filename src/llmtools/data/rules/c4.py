"""Rule `c4`: removes lines of a text and drops documents, in three dialects (Raffel et al. 2020).

                    datatrove 0.10.1        dolma 1.2.1 (c4_v2)     DCLM (c4.yaml)
    lines           str.splitlines,         at each line feed       at each line feed; empty ones
                    stripped                                        stay
    a line stays    . ? ! " '               . ? ! "                 . ? ! " and not an ellipsis
    that ends with  and not ...
    words, length   before citations go     as it stands            after citations went
    javascript      line goes               document goes           line goes
    lorem ipsum, {  the document goes where a line that stays has   as datatrove
                    it (dolma: any line)
    long words,     line goes               not looked at           line goes
    policy
    citations       go                      stay                    go
    sentences       counted                 not counted             counted

A sentence ends at closing marks that white space follows, or at one of a script that needs none;
datatrove asks spaCy's sentencizer, DCLM nltk's punkt. The text that is left is stripped; where
none is, the document goes.

Fast path: the kernel of c4_kernel.py. Readable reference: `c4_reference`.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import PADDING, Batch
from llmtools.data.rules.c4_kernel import NONE, SENTENCES, edit
from llmtools.data.rules.characters import (
    PUNCTUATION,
    SPACE,
    TERMINAL,
    character_class,
    character_table,
)
from llmtools.data.rules.rule import Check, Reject, Rule, Verdicts
from llmtools.data.rules.settings import DIALECTS, C4Settings, Conventions

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint16]

POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
# Looked for in lower case; the order is that of the bits of the kernel's `_phrases`.
PHRASES = ("lorem ipsum", "javascript", *POLICY)
# For each, the place of a letter that few words have there.
_RARE = np.array([4, 2, 3, 3, 3, 8, 10, 7], np.int64)
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")

COLUMNS = ("cause", "sentences", "lines", "lines_kept", "out_start", "out_stop")


def _pack(texts: tuple[str, ...]) -> tuple[Bytes, Integers]:
    data = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, data)])
    return np.frombuffer(b"".join(data), np.uint8), ends.astype(np.int64)


class C4Rule(Rule):
    """Removes lines that are no sentences and drops what keeps too few, code and filler text."""

    def __init__(self, name: str, settings: C4Settings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        self._settings = settings
        self._dialect = DIALECTS.index(conventions.dialect)
        words = ("lorem_ipsum", "curly_bracket", "sentences", "javascript")
        thresholds = (0, 0, settings.min_num_sentences, 0)
        self.checks = tuple(
            Check(rule=name, measure=word, threshold=limit, is_minimum=word == "sentences")
            for word, limit in zip(words, thresholds, strict=True)
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        one = self._settings
        found, text = c4(
            batch,
            self._dialect,
            np.array(
                [
                    one.min_num_sentences,
                    one.min_words_per_line,
                    one.max_word_length,
                    one.remove_citations,
                    one.terminal_punct,
                    one.lorem_ipsum,
                    one.javascript,
                    one.curly_bracket,
                    one.policy,
                    annotate,
                ],
                np.int64,
            ),
        )
        rejects: list[Reject | None] = [None] * len(batch.documents)
        # Few are different, of many.
        made: dict[tuple[int, int], Reject] = {}
        texts: dict[int, bytes] = {}
        measures: list[dict[str, Any]] = []
        sizes = np.diff(batch.offsets).tolist()
        for row, (cause, sentences, lines, kept, start, stop) in enumerate(found.tolist()):
            if cause != NONE:
                value = sentences if cause == SENTENCES else 1
                reject = made.get((cause, value))
                if reject is None:
                    reject = Reject(check=self.checks[cause - 1], value=float(value))
                    made[cause, value] = reject
                rejects[row] = reject
                # A dropped text matters to annotate alone.
                if not annotate:
                    continue
            edited = text[start:stop].tobytes()
            # A view is compared byte after byte, copies are at once.
            if len(edited) != sizes[row] or edited != batch.text(row).tobytes():
                texts[row] = edited
            if annotate:
                marks = {c.measure: int(cause == n) for n, c in enumerate(self.checks, 1)}
                counts = {"sentences": sentences, "lines": lines, "lines_kept": kept}
                measures.append(marks | counts)
        return Verdicts(rejects=rejects, measures=measures, texts=texts)


def c4(batch: Batch, dialect: int, options: Integers) -> tuple[Integers, Bytes]:
    """COLUMNS of every document (D, 6), and the texts that are left.

    options: as in C4Settings, and whether sentences are counted further than min_num_sentences.
    The text of document d is out[out_start : out_stop]; of a dropped one as far as it was made.
    """
    index, blocks = character_table()
    out = np.empty(batch.buffer.size + 1 + PADDING, np.uint8)
    found = np.zeros((len(batch.documents), len(COLUMNS)), np.int64)
    phrases, ends = _pack(PHRASES)
    edit(
        batch.buffer,
        batch.offsets,
        index,
        blocks,
        dialect,
        options,
        phrases,
        ends,
        _RARE,
        out,
        found,
    )
    return found, out


def sentences_reference(line: str) -> int:
    """Sentences of a line, in plain Python."""
    sentences, has_ended, has_gap = 1, False, False
    for character in line:
        found = character_class(character)
        if found & TERMINAL:
            has_ended, has_gap = True, ord(character) > 127
        elif has_ended and found & SPACE:
            has_gap = True
        elif has_ended and not found & PUNCTUATION:
            sentences += has_gap
            has_ended = False
    return sentences


def c4_reference(text: str, settings: C4Settings) -> tuple[str, str]:
    """datatrove's dialect: why a text is dropped ('' where it stays) and what is left of it."""
    kept, sentences = [], 0
    for line in map(str.strip, text.splitlines()):
        words = line.split()
        if any(len(word) > settings.max_word_length for word in words):
            continue
        if settings.remove_citations:
            line = CITATION.sub("", line)
        ends_well = line.endswith((".", "?", "!", '"', "'")) and not line.endswith("...")
        if settings.terminal_punct and not ends_well:
            continue
        if len(words) < settings.min_words_per_line:
            continue
        lowered = line.lower()
        if settings.lorem_ipsum and "lorem ipsum" in lowered:
            return "lorem_ipsum", ""
        if settings.javascript and "javascript" in lowered:
            continue
        if settings.curly_bracket and "{" in line:
            return "curly_bracket", ""
        if settings.policy and any(phrase in lowered for phrase in POLICY):
            continue
        sentences += sentences_reference(line)
        kept.append(line)
    return "sentences" if sentences < settings.min_num_sentences else "", "\n".join(kept).strip()
