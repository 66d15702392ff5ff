"""Rule `gopher-quality`: Gopher's other table (Rae et al. 2021, section A1.1), in three dialects.

                    datatrove 0.10.1         dolma 1.2.1 (gopher_v1)    DCLM
    words 50..100k  not only punctuation     all                        with a letter or digit first
    length 3..10    mean of the same         median of all              mean of all
    symbols .1      '#', then ellipses,      words that hold '#' or     '#' and ellipses together,
                    per word                 '…', of all words          per word
    bullets .9, ellipses .3: see counters.py
    alphabetic .8   words that hold a letter, of all
    stop words 2    distinct                 counted                    counted, case ignored
    order           as here                  bullets, ellipses last     as here

dolma and DCLM cut words at white space here, whatever --words says.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.rules.counters import counters
from llmtools.data.rules.rule import Check, Rule, Values, Verdicts, verdicts
from llmtools.data.rules.settings import Conventions, GopherQualitySettings
from llmtools.data.rules.stop_words import stop_words
from llmtools.data.rules.words import OPENS_ALNUM, words_of

# Measure, setting, whether that is a minimum: in the order they are tried.
_SIGNS = {
    "datatrove": (("hash_word_ratio",), ("ellipsis_word_ratio",)),
    "dolma": (("symbol_word_ratio",),),
    "dclm": (("symbol_word_ratio",),),
}


class GopherQualityRule(Rule):
    """Drops what does not look like running text."""

    def __init__(
        self, name: str, settings: GopherQualitySettings, conventions: Conventions
    ) -> None:
        self.name = name
        self.record = asdict(settings)
        self._min_stop_words = settings.min_stop_words
        self._conventions = conventions
        if conventions.dialect != "datatrove":
            self._conventions = replace(conventions, words="fast")
        length = "median_word_length" if conventions.dialect == "dolma" else "avg_word_length"
        head = [
            ("doc_words", "min_doc_words"),
            ("doc_words", "max_doc_words"),
            (length, "min_avg_word_length"),
            (length, "max_avg_word_length"),
            *((measure, "max_symbol_word_ratio") for (measure,) in _SIGNS[conventions.dialect]),
        ]
        lines = [
            ("bullet_lines_ratio", "max_bullet_lines_ratio"),
            ("ellipsis_lines_ratio", "max_ellipsis_lines_ratio"),
        ]
        tail = [("alpha_words_ratio", "min_alpha_words_ratio"), ("stop_words", "min_stop_words")]
        is_last = conventions.dialect == "dolma"
        order = [*head, *tail, *lines] if is_last else [*head, *lines, *tail]
        self.checks = tuple(
            Check(
                rule=name,
                measure=measure,
                threshold=getattr(settings, setting),
                is_minimum=setting.startswith("min"),
            )
            for measure, setting in order
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        # How many there are beyond what is enough matters to annotate alone.
        values = self._measure(batch, 0 if annotate else self._min_stop_words)
        columns = [values[check.measure] for check in self.checks]
        return verdicts(np.stack(columns, axis=1), self.checks, annotate=annotate)

    def _measure(self, batch: Batch, enough_stop_words: int) -> dict[str, Values]:
        """Every measure of every document, (D,) each; stop words are counted until enough."""
        found = {
            name: column.astype(np.float64)
            for name, column in counters(batch, self._conventions).items()
        }
        words = found["words"]
        dialect = self._conventions.dialect
        values = {
            "doc_words": words,
            "median_word_length": found["twice_median_length"] / 2,
            "avg_word_length": _share(found["word_chars"], words),
            "hash_word_ratio": _share(found["hashes"], words),
            "ellipsis_word_ratio": _share(found["ellipses"], words),
            "bullet_lines_ratio": _share(found["bullet_lines"], found["lines"]),
            "ellipsis_lines_ratio": _share(found["ellipsis_lines"], found["lines"]),
            "alpha_words_ratio": _share(found["alpha_words"], words),
            "stop_words": stop_words(batch, self._conventions, enough_stop_words).astype(float),
        }
        if dialect == "datatrove":
            values["doc_words"] = found["solid_words"]
            values["avg_word_length"] = _share(found["solid_chars"], found["solid_words"])
        elif dialect == "dolma":
            values["symbol_word_ratio"] = _share(found["symbol_words"], words)
        else:
            values["doc_words"] = _opening_alnum(batch)
            values["symbol_word_ratio"] = _share(found["hashes"] + found["ellipses"], words)
        return values


def _share(count: Values, total: Values) -> Values:
    """count / total; 0 where there is nothing to divide by."""
    return count / np.maximum(total, 1)


def _opening_alnum(batch: Batch) -> Values:
    """Words between white space that start with a letter or a digit, (D,)."""
    words = words_of(batch, "fast")
    total = np.zeros(words.kinds.size + 1, np.int64)
    np.cumsum(words.kinds & OPENS_ALNUM != 0, out=total[1:])
    counted: npt.NDArray[np.int64] = np.diff(total[words.offsets])
    return counted.astype(np.float64)
