"""Rule `repetition`: Gopher's table A1 (Rae et al. 2021), in three dialects.

    duplicate paragraph fraction             0.30
    duplicate paragraph character fraction   0.20
    duplicate line fraction                  0.30
    duplicate line character fraction        0.20
    top 2, 3, 4-gram character fraction      0.20 0.18 0.16
    duplicate 5 ... 10-gram character fr.    0.15 0.14 0.13 0.12 0.11 0.10

What is counted differs:

    datatrove 0.10.1    dolma 1.2.1 (gopher_v1)     DCLM
    paragraphs at \\n\\n+  none                        at \\n\\n, stripped, empty ones left out
    lines at \\n+         at \\n                       at \\n, stripped, empty ones left out
    repeats after the   all of a repeated block     as dolma; one block alone passes
    first are duplicate
    top: with spaces,   without; first of equals    without; longest of equals; once is 0
    first of equals
    dup: scan jumps     all occurrences of what     characters of words in any repeated n-gram
    over a repeat       comes twice
    n-grams compared    word by word                word by word; words that start with a letter
    without separators                              or digit only
    / all characters    / those of words (top), /   / those of words; blocks: / those of blocks
                        those of n-grams (dup)

Fast paths: `within_limits` for texts far from all limits, and the kernel `measure_repetition`.
Readable reference: `repetition_reference`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.rules.characters import character_table
from llmtools.data.rules.repetition_bounds import within_limits
from llmtools.data.rules.repetition_kernel import measure_repetition
from llmtools.data.rules.rule import Check, Rule, Verdicts, verdicts
from llmtools.data.rules.settings import DIALECTS, Conventions, Dialect, RepetitionSettings
from llmtools.data.rules.words import words_of

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int32]
Fractions = npt.NDArray[np.float64]

# The kernel's first columns; one per top n-gram and one per duplicate n-gram follow.
COLUMNS = ("blocks", "dup_para_frac", "dup_para_char_frac", "dup_line_frac", "dup_line_char_frac")
# The order in which each dialect tries them.
ORDERS: dict[Dialect, tuple[str, ...]] = {
    "datatrove": COLUMNS,
    "dolma": COLUMNS[3:],
    "dclm": (COLUMNS[0], COLUMNS[3], COLUMNS[1], COLUMNS[4], COLUMNS[2]),
}

# Slots of the hash table at most to begin with: more are made when a long text needs them.
_SLOTS = 1 << 16


class RepetitionRule(Rule):
    """Drops what repeats itself."""

    def __init__(self, name: str, settings: RepetitionSettings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        self._top, self._dup = settings.top_n_grams, settings.dup_n_grams
        self._conventions = conventions
        names = list(COLUMNS) + [f"top_{n}_gram" for n, _ in self._top]
        names += [f"dup_{n}_grams" for n, _ in self._dup]
        order = list(ORDERS[conventions.dialect]) + names[len(COLUMNS) :]
        limits: list[float] = [1, *(getattr(settings, measure) for measure in COLUMNS[1:])]
        limits += [limit for _, limit in (*self._top, *self._dup)]
        self._limits = dict(zip(names, limits, strict=True))
        self._columns = [names.index(measure) for measure in order]
        self.checks = tuple(
            Check(
                rule=name,
                measure=measure,
                threshold=self._limits[measure],
                is_minimum=measure == "blocks",
            )
            for measure in order
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        values = repetition(
            batch,
            [n for n, _ in self._top],
            [n for n, _ in self._dup],
            self._conventions,
            None if annotate else list(self._limits.values()),
        )
        return verdicts(values[:, self._columns], self.checks, annotate=annotate)


def repetition(
    batch: Batch,
    top: Sequence[int],
    dup: Sequence[int],
    conventions: Conventions,
    limits: Sequence[float] | None = None,
) -> Fractions:
    """Fractions (D, 5 + len(top) + len(dup)): COLUMNS, top n-grams, duplicate n-grams.

    An n-gram that a document is too short for has fraction 0. limits: one per column; what comes
    after a fraction beyond its limit is not measured and left 0, and so may be all that is within
    its limit; `blocks` is 1 then.
    """
    words = words_of(batch, conventions.words)
    out = np.zeros((len(batch.documents), len(COLUMNS) + len(top) + len(dup)))
    is_settled = np.zeros(out.shape, np.bool_)
    if limits is not None and conventions.dialect == "datatrove":
        is_settled = within_limits(batch, words, top, dup, limits)
        out[:, 0] = is_settled[:, 0]
        if is_settled.all():
            return out
    most = int(words.counts.max(initial=0, where=~is_settled.all(axis=1))) + 1
    index, blocks = character_table()
    measure_repetition(
        batch.buffer,
        batch.offsets,
        index,
        blocks,
        words.offsets,
        words.starts,
        words.hashes,
        words.num_bytes,
        words.num_chars,
        words.kinds,
        DIALECTS.index(conventions.dialect),
        np.array(top, np.int64),
        np.array(dup, np.int64),
        np.full(out.shape[1], np.inf) if limits is None else np.array(limits, np.float64),
        np.empty((4, most), np.uint64),
        np.empty(most + 1, np.int64),
        min(_SLOTS, 64 << most.bit_length()),
        is_settled,
        out,
    )
    return out


def _repeats(blocks: Sequence[str], dialect: Dialect, all_chars: int) -> list[float]:
    """The share of repeated blocks and that of their characters."""
    counts = Counter(blocks)
    if dialect == "datatrove":
        repeated = [b for i, b in enumerate(blocks) if b in blocks[:i]]
    else:
        repeated = [b for b in blocks if counts[b] > 1]
    return [len(repeated) / len(blocks), len("".join(repeated)) / max(all_chars, 1)]


def _repeated_grams(words: list[str], n: int, dialect: Dialect) -> float:
    """Characters in repeated n-grams; in dolma's dialect by those of all n-grams."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    if dialect == "datatrove":
        seen: set[str] = set()
        chars = 0
        i = 0
        while i < len(grams):
            gram = "".join(grams[i])
            chars += len(gram) if gram in seen else 0
            i += n if gram in seen else 1
            seen.add(gram)
        return chars
    counts = Counter(grams)
    if dialect == "dolma":
        every = sum(len("".join(g)) for g in grams)
        return sum(len("".join(g)) for g in grams if counts[g] > 1) / max(every, 1)
    repeated = {i + k for i, g in enumerate(grams) if counts[g] > 1 for k in range(n)}
    return sum(len(words[i]) for i in repeated)


