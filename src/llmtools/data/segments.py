"""Lines, paragraphs or spans of sentences that a corpus has had before.

    line       what stands between line breaks
    paragraph  lines up to a blank one
    sentence   spans of three sentences in a row (C4: Raffel et al. 2020, section 2.2)

A segment is compared by the xxh3-128 digest of its normal form, so copies are told apart from
others with certainty for any corpus that can be stored. Blank segments, and those whose normal form
is empty, are never duplicates. Normal forms: `ccnet` is that of CCNet (Wenzek et al. 2020): lower
case, digits as 0, no Unicode punctuation and control characters, ASCII punctuation stays; `lower`
is lower case; `none` is the text itself. In the first two, white space at both ends is ignored,
and in paragraphs and sentences a run of it is one space.

Memory: a KeySet, 21 to 43 bytes a distinct segment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import xxhash

from llmtools.data.key_set import KeySet
from llmtools.errors import UsageError

Unit = Literal["line", "paragraph", "sentence"]
Normal = Literal["ccnet", "lower", "none"]
Spans = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

# How many segments of a text are digested at once: a long text of short lines has millions.
CHUNK = 1 << 16

_LINE = re.compile(r"[^\n]+")
_PARAGRAPH_END = re.compile(r"\n(?:[^\S\n]*\n)+")
# The lookbehind starts a match only at the first of a run of marks, which keeps the search linear.
_SENTENCE_END = re.compile(
    r"""(?<![.!?…])[.!?…]++["'”’)\]]*+\s++|[。！？]++["'”’」』）]*+\s*+|\n\s*+"""
)
_DIGIT = re.compile(r"\d")
# source: cc_net/text_normalizer.py, UNICODE_PUNCT and NON_PRINTING_CHARS_RE, without the line feed
# that stands between the segments here.
_CCNET_PUNCTUATION = "，。、„”“«»１」「《》´∶：？！（）；–—．～’…━〈〉【】％►"
_CCNET_REMOVED = re.compile(f"[{_CCNET_PUNCTUATION}\x00-\x09\x0b-\x1f\x7f-\x9f]")
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSettings:
    """What is compared. num_sentences: sentences in a span; for lines and paragraphs no effect."""

    unit: Unit = "line"
    normal: Normal = "ccnet"
    num_sentences: int = 3

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit) or self.normal not in get_args(Normal):
            raise UsageError(f"unit {self.unit!r}, normal form {self.normal!r}: no such thing")
        if self.num_sentences < 1:
            raise UsageError(f"a span has {self.num_sentences} sentences; it must have at least 1")

    @property
    def width(self) -> int:
        """How many segments in a row are compared as one."""
        return self.num_sentences if self.unit == "sentence" else 1


class SegmentFinder:
    """Finds, text after text, what came before in this or an earlier text."""

    reads_twice = False

    def __init__(self, settings: SegmentSettings) -> None:
        self.settings = settings
        self._seen = KeySet()

    def learn(self, texts: Sequence[str]) -> None:
        """Nothing: what came before is known when a text comes."""

    def spans(self, texts: Sequence[str]) -> list[Spans]:
        """For each text, in corpus order, what to cut out: (k, 2) start and stop in characters.

        A segment goes together with what separates it from the next; the last ones of a text with
        what separates them from what stays before them.
        """
        width = self.settings.width
        cut = [segments(text, self.settings.unit) for text in texts]
        keys = [
            _windows(self._digests(text, own), width) for text, own in zip(texts, cut, strict=True)
        ]
        flat = np.concatenate([*keys, np.empty((0, 2), np.uint64)])
        is_copy = np.zeros(len(flat), np.bool_)
        # Two zeros mark what has an empty normal form; no text has that digest.
        real = np.flatnonzero(flat.any(axis=1))
        is_copy[real] = ~self._seen.add(flat[real])[0]
        out = []
        start = 0
        for text, own, its_keys in zip(texts, cut, keys, strict=True):
            copies = is_copy[start : start + len(its_keys)]
            start += len(its_keys)
            out.append(_removed(own, _covered(copies, len(own), width), len(text)))
        return out

    def _digests(self, text: str, own: Spans) -> Keys:
        form = _FORMS[self.settings.normal]
        is_line = self.settings.unit == "line"
        parts = [np.empty((0, 2), np.uint64)]
        for start in range(0, len(own), CHUNK):
            pieces = [text[i:j] for i, j in own[start : start + CHUNK].tolist()]
            parts.append(_digest(form(pieces, is_line)))
        return np.concatenate(parts)


