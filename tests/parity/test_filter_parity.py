"""`llm filter` beside datatrove's own filters, given the same words: every verdict, every text."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import zstandard

from llmtools.data.batch import Batch, batches
from llmtools.data.rules.c4 import sentences_reference
from llmtools.data.rules.rule import Reject, Rule
from llmtools.data.rules.settings import Conventions, Words
from llmtools.data.rules.table import choose
from llmtools.data.rules.words import words_of
from support import fetch_package
from text_batches import batch_of

WHEEL = ("datatrove==0.10.1", "b0846fc28482b25c9dbeaa09445066ff68266b58d762e9344c64fe5f6d92d14c")
MODULES = {
    "repetition": ("gopher_repetition_filter", "GopherRepetitionFilter"),
    "gopher-quality": ("gopher_quality_filter", "GopherQualityFilter"),
    "c4": ("c4_filters", "C4QualityFilter"),
    "c4-paragraphs": ("c4_filters", "C4ParagraphFilter"),
    "fineweb": ("fineweb_quality_filter", "FineWebQualityFilter"),
}
# datatrove's reasons, in our words; (measure, is it a minimum).
REASONS = {
    "gopher_short_doc": ("doc_words", True),
    "gopher_long_doc": ("doc_words", False),
    "gopher_below_avg_threshold": ("avg_word_length", True),
    "gopher_above_avg_threshold": ("avg_word_length", False),
    "gopher_too_many_hashes": ("hash_word_ratio", False),
    "gopher_too_many_ellipsis": ("ellipsis_word_ratio", False),
    "gopher_too_many_bullets": ("bullet_lines_ratio", False),
    "gopher_too_many_end_ellipsis": ("ellipsis_lines_ratio", False),
    "gopher_below_alpha_threshold": ("alpha_words_ratio", True),
    "gopher_enough_stop_words": ("stop_words", True),
    "lorem_ipsum": ("lorem_ipsum", False),
    "curly_bracket": ("curly_bracket", False),
    "too_few_sentences": ("sentences", True),
    "< 3 paragraphs": ("paragraphs", True),
    "line_punct_ratio": ("line_punct_ratio", True),
    "short_line_ratio": ("short_line_ratio", False),
    "char_dup_ratio": ("char_duplicates_ratio", False),
    "list_ratio": ("new_line_ratio", False),
}
Verdict = tuple[tuple[str, bool] | None, str]
STUBS = ("loguru", "humanize")
EVERY = 9
CUT = ((0, 2), (2, 5), (5, 7), (7, 10), (10, 12))
OTHER_CUT = ((0, 3), (3, 5), (5, 8), (8, 10), (10, 12))
ODD = ["", " \n ", "x", "...\n\n\n…", "a [1] b.\r\n{ is it.\x1c"]


class Peer:
    """datatrove's filters, with the words and sentences that they are given."""

    def __init__(self) -> None:
        self.words: dict[str, list[str]] = {}
        self._filters: dict[str, Any] = {}
        package = "datatrove.pipeline.filters"
        for rule, (module, name) in MODULES.items():
            loaded = importlib.import_module(f"{package}.{module}")
            if hasattr(loaded, "split_into_words"):
                loaded.split_into_words = lambda text, language: self.words[text]
            if hasattr(loaded, "split_into_sentences"):
                loaded.split_into_sentences = lambda line, language: [0] * sentences_reference(line)
            self._filters[rule] = getattr(loaded, name)()
        self._document = importlib.import_module("datatrove.data").Document

    def judge(self, rule: str, text: str) -> Verdict:
        """Our name of what it drops the text for, and the text as it leaves it."""
        document = self._document(text=text, id="")
        result = self._filters[rule].filter(document)
        if result is True:
            return None, document.text
        reason = result[1]
        if rule == "repetition":
            measure = "blocks" if reason == "empty" else reason.replace("duplicated", "dup")
            measure = measure.replace("_n_grams", "_grams")
            return (measure, reason == "empty"), text
        return (("lines", True) if reason == "empty" else REASONS[reason]), text


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    wheel = fetch_package(*WHEEL)
    before = set(sys.modules)
    sys.path.insert(0, str(wheel))
    # Only what it says and prints is made with these.
    for name in STUBS:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = MagicMock()
    try:
        yield Peer()
    finally:
        sys.path.remove(str(wheel))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("datatrove", *STUBS):
                del sys.modules[name]