def repetition_reference(
    text: str, words: list[str], top: Sequence[int], dup: Sequence[int], dialect: Dialect
) -> list[float]:
    """The same values of one text with these words, in plain Python."""
    if not text:
        return [0.0] * (len(COLUMNS) + len(top) + len(dup))
    if dialect == "dclm":
        words = [word for word in words if word[0].isalnum()]
    word_chars = len("".join(words))
    paragraphs, lines = re.split(r"\n{2,}", text.strip()), re.split(r"\n+", text)
    all_chars = [len(text)] * 2
    if dialect == "dolma":
        paragraphs, lines, all_chars = [], text.split("\n"), [word_chars] * 2
    elif dialect == "dclm":
        paragraphs = [p.strip() for p in text.split("\n\n") if p.strip()]
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        all_chars = [len("".join(paragraphs)), len("".join(lines))]
    out: list[float] = [len(lines)]
    for blocks, chars in zip((paragraphs, lines), all_chars, strict=True):
        is_too_few = len(blocks) < (2 if dialect == "dclm" else 1)
        out += [0.0, 0.0] if is_too_few else _repeats(blocks, dialect, chars)
    for n in top:
        counted = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        gram, count = counted.most_common(1)[0] if counted else ((), 0)
        chars = len(" ".join(gram) if dialect == "datatrove" else "".join(gram)) * count
        if dialect == "dclm":
            longest = max((len("".join(g)) for g, c in counted.items() if c == count), default=0)
            chars = longest * count if count > 1 else 0
        out.append(chars / (len(text) if dialect == "datatrove" else max(word_chars, 1)))
    divisors = {"datatrove": len(text), "dolma": 1, "dclm": max(word_chars, 1)}
    return out + [_repeated_grams(words, n, dialect) / divisors[dialect] for n in dup]
