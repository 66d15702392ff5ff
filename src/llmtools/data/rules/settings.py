"""The thresholds of every rule, their defaults and what the help says of them.

Each rule has one dataclass; `llm filter` makes a flag of each field. A field that several rules
have (min_doc_words) is one flag, and must mean the same in all of them. Nothing here imports more
than the standard library, because `llm filter --help` reads it.
"""

# The defaults are immutable: `flag` only wraps dataclasses.field.
# ruff: noqa: RUF009

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from llmtools.errors import UsageError

NGramLimits = tuple[tuple[int, float], ...]
Dialect = Literal["datatrove", "dolma", "dclm"]
Words = Literal["fast", "unicode"]
# Kernels know a dialect by its place here.
DIALECTS: tuple[Dialect, ...] = ("datatrove", "dolma", "dclm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conventions:
    """What all rules share. dialect: whose definitions. words: cut at white space, or UAX #29."""

    dialect: Dialect = "datatrove"
    words: Words = "fast"


def flag(default: Any, text: str, *, at_least: float | None = 0, is_file: bool = False) -> Any:
    """A field that becomes a flag of `llm filter`.

    at_least: the smallest value of a number. is_file: its value is the path of a file that decides
    the output, so that a resumed run compares the file's digest.
    """
    return field(default=default, metadata={"help": text, "min": at_least, "is_file": is_file})


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSettings:
    """Words that hold a letter or a digit."""

    min_doc_words: int = flag(50, "words at least.")
    max_doc_words: int = flag(100_000, "words at most.")

    def faults(self) -> list[str]:
        """What is wrong with the values together."""
        if self.min_doc_words <= self.max_doc_words:
            return []
        return [f"min_doc_words {self.min_doc_words} is above max_doc_words {self.max_doc_words}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepetitionSettings:
    """Gopher's table A1; n-gram limits are (n, fraction)."""

    dup_para_frac: float = flag(0.3, "share of repeated paragraphs.")
    dup_para_char_frac: float = flag(0.2, "their share of characters.")
    dup_line_frac: float = flag(0.3, "share of repeated lines.")
    dup_line_char_frac: float = flag(0.2, "their share of characters.")
    top_n_grams: NGramLimits = flag(
        ((2, 0.2), (3, 0.18), (4, 0.16)), "share of the most frequent n-gram, N:FRACTION,..."
    )
    dup_n_grams: NGramLimits = flag(
        ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1)),
        "share of repeated n-grams, N:FRACTION,...",
    )

    def faults(self) -> list[str]:
        """What is wrong with the n-gram limits."""
        limits = [("top", *pair) for pair in self.top_n_grams]
        limits += [("dup", *pair) for pair in self.dup_n_grams]
        found = [
            f"{label}_n_grams {n}:{limit}: n is a number of words from 2 to 100"
            for label, n, limit in limits
            if not 2 <= n <= 100
        ]
        return found + [
            f"{label}_n_grams {n}:{limit}: a fraction is a number from 0"
            for label, n, limit in limits
            if not limit >= 0
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolSettings:
    """Signs per word."""

    max_symbol_word_ratio: float = flag(0.1, "'#' per word, and ellipses per word.")

    def faults(self) -> list[str]:
        """Nothing beyond each value's own range."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSettings:
    """What language a fastText model, as lid.176.ftz, sees in a document."""

    languages: str | None = flag(None, "keep these, as en,de (any: all the model knows).")
    language_threshold: str = flag(
        "0.65", "least score, of all or of each, as 0.65 or en:0.65,de:0.5."
    )
    lid_model: str | None = flag(None, "the fastText model, .ftz or .bin.", is_file=True)
    lid_chars: int = flag(0, "judge by the first N characters (0: all).")

    def faults(self) -> list[str]:
        """What is wrong with the values together."""
        if self.lid_model is None:
            return [
                "rule language needs a fastText model: give one with --lid-model FILE"
                " (docs/data.md, Languages, says where to get one)"
            ]
        try:
            language_thresholds(self)
        except UsageError as fault:
            return [str(fault)]
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSettings:
    """What a fastText classifier, as `llm scorer train --kind classifier` makes them, says."""

    classifier: str | None = flag(None, "a fastText model, .bin or .ftz.", is_file=True)
    keep_label: str | None = flag(None, "keep what it scores so high, as hq:0.018,LABEL:SCORE.")

    def faults(self) -> list[str]:
        """What is wrong with the values together."""
        if self.classifier is None:
            return ["rule classifier needs a fastText model: give one with --classifier FILE"]
        if self.keep_label is None:
            return ["rule classifier needs the label to keep: --keep-label LABEL:SCORE"]
        try:
            thresholds_of("--keep-label", self.keep_label)
        except UsageError as fault:
            return [str(fault)]
        return []


def thresholds_of(option: str, given: str) -> dict[str, float]:
    """'en:0.65,de:0.5' as a mapping; raises UsageError for anything else."""
    found: dict[str, float] = {}
    for item in given.split(","):
        label, colon, score = item.strip().rpartition(":")
        try:
            found[label] = float(score)
        except ValueError:
            colon = ""
        if not colon or not label or not 0 <= found[label] <= 1:
            raise UsageError(f"{option} {given!r}: write LABEL:SCORE,... with scores from 0 to 1")
    return found


def language_thresholds(settings: LanguageSettings) -> tuple[dict[str, float], float]:
    """The least score of each wanted language, and that of any where none is named.

    Raises UsageError for malformed values.
    """
    text = settings.language_threshold
    names = [name.strip() for name in (settings.languages or "").split(",") if name.strip()]
    if ":" in text:
        each = thresholds_of("--language-threshold", text)
        names = names or list(each)
        without = [name for name in names if name not in each]
        without += [name for name in each if name not in names]
        if without:
            raise UsageError(
                f"--languages {settings.languages} and --language-threshold {text} do not name the"
                f" same languages: {', '.join(without)}"
            )
        return each, 0.0
    try:
        least = float(text)
    except ValueError:
        least = -1.0
    if not 0 <= least <= 1:
        raise UsageError(
            f"--language-threshold {text!r}: a score from 0 to 1, or LANGUAGE:SCORE,..."
        )
    return dict.fromkeys(names, least), least


@dataclass(frozen=True, slots=True, kw_only=True)
class GopherQualitySettings:
    """Gopher's rules on words and lines."""

    min_doc_words: int = flag(50, "words at least.")
    max_doc_words: int = flag(100_000, "words at most.")
    min_avg_word_length: float = flag(3.0, "average length of a word at least.")
    max_avg_word_length: float = flag(10.0, "average length of a word at most.")
    max_symbol_word_ratio: float = flag(0.1, "'#' per word, and ellipses per word.")
    max_bullet_lines_ratio: float = flag(0.9, "share of lines that open with a bullet.")
    max_ellipsis_lines_ratio: float = flag(0.3, "share of lines that end with an ellipsis.")
    min_alpha_words_ratio: float = flag(0.8, "share of words with a letter at least.")
    min_stop_words: int = flag(2, "the, be, to, of, and, that, have, with: so many at least.")

    def faults(self) -> list[str]:
        """What is wrong with the values together."""
        return [
            f"min_{what} {low} is above max_{what} {high}"
            for what, low, high in (
                ("doc_words", self.min_doc_words, self.max_doc_words),
                ("avg_word_length", self.min_avg_word_length, self.max_avg_word_length),
            )
            if low > high
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class C4Settings:
    """Lines that C4 removes, and documents that it drops."""

    min_num_sentences: int = flag(5, "sentences left at least.")
    min_words_per_line: int = flag(3, "remove lines of fewer words.")
    max_word_length: int = flag(1000, "remove lines with a longer word.")
    remove_citations: bool = flag(True, "remove [1], [edit] and [citation needed].")
    terminal_punct: bool = flag(True, "remove lines without a closing mark.")
    lorem_ipsum: bool = flag(True, "drop documents with 'lorem ipsum'.")
    javascript: bool = flag(True, "remove lines with 'javascript'.")
    curly_bracket: bool = flag(True, "drop documents with '{'.")
    policy: bool = flag(True, "remove lines on cookies, privacy and terms of use.")

    def faults(self) -> list[str]:
        """Nothing beyond each value's own range."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class C4ParagraphSettings:
    """mC4: lines that are long enough to be paragraphs."""

    min_paragraphs: int = flag(3, "lines of that length at least.")
    min_paragraph_length: int = flag(200, "characters of a line that counts.")

    def faults(self) -> list[str]:
        """Nothing beyond each value's own range."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class FineWebSettings:
    """FineWeb's own rules."""

    line_punct_thr: float = flag(0.12, "share of lines that end in a closing mark at least.")
    line_punct_exclude_zero: bool = flag(False, "let a text pass where no line does.")
    short_line_thr: float = flag(0.67, "share of short lines at most.")
    short_line_length: int = flag(30, "characters of a short line at most.")
    char_duplicates_ratio: float = flag(0.01, "share of characters in repeated lines at most.")
    new_line_ratio: float = flag(0.3, "line feeds per word at most.")

    def faults(self) -> list[str]:
        """Nothing beyond each value's own range."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinedWebSettings:
    """Lines that are no text, and how much of a document they may be."""

    max_uppercase_ratio: float = flag(0.5, "remove lines of which more is upper case.")
    max_numeric_ratio: float = flag(0.999999, "remove lines of which more is digits.")
    min_line_words: int = flag(2, "remove lines of fewer words.")
    max_removed_words_ratio: float = flag(0.05, "share of words removed at most.")

    def faults(self) -> list[str]:
        """Nothing beyond each value's own range."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class URLSettings:
    """Block lists, files of one entry a line."""

    url_key: str = flag("url", "the field, of metadata or the record, that holds the address.")
    url_domains: str | None = flag(None, "file of blocked domains.", is_file=True)
    url_list: str | None = flag(None, "file of blocked addresses.", is_file=True)
    url_words: str | None = flag(None, "file of words that block an address.", is_file=True)
    url_soft_words: str | None = flag(None, "file of words of which several do.", is_file=True)
    soft_word_threshold: int = flag(2, "that many soft words block.", at_least=1)
    url_subwords: str | None = flag(None, "file of strings that do anywhere.", is_file=True)

    def faults(self) -> list[str]:
        """Whether there is a list at all."""
        lists = (self.url_domains, self.url_list, self.url_words)
        if any((*lists, self.url_soft_words, self.url_subwords)):
            return []
        return ["rule url needs a block list: --url-domains, --url-list, --url-words FILE ..."]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadWordsSettings:
    """A list of words, one a line."""

    badwords: str | None = flag(None, "file of words that drop a document.", is_file=True)
    badwords_inside: bool = flag(False, "also within words (ja, th, zh).")

    def faults(self) -> list[str]:
        """Whether there is a list."""
        return [] if self.badwords else ["rule badwords needs a list: --badwords FILE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressSettings:
    """Which hosts are addresses."""

    tlds: str | None = flag(None, "file of the top-level domains (IANA's list).", is_file=True)

    def faults(self) -> list[str]:
        """Whether there is a list."""
        return [] if self.tlds else ["rule addresses needs a list: --tlds FILE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewlineSettings:
    """Runs of line feeds."""

    max_newlines: int = flag(2, "line feeds in a row at most.")

    def faults(self) -> list[str]:
        """Nothing beyond each value's own range."""
        return []


def limits(option: str, given: str) -> NGramLimits:
    """'2:0.2,3:0.18' as ((2, 0.2), (3, 0.18)); an empty string switches the checks off."""
    try:
        pairs = [item.split(":") for item in given.split(",") if item]
        return tuple((int(n), float(limit)) for n, limit in pairs)
    except ValueError as fault:
        raise UsageError(
            f"{option} {given!r}: write N:FRACTION,N:FRACTION, as 2:0.2,3:0.18"
        ) from fault


def make(kind: type, values: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Settings of one rule with some fields set, and all that is wrong with them."""
    names = {item.name: item for item in fields(kind)}
    settings = kind(**{name: value for name, value in values.items() if name in names})
    faults = []
    for name, item in names.items():
        value, least = getattr(settings, name), item.metadata["min"]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and (math.isnan(value) or (least is not None and value < least)):
            faults.append(f"{name} must be a number from {least}, not {value}")
    return settings, faults or settings.faults()
