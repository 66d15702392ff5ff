"""Rules `language` and `classifier`: what a fastText model given by path says of a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmtools.data.batch import Batch
from llmtools.data.fasttext import FastText
from llmtools.data.rules.rule import Check, Reject, Rule, Verdicts
from llmtools.data.rules.settings import (
    ClassifierSettings,
    Conventions,
    LanguageSettings,
    language_thresholds,
    thresholds_of,
)
from llmtools.errors import UsageError, did_you_mean
from llmtools.formats.manifest import digest_file


class LabelRule(Rule):
    """Keeps a document to which the model gives one of some labels with a score high enough.

    wanted: label -> least score; without any, the best label must have `least`. option: the flag
    that names the labels, for messages. measure: what the label is called, and `measure`_score.
    """

    def __init__(
        self,
        name: str,
        model: Path,
        wanted: Mapping[str, float],
        *,
        least: float = 0.0,
        max_chars: int = 0,
        option: str,
        measure: str,
    ) -> None:
        self.name = name
        self._model = FastText.load(model)
        self._max_chars = max_chars
        self._measure = measure
        labels = self._model.labels
        unknown = [label for label in wanted if label not in labels]
        if unknown:
            raise UsageError(
                f"{option} {unknown[0]}: {model} has no such label"
                f"{did_you_mean(unknown[0], labels)} ({len(labels)} labels, as"
                f" {', '.join(labels[:5])})"
            )
        self._columns = [labels.index(label) for label in wanted]
        self._least = np.array(list(wanted.values()), np.float32)
        self._any_least = least
        # A document that has another label, and one that has the label but too low a score.
        self._other = Check(rule=name, measure=measure, threshold=",".join(wanted))
        self._low = {
            column: Check(
                rule=name, measure=f"{measure}_score", threshold=threshold, is_minimum=True
            )
            for column, threshold in zip(self._columns, wanted.values(), strict=True)
        }
        self._any_low = Check(
            rule=name, measure=f"{measure}_score", threshold=least, is_minimum=True
        )
        self.checks = (self._other, *self._low.values()) if wanted else (self._any_low,)

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        scores = self._model.scores(batch.buffer, batch.offsets, self._max_chars)
        best = scores.argmax(axis=1)
        best_scores = scores[np.arange(len(best)), best]
        if self._columns:
            passes = (scores[:, self._columns] >= self._least).any(axis=1)
        else:
            passes = best_scores >= self._any_least
        rejects: list[Reject | None] = [None] * len(best)
        for row in np.flatnonzero(~passes).tolist():
            rejects[row] = self._reject(int(best[row]), float(best_scores[row]))
        metadata: list[dict[str, Any]] = []
        if annotate:
            metadata = [
                {self._measure: self._label(label, score), f"{self._measure}_score": score}
                for label, score in zip(best.tolist(), best_scores.tolist(), strict=True)
            ]
        return Verdicts(rejects=rejects, metadata=metadata)

    def _label(self, label: int, score: float) -> str | None:
        """A label's name; None where a text holds nothing that the model knows."""
        return self._model.labels[label] if score > 0 else None

    def _reject(self, label: int, score: float) -> Reject:
        if not self._columns:
            return Reject(check=self._any_low, value=score)
        if label in self._low:
            return Reject(check=self._low[label], value=score)
        return Reject(check=self._other, value=self._label(label, score) or "")


class LanguageRule(LabelRule):
    """Keeps documents in some languages."""

    def __init__(self, name: str, settings: LanguageSettings, conventions: Conventions) -> None:
        assert settings.lid_model is not None
        wanted, least = language_thresholds(settings)
        model = Path(settings.lid_model)
        super().__init__(
            name,
            model,
            wanted,
            least=least,
            max_chars=settings.lid_chars,
            option="--languages",
            measure="language",
        )
        self.record = asdict(settings) | {"lid_model": model_record(model)}


class ClassifierRule(LabelRule):
    """Keeps documents to which a classifier gives a label."""

    def __init__(self, name: str, settings: ClassifierSettings, conventions: Conventions) -> None:
        assert settings.classifier is not None and settings.keep_label is not None
        model = Path(settings.classifier)
        super().__init__(
            name,
            model,
            thresholds_of("--keep-label", settings.keep_label),
            option="--keep-label",
            measure="classifier",
        )
        self.record = asdict(settings) | {"classifier": model_record(model)}


def model_record(path: Path) -> dict[str, str]:
    """A model file as a manifest names it."""
    return {"path": str(path), "digest": digest_file(path)[1]}