def segments(text: str, unit: Unit) -> Spans:
    """The non-blank segments of a text, (n, 2) start and stop in characters."""
    found = _lines(text) if unit == "line" else _between(text, _ENDS[unit])
    parts = [np.empty((0, 2), np.int64)]
    held: list[tuple[int, int]] = []
    for start, stop in found:
        if not text[start:stop].isspace() and start < stop:
            held.append((start, stop))
        if len(held) == CHUNK:
            parts.append(np.array(held, np.int64))
            held = []
    if held:
        parts.append(np.array(held, np.int64))
    return np.concatenate(parts)


_ENDS = {"paragraph": _PARAGRAPH_END, "sentence": _SENTENCE_END}


def _lines(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _LINE.finditer(text))


def _between(text: str, end: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Segments end where the marks do, white space after them belongs to no segment."""
    start = 0
    for match in end.finditer(text):
        yield start, match.start() + len(match[0].rstrip())
        start = match.end()
    yield start, len(text)


def _ccnet(pieces: list[str], is_line: bool) -> list[str]:
    # One pass over all pieces instead of three calls for each; none holds a line feed any more.
    joined = "\n".join(_stripped(pieces, is_line)).lower()
    return _CCNET_REMOVED.sub("", _DIGIT.sub("0", joined)).split("\n")


def _lower(pieces: list[str], is_line: bool) -> list[str]:
    return [piece.lower() for piece in _stripped(pieces, is_line)]


def _stripped(pieces: list[str], is_line: bool) -> list[str]:
    if is_line:
        return [piece.strip() for piece in pieces]
    return [" ".join(piece.split()) for piece in pieces]


_FORMS: dict[str, Callable[[list[str], bool], list[str]]] = {
    "ccnet": _ccnet,
    "lower": _lower,
    "none": lambda pieces, is_line: pieces,
}


def _digest(forms: list[str]) -> Keys:
    """(n, 2) uint64; zeros for an empty form."""
    digest = xxhash.xxh3_128_digest
    joined = b"".join([digest(form.encode()) if form else bytes(16) for form in forms])
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)


def _windows(digests: Keys, width: int) -> Keys:
    """One digest for each `width` segments in a row, (max(n - width + 1, 0), 2)."""
    if width == 1:
        return digests
    count = max(len(digests) - width + 1, 0)
    mixed = np.zeros((count, 2), np.uint64)
    for row in range(width):
        mixed = (mixed ^ digests[row : row + count]) * _MIX
        mixed ^= mixed >> _SHIFT
    return mixed


def _covered(copies: npt.NDArray[np.bool_], count: int, width: int) -> npt.NDArray[np.bool_]:
    """Which of `count` segments lie in a span that is a copy."""
    covered = np.zeros(count, np.bool_)
    for row in range(width):
        covered[row : row + len(copies)] |= copies
    return covered


def _removed(own: Spans, covered: npt.NDArray[np.bool_], length: int) -> Spans:
    """Runs of covered segments as spans of the text."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], covered, [False]])))
    first, after = edges[::2], edges[1::2]
    starts = own[first, 0]
    stops = np.append(own[:, 0], length)[after]
    if after.size and after[-1] == len(own) and first[-1] > 0:
        # Nothing follows: what separated it from the segment before goes too.
        starts[-1] = own[first[-1] - 1, 1]
    return np.stack([starts, stops], axis=1)
