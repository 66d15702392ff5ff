"""Recipes by name: which rules in which order, whose definitions, and where thresholds differ.

    fineweb  Penedo et al. 2024, datatrove's examples/fineweb.py
    gopher   Rae et al. 2021, as datatrove has it
    c4       Raffel et al. 2020, as datatrove has it
    dolma    Soldaini et al. 2024, configs/dolma-v1_6/mixing/cc-head.yaml after c4-replication
    dclm     Li et al. 2024, baselines_configs/dclm_baseline_refinedweb.yaml, then the classifier
    ccnet    Wenzek et al. 2020: language, then perplexity

Deduplication, extraction and the removal of personal data are other commands. A step that reads a
file (block list, model) is part of a recipe only where that file is given; without it the recipe
says so and goes on with the other steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmtools.data.rules.settings import Conventions


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rule of a recipe. needs: thresholds of which at least one must be given."""

    rule: str
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A list of steps, and what all of them share."""

    steps: tuple[Step, ...]
    conventions: Conventions = field(default_factory=Conventions)


_URL = Step(
    rule="url",
    needs=("url_domains", "url_list", "url_words", "url_soft_words", "url_subwords"),
)


def _language(threshold: str, languages: str | None = "en") -> Step:
    thresholds = {"languages": languages, "language_threshold": threshold}
    return Step(rule="language", needs=("lid_model",), thresholds=thresholds)


RECIPES: dict[str, Recipe] = {
    "fineweb": Recipe(
        conventions=Conventions(dialect="datatrove", words="unicode"),
        steps=(
            _URL,
            _language("0.65"),
            Step(rule="repetition"),
            Step(rule="gopher-quality"),
            Step(rule="c4", thresholds={"terminal_punct": False}),
            Step(rule="fineweb"),
        ),
    ),
    "gopher": Recipe(
        conventions=Conventions(dialect="datatrove", words="unicode"),
        steps=(Step(rule="gopher-quality"), Step(rule="repetition")),
    ),
    "c4": Recipe(
        conventions=Conventions(dialect="datatrove", words="unicode"),
        steps=(
            Step(rule="c4"),
            Step(rule="badwords", needs=("badwords",)),
            _language("0.99"),
        ),
    ),
    "dolma": Recipe(
        conventions=Conventions(dialect="dolma", words="fast"),
        steps=(
            _language("0.5"),
            Step(rule="c4"),
            Step(rule="badwords", needs=("badwords",)),
            Step(rule="gopher-quality"),
            Step(rule="repetition", thresholds={"dup_line_char_frac": 0.3}),
        ),
    ),
    "dclm": Recipe(
        conventions=Conventions(dialect="dclm", words="unicode"),
        steps=(
            _URL,
            Step(rule="addresses", needs=("tlds",)),
            Step(rule="newlines"),
            _language("0.65"),
            Step(rule="gopher-quality"),
            Step(rule="repetition"),
            Step(rule="refinedweb"),
            Step(
                rule="classifier",
                needs=("classifier",),
                thresholds={"keep_label": "hq:0.018112"},
            ),
        ),
    ),
    "ccnet": Recipe(
        steps=(
            _language("0.5", None),
            Step(
                rule="perplexity",
                thresholds={"perplexity_bucket": "head,middle"},
                needs=("perplexity",),
            ),
        ),
    ),
}