def read_texts(path: Path) -> list[str]:
    with open(path, "rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file).read()
    return [json.loads(line)["text"] for line in data.splitlines()]


def words_in(batch: Batch, kind: Words) -> list[list[str]]:
    table, data = words_of(batch, kind), batch.buffer.tobytes()
    found = [
        data[start : start + size].decode()
        for start, size in zip(table.starts.tolist(), table.num_bytes.tolist(), strict=True)
    ]
    return [found[a:b] for a, b in zip(table.offsets[:-1], table.offsets[1:], strict=True)]


def our_verdicts(rule: Rule, batch: Batch) -> list[Verdict]:
    def named(reject: Reject | None) -> tuple[str, bool] | None:
        return None if reject is None else (reject.check.measure, reject.check.is_minimum)

    found = rule.apply(batch)
    return [
        (named(reject), found.texts[row].decode() if row in found.texts else document.text)
        for row, (reject, document) in enumerate(zip(found.rejects, batch.documents, strict=True))
    ]


def disagreements(
    peer: Peer, name: str, texts: list[str], kind: Words, change: Callable[[Rule], None]
) -> list[tuple[str, Verdict, Verdict]]:
    (rule,) = choose((name,), {}, Conventions(words=kind)).build()
    change(rule)
    found = []
    for batch in batches(batch_of(texts).documents):
        words = words_in(batch, kind)
        peer.words = {d.text: w for d, w in zip(batch.documents, words, strict=True)}
        ours = our_verdicts(rule, batch)
        for document, verdict in zip(batch.documents, ours, strict=True):
            theirs = peer.judge(name, document.text)
            if theirs != verdict:
                found.append((document.text[:200], theirs, verdict))
    return found


def unchanged(rule: Rule) -> None:
    pass


def corpus(shared_data: Path, every: int) -> list[str]:
    names = ("prose.jsonl.zst", "code.jsonl.zst")
    found = [text for name in names for text in read_texts(shared_data / "corpora" / name)]
    return found[::every]


@pytest.mark.parametrize("kind", ["fast", "unicode"])
@pytest.mark.parametrize("name", MODULES)
def test_every_verdict_is_datatroves(peer: Peer, shared_data: Path, name: str, kind: Words) -> None:
    texts = [*corpus(shared_data, EVERY), *ODD]
    if name == "gopher-quality":
        # Of a text without words it divides by their number, after it was found too short.
        texts = [text for text in texts if text.split()]
    assert disagreements(peer, name, texts, kind, unchanged) == []


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["fast", "unicode"])
@pytest.mark.parametrize("name", MODULES)
def test_every_verdict_is_datatroves_on_all_documents(
    peer: Peer, shared_data: Path, name: str, kind: Words
) -> None:
    assert disagreements(peer, name, corpus(shared_data, 1), kind, unchanged) == []


def loosen(rule: Rule) -> None:
    """Thresholds a twentieth off, in the checks or where the kernel has them."""
    if hasattr(rule, "_limits"):
        rule._limits = {k: v * 1.05 if k != "blocks" else v for k, v in rule._limits.items()}
    if hasattr(rule, "_length"):
        rule._length -= 10
    if hasattr(rule, "_settings") and rule.name == "c4":
        object.__setattr__(rule._settings, "min_words_per_line", 4)
    rule.checks = tuple(
        replace(check, threshold=float(check.threshold) * (0.95 if check.is_minimum else 1.05))
        for check in rule.checks
    )


@pytest.mark.parametrize("name", MODULES)
def test_the_comparison_rejects_thresholds_that_are_a_twentieth_off(
    peer: Peer, shared_data: Path, name: str
) -> None:
    assert disagreements(peer, name, corpus(shared_data, EVERY), "fast", loosen)


def test_the_comparison_rejects_n_grams_compared_word_by_word(peer: Peer) -> None:
    # The same letters twice, cut into other words.
    cut = [
        " ".join("".join(chr(0x4100 + 12 * row + i) for i in range(*span)) for span in spans)
        for row in range(4)
        for spans in (CUT, OTHER_CUT)
    ]
    text = " ".join(cut)
    peer.words = {text: text.split()}
    settings = choose(("repetition",), {}, Conventions(dialect="dolma"))
    (rule,) = settings.build()
    assert peer.judge("repetition", text)[0] == ("dup_5_grams", False)
    assert our_verdicts(rule, batch_of([text]))[0][0] is None
