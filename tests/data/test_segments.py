from __future__ import annotations

import random
import re

import numpy as np
import pytest

from llmtools.data.segments import Normal, SegmentFinder, SegmentSettings, Unit, segments
from llmtools.data.trim import trimmed
from llmtools.errors import UsageError

CCNET_PUNCTUATION = "，。、„”“«»１」「《》´∶：？！（）；–—．～’…━〈〉【】％►"
CONTROL = {*map(chr, range(32)), *map(chr, range(127, 160))}


def form_reference(piece: str, unit: Unit, normal: Normal) -> str:
    """The normal form of one segment, step by step (ccnet: normalize_for_dedup of CCNet)."""
    if normal == "none":
        return piece
    piece = (piece.strip() if unit == "line" else " ".join(piece.split())).lower()
    if normal == "ccnet":
        piece = re.sub(r"\d", "0", piece)
        piece = "".join(c for c in piece if c not in CCNET_PUNCTUATION and c not in CONTROL)
    return piece


def copies_reference(texts: list[str], unit: Unit, normal: Normal, width: int) -> list[set[int]]:
    """Which segments of each text lie in a span that came before, with a plain set."""
    seen: set[tuple[str, ...]] = set()
    out = []
    for text in texts:
        pieces = [text[a:b] for a, b in segments(text, unit).tolist()]
        forms = [form_reference(piece, unit, normal) for piece in pieces]
        copies: set[int] = set()
        for i in range(len(forms) - width + 1):
            span = tuple(forms[i : i + width])
            if span == ("",):
                continue
            if span in seen:
                copies |= set(range(i, i + width))
            seen.add(span)
        out.append(copies)
    return out


def rest_reference(text: str, unit: Unit, copies: set[int]) -> str:
    """What stays: what separates two segments belongs to the first, at the end to the last kept."""
    own = segments(text, unit).tolist()
    if not copies:
        return text
    kept = [i for i in range(len(own)) if i not in copies]
    out = text[: own[0][0]]
    for i in kept:
        is_cut_off = i == kept[-1] and i + 1 < len(own)
        after = own[i + 1][0] if i + 1 < len(own) else len(text)
        out += text[own[i][0] : own[i][1] if is_cut_off else after]
    return out if text[:1].isspace() else out.lstrip()


def random_text(chance: random.Random) -> str:
    words = ["One two", "one TWO", "Three 12", "three 45", "…", "é„x", " y", "\x01z", "Σ", "„ x"]
    marks = [". ", "!\n", "\n", "\n\n", "\n \n", "? ", "。", " ", "...\n", ".' "]
    size = chance.randrange(12)
    return "".join(chance.choice(words) + chance.choice(marks) for _ in range(size))


def found_and_expected(unit: Unit, normal: Normal, other: Normal) -> tuple[list[str], list[str]]:
    """What stays of random texts, and what the reference with the form `other` leaves."""
    settings = SegmentSettings(unit=unit, normal=normal, num_sentences=2)
    chance = random.Random(f"{unit} {normal}")
    found, expected = [], []
    for _ in range(50):
        texts = [random_text(chance) for _ in range(8)]
        finder = SegmentFinder(settings)
        spans = finder.spans(texts[:3]) + finder.spans(texts[3:])
        found += [trimmed(t, s) if len(s) else t for t, s in zip(texts, spans, strict=True)]
        copies = copies_reference(texts, unit, other, settings.width)
        expected += [rest_reference(t, unit, c) for t, c in zip(texts, copies, strict=True)]
    return found, expected


@pytest.mark.parametrize("unit", ["line", "paragraph", "sentence"])
@pytest.mark.parametrize("normal", ["ccnet", "lower", "none"])
def test_what_stays_equals_the_reference(unit: Unit, normal: Normal) -> None:
    found, expected = found_and_expected(unit, normal, normal)
    assert found == expected


@pytest.mark.parametrize("unit", ["line", "paragraph", "sentence"])
def test_another_normal_form_leaves_something_else(unit: Unit) -> None:
    found, expected = found_and_expected(unit, "ccnet", "lower")
    assert found != expected


def pieces(text: str, unit: Unit) -> list[str]:
    return [text[a:b] for a, b in segments(text, unit).tolist()]


def test_lines_keep_their_indentation_and_blank_ones_are_none() -> None:
    assert pieces("a\n  b\n\n \t\nc", "line") == ["a", "  b", "c"]


def test_paragraphs_end_at_blank_lines() -> None:
    text = "a\nb\n\n  c\n \t\n\n\nd\n"
    assert pieces(text, "paragraph") == ["a\nb", "  c", "d\n"]


def test_sentences_end_at_marks_before_white_space_and_at_line_ends() -> None:
    text = 'He paid 3.50. "Really?" she said... Yes!\nno mark\n二。三！”四'
    expected = [
        "He paid 3.50.",
        '"Really?"',
        "she said...",
        "Yes!",
        "no mark",
        "二。",
        "三！”",
        "四",
    ]
    assert pieces(text, "sentence") == expected


def test_a_span_of_three_sentences_goes_and_two_stay() -> None:
    first = "A one. B two. C three. D four."
    finder = SegmentFinder(SegmentSettings(unit="sentence"))
    texts = [first, "A one. B two. X. B TWO. C three.  D four. Y five."]
    spans = finder.spans(texts)
    assert [trimmed(t, s) for t, s in zip(texts, spans, strict=True)] == [
        first,
        "A one. B two. X. Y five.",
    ]


@pytest.mark.parametrize("text", [".", "…", "\n", " ", "\n ", "a\n", '."', ". ", "。", "x"])
@pytest.mark.parametrize("unit", ["line", "paragraph", "sentence"])
def test_a_repeated_character_takes_no_more_than_linear_work(text: str, unit: Unit) -> None:
    # Work that grows with the square of the length would take hours here.
    size = 200_000
    long = text * (size // len(text))
    spans = SegmentFinder(SegmentSettings(unit=unit)).spans([long])[0]
    assert np.all(spans[:, 0] < spans[:, 1])
    assert spans.size == 0 or spans[-1, 1] <= len(long)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        SegmentSettings(unit="sentence", num_sentences=0)
