"""Rule `badwords`: C4's list of words, from a file of one word or phrase a line.

As datatrove 0.10.1: a listed word counts in any case, between characters that are no letters,
digits or '_'; with `badwords_inside` also within words, for scripts without spaces (ja, th, zh).
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmtools.data.batch import Batch
from llmtools.data.rules.lists import list_lines
from llmtools.data.rules.rule import Check, Reject, Rule, Verdicts
from llmtools.data.rules.settings import BadWordsSettings, Conventions
from llmtools.errors import InputError
from llmtools.formats.manifest import digest_file


class BadWordsRule(Rule):
    """Drops a document that holds a listed word."""

    def __init__(self, name: str, settings: BadWordsSettings, conventions: Conventions) -> None:
        self.name = name
        path = str(settings.badwords)
        self.record = asdict(settings) | {"badwords": digest_file(_file(path))[1]}
        words = [re.escape(word) for word in _words(path)]
        every = "|".join(words)
        self._pattern = re.compile(
            every if settings.badwords_inside else rf"(?<!\w)(?:{every})(?!\w)"
        )
        self.checks = (Check(rule=name, measure="bad_words", threshold=0),)

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        rejects: list[Reject | None] = []
        measures: list[dict[str, Any]] = []
        for row in range(len(batch.documents)):
            text = str(batch.text(row), "utf-8").lower()
            if annotate:
                found = len(self._pattern.findall(text))
                measures.append({"bad_words": found})
            else:
                found = self._pattern.search(text) is not None
            rejects.append(Reject(check=self.checks[0], value=float(found)) if found else None)
        return Verdicts(rejects=rejects, measures=measures)


def _file(path: str) -> Path:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file (--badwords)")
    return Path(path)


def _words(path: str) -> list[str]:
    # Longer ones first, so that a phrase is counted before the word it opens with.
    words = sorted({line.lower() for line in list_lines(path)}, key=len, reverse=True)
    if not words:
        raise InputError(f"{path}: no words (--badwords)")
    return words
