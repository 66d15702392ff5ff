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

Fast path: a numba kernel. Readable reference: `c4_reference`.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import PADDING, Batch
from llmtools.data.instructions import bits_in, copy_64, letter_bits, trailing_zeros
from llmtools.data.rules.characters import (
    DECIMAL,
    LINE_END,
    PUNCTUATION,
    SPACE,
    TERMINAL,
    character_class,
    character_table,
)
from llmtools.data.rules.rule import Check, Reject, Rule, Verdicts
from llmtools.data.rules.settings import DIALECTS, C4Settings, Conventions
from llmtools.jit import inlined, kernel

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
# Looked for in lower case; the order is that of the bits of `_phrases`.
PHRASES = ("lorem ipsum", "javascript", *POLICY)
_LOREM, _JAVASCRIPT, _POLICY = 1, 2, 252
# For each, the place of a letter that few words have there.
_RARE = np.array([4, 2, 3, 3, 3, 8, 10, 7], np.int64)
_ONE, _NO_BITS = np.uint64(1), np.uint64(0)
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")

COLUMNS = ("cause", "sentences", "lines", "lines_kept", "out_start", "out_stop")
_NONE, _LOREM_IPSUM, _CURLY_BRACKET, _SENTENCES, _BY_JAVASCRIPT = range(5)
_DATATROVE, _DOLMA, _DCLM = 0, 1, 2


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
        texts: dict[int, bytes] = {}
        measures: list[dict[str, Any]] = []
        for row, (cause, sentences, lines, kept, start, stop) in enumerate(found.tolist()):
            if cause != _NONE:
                value = float(sentences if cause == _SENTENCES else 1)
                rejects[row] = Reject(check=self.checks[cause - 1], value=value)
                # A dropped text matters to annotate alone.
                if not annotate:
                    continue
            edited = text[start:stop].tobytes()
            # A view is compared byte after byte, copies are at once.
            if edited != batch.text(row).tobytes():
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
    _edit(
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


@inlined
def _character(buffer: Bytes, i: int, index: Kinds, blocks: Kinds) -> tuple[int, int]:
    """The class of the character at byte i, and its width in bytes."""
    c = int(buffer[i])
    if c < 0x80:
        return int(blocks[c]), 1
    width = 2 if c < 0xE0 else (3 if c < 0xF0 else 4)
    code = c & (0x7F >> width)
    for k in range(1, width):
        code = (code << 6) | (int(buffer[i + k]) & 0x3F)
    return int(blocks[int(index[code >> 8]) * 256 + (code & 255)]), width


@inlined
def _strip(buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds) -> tuple[int, int]:
    """The bytes that white space at both ends leaves."""
    while start < stop:
        found, width = _character(buffer, start, index, blocks)
        if found & SPACE == 0:
            break
        start += width
    while start < stop:
        last = stop - 1
        while buffer[last] & 0xC0 == 0x80:
            last -= 1
        if _character(buffer, last, index, blocks)[0] & SPACE == 0:
            break
        stop = last
    return start, stop


@inlined
def _inside(marks: np.uint64, left: int) -> np.uint64:
    """Those of 64 bits that belong to the `left` bytes before the end."""
    return marks if left >= 64 else marks & ((_ONE << np.uint64(left)) - _ONE)


@inlined
def _count_words(
    buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds, enough: int
) -> int:
    """Words between white space; no more than `enough` are counted."""
    words = 0
    was_space = True
    i = start
    while i < stop and words < enough:
        found, width = _character(buffer, i, index, blocks)
        is_space = found & SPACE != 0
        words += 1 if was_space and not is_space else 0
        was_space = is_space
        i += width
    return words


@kernel
def _longest_word(buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds) -> int:
    """The characters of the longest word."""
    longest, chars = 0, 0
    i = start
    while i < stop:
        found, width = _character(buffer, i, index, blocks)
        chars = 0 if found & SPACE != 0 else chars + 1
        longest = max(longest, chars)
        i += width
    return longest


@inlined
def _count_sentences(buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds) -> int:
    """Sentences of a line, at least one."""
    sentences = 1
    after = start
    for block in range(start, stop, 64):
        # ! . ? and the first bytes of what is not ASCII; other characters end no sentence.
        marks = bits_in(buffer, block, 33, 33) | bits_in(buffer, block, 46, 46)
        marks |= bits_in(buffer, block, 63, 63) | bits_in(buffer, block, 0xC0, 0xFF)
        marks = _inside(marks, stop - block)
        while marks != _NO_BITS:
            i = block + trailing_zeros(marks)
            marks &= marks - _ONE
            if i < after:
                continue
            found, width = _character(buffer, i, index, blocks)
            if found & TERMINAL == 0:
                continue
            has_gap = width > 1
            after = i + width
            while after < stop:
                found, width = _character(buffer, after, index, blocks)
                if found & TERMINAL != 0:
                    has_gap = width > 1
                elif found & SPACE != 0:
                    has_gap = True
                elif found & PUNCTUATION == 0:
                    sentences += 1 if has_gap else 0
                    break
                after += width
    return sentences


@kernel
def _is_phrase(buffer: Bytes, start: int, stop: int, phrase: Bytes) -> bool:
    """Whether a phrase stands at `start`, in any case of ASCII."""
    if start + phrase.size > stop:
        return False
    for k in range(phrase.size):
        b = buffer[start + k]
        if (b | 32 if 65 <= b <= 90 else b) != phrase[k]:
            return False
    return True


@inlined
def _phrases(
    buffer: Bytes, start: int, stop: int, phrases: Bytes, ends: Integers, rare: Integers
) -> tuple[int, bool]:
    """Which phrases stand in a line, one bit each, and whether a '{' does."""
    found = 0
    bracket = False
    for block in range(start, stop, 64):
        bracket = bracket or _inside(bits_in(buffer, block, 123, 123), stop - block) != _NO_BITS
        for number in range(ends.size - 1):
            phrase = phrases[ends[number] : ends[number + 1]]
            place = rare[number]
            marks = letter_bits(buffer, block, phrase[0])
            marks &= letter_bits(buffer, block + place, phrase[place])
            marks = _inside(marks, stop - block)
            while marks != _NO_BITS:
                i = block + trailing_zeros(marks)
                marks &= marks - _ONE
                if _is_phrase(buffer, i, stop, phrase):
                    found |= 1 << number
    return found, bracket


@kernel
def _citation(buffer: Bytes, i: int, stop: int, index: Kinds, blocks: Kinds) -> int:
    """Bytes of the citation mark that starts with the '[' at i; 0 where there is none."""
    for mark in (b"[edit]", b"[citation needed]"):
        k = 0
        while k < len(mark) and i + k < stop and buffer[i + k] == mark[k]:
            k += 1
        if k == len(mark):
            return k
    at = i + 1
    while at < stop:
        if buffer[at] == 93:
            return at + 1 - i
        found, width = _character(buffer, at, index, blocks)
        if found & DECIMAL == 0:
            return 0
        at += width
    return 0


@inlined
def _ends_well(line: Bytes, start: int, stop: int, dialect: int) -> bool:
    """Whether a line ends as a sentence does; of DCLM's, white space at the end is gone."""
    if start == stop:
        return False
    c = line[stop - 1]
    is_mark = c == 46 or c == 63 or c == 33 or c == 34 or (c == 39 and dialect == _DATATROVE)
    is_dots = stop - start >= 3 and c == 46 and line[stop - 2] == 46 and line[stop - 3] == 46
    return bool(is_mark and not (is_dots and dialect != _DOLMA))


@inlined
def _next_line(
    buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds, dialect: int
) -> tuple[int, int]:
    """Where the line at `start` ends and the next one begins; `stop` + 1 where there is none."""
    for block in range(start, stop, 64):
        if dialect == _DATATROVE:
            # Controls, and the first bytes of U+0085, U+2028 and U+2029.
            marks = bits_in(buffer, block, 0, 31) | bits_in(buffer, block, 0xC2, 0xC2)
            marks |= bits_in(buffer, block, 0xE2, 0xE2)
        else:
            marks = bits_in(buffer, block, 10, 10)
        marks = _inside(marks, stop - block)
        while marks != _NO_BITS:
            i = block + trailing_zeros(marks)
            marks &= marks - _ONE
            if buffer[i] == 10:
                return i, i + 1
            found, width = _character(buffer, i, index, blocks)
            if found & LINE_END != 0:
                if buffer[i] == 13 and i + 1 < stop and buffer[i + 1] == 10:
                    width = 2
                return i, i + width
    return stop, stop + 1


@inlined
def _copy_line(
    buffer: Bytes,
    start: int,
    stop: int,
    index: Kinds,
    blocks: Kinds,
    removes: bool,
    out: Bytes,
    at: int,
) -> int:
    """Copy a line to out[at:], without citations where those go; returns where it ends."""
    i = start
    while i < stop:
        if removes and buffer[i] == 91:
            size = _citation(buffer, i, stop, index, blocks)
            i += size
            if size:
                continue
            out[at] = 91
            i += 1
            at += 1
        # What is copied beyond the next bracket or the end is written over.
        copy_64(out, at, buffer, i)
        size = min(stop - i, 64)
        if removes:
            brackets = _inside(bits_in(buffer, i, 91, 91), size)
            size = min(size, trailing_zeros(brackets))
        i += size
        at += size
    return at


@kernel
def _edit(
    buffer: Bytes,
    offsets: Integers,
    index: Kinds,
    blocks: Kinds,
    dialect: int,
    options: Integers,
    phrases: Bytes,
    phrase_ends: Integers,
    rare: Integers,
    out: Bytes,
    found: Integers,
) -> None:
    min_sentences, min_words, max_length = options[0], options[1], options[2]
    removes, needs_mark = options[3] != 0 and dialect != _DOLMA, options[4] != 0
    lorem, javascript, curly, policy = options[5], options[6], options[7], options[8]
    counts_all = options[9] != 0 or dialect == _DOLMA
    for d in range(offsets.size - 1):
        begin, stop = offsets[d], offsets[d + 1]
        origin = begin
        at = origin
        cause, sentences, lines, kept = _NONE, 0, 0, 0
        while begin <= stop:
            end, next_begin = _next_line(buffer, begin, stop, index, blocks, dialect)
            if end == begin == stop and dialect == _DATATROVE:
                break
            lines += 1
            first, last = _strip(buffer, begin, end, index, blocks)
            shown_first, shown_last = (first, last) if dialect == _DATATROVE else (begin, end)
            begin = next_begin
            if dialect != _DOLMA and last - first > max_length:
                if _longest_word(buffer, first, last, index, blocks) > max_length:
                    continue
            # The line goes behind what is kept; it stays there when all is well with it.
            line = at + 1 if kept else at
            line_end = _copy_line(
                buffer, shown_first, shown_last, index, blocks, removes, out, line
            )
            is_empty = dialect == _DCLM and line == line_end
            if dialect == _DOLMA and cause == _NONE:
                has, bracket = _phrases(out, line, line_end, phrases, phrase_ends, rare)
                if curly and bracket:
                    cause = _CURLY_BRACKET
                elif lorem and has & _LOREM:
                    cause = _LOREM_IPSUM
                elif javascript and has & _JAVASCRIPT:
                    cause = _BY_JAVASCRIPT
            mark_first, mark_last = line, line_end
            if dialect != _DATATROVE:
                mark_first, mark_last = _strip(out, line, line_end, index, blocks)
            if not is_empty:
                if needs_mark and not _ends_well(out, mark_first, mark_last, dialect):
                    continue
                # DCLM counts words after citations went.
                if dialect == _DCLM:
                    words = _count_words(out, line, line_end, index, blocks, min_words)
                else:
                    words = _count_words(buffer, first, last, index, blocks, min_words)
                if words < min_words:
                    continue
                if dialect != _DOLMA:
                    has, bracket = _phrases(out, line, line_end, phrases, phrase_ends, rare)
                    if lorem and has & _LOREM:
                        cause = _LOREM_IPSUM
                        break
                    if javascript and has & _JAVASCRIPT:
                        continue
                    if curly and bracket:
                        cause = _CURLY_BRACKET
                        break
                    if policy and has & _POLICY:
                        continue
                if counts_all or sentences < min_sentences:
                    sentences += _count_sentences(out, line, line_end, index, blocks)
            if kept:
                out[at] = 10
            kept += 1
            at = line_end
        if cause == _NONE and dialect != _DOLMA and sentences < min_sentences:
            cause = _SENTENCES
        if cause == _NONE and kept == 0:
            cause = _SENTENCES
        first, last = _strip(out, origin, at, index, blocks)
        found[d, 0], found[d, 1], found[d, 2], found[d, 3] = cause, sentences, lines, kept
        found[d, 4], found[d, 5] = first, last


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
