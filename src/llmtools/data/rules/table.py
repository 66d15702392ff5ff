"""All rules by name, and the list of them that one run of `llm filter` applies.

A new rule is a line in `KINDS`: its thresholds (a dataclass in settings.py, whose fields become
flags) and where its class is, which is called with (name, settings, conventions).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from llmtools.data.rules.score_settings import PerplexitySettings, WhereSettings
from llmtools.data.rules.settings import (
    C4ParagraphSettings,
    C4Settings,
    ClassifierSettings,
    Conventions,
    FineWebSettings,
    GopherQualitySettings,
    LanguageSettings,
    LengthSettings,
    RepetitionSettings,
    SymbolSettings,
    make,
)
from llmtools.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from llmtools.data.rules.rule import Rule

DEFAULT_RULES = ("length", "repetition", "symbols")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A rule's thresholds and its class, as module:name below llmtools.data.rules.

    switch: the field that, when given, adds the rule behind those of --rules. is_alone: where no
    --rules are given, it then stands in place of the default ones.
    """

    settings: type
    rule: str
    switch: str | None = None
    is_alone: bool = False


KINDS: dict[str, Kind] = {
    "length": Kind(settings=LengthSettings, rule="length:LengthRule"),
    "repetition": Kind(settings=RepetitionSettings, rule="gopher_repetition:RepetitionRule"),
    "symbols": Kind(settings=SymbolSettings, rule="symbols:SymbolRule"),
    "language": Kind(settings=LanguageSettings, rule="labels:LanguageRule", switch="languages"),
    "classifier": Kind(
        settings=ClassifierSettings, rule="labels:ClassifierRule", switch="classifier"
    ),
    "perplexity": Kind(
        settings=PerplexitySettings, rule="perplexity:PerplexityRule", switch="perplexity"
    ),
    "where": Kind(settings=WhereSettings, rule="where:WhereRule", switch="where", is_alone=True),
    "gopher-quality": Kind(settings=GopherQualitySettings, rule="gopher_quality:GopherQualityRule"),
    "c4": Kind(settings=C4Settings, rule="c4:C4Rule"),
    "c4-paragraphs": Kind(settings=C4ParagraphSettings, rule="fineweb:C4ParagraphRule"),
    "fineweb": Kind(settings=FineWebSettings, rule="fineweb:FineWebRule"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSettings:
    """The rules of a run in their order, each with its settings."""

    rules: Mapping[str, Any]
    conventions: Conventions = field(default_factory=Conventions)

    def build(self) -> list[Rule]:
        """The rules, ready to be applied; raises InputError for files that they cannot read."""
        built = []
        for name, settings in self.rules.items():
            module, _, rule = KINDS[name].rule.partition(":")
            loaded = importlib.import_module(f"llmtools.data.rules.{module}")
            built.append(getattr(loaded, rule)(name, settings, self.conventions))
        return built


def choose(
    names: tuple[str, ...] | None = None,
    given: Mapping[str, Any] | None = None,
    conventions: Conventions | None = None,
) -> FilterSettings:
    """The rules `names` with the thresholds `given` by field; all mistakes in one UsageError."""
    switched = [name for name, kind in KINDS.items() if kind.switch in (given or {})]
    if names is None:
        names = () if any(KINDS[name].is_alone for name in switched) else DEFAULT_RULES
    names += tuple(name for name in switched if name not in names)
    faults = [
        f"no rule {name!r}{did_you_mean(name, KINDS)} (rules: {', '.join(KINDS)})"
        for name in names
        if name not in KINDS
    ]
    if not names:
        faults.append(f"no rules given (rules: {', '.join(KINDS)})")
    faults += [f"rule {name!r} is named twice" for name in sorted(_twice(names))]
    rules = {}
    for name in names:
        if name in KINDS:
            rules[name], wrong = make(KINDS[name].settings, given or {})
            faults += [fault for fault in wrong if fault not in faults]
    if faults:
        raise UsageError("; ".join(faults))
    return FilterSettings(rules=rules, conventions=conventions or Conventions())


def unused(settings: FilterSettings, given: Mapping[str, Any]) -> list[str]:
    """Thresholds that were given although no rule of the run has them."""
    used = {item.name for one in settings.rules.values() for item in fields(one)}
    return [name for name in given if name not in used]


def _twice(names: tuple[str, ...]) -> set[str]:
    return {name for name in names if names.count(name) > 1}


def as_record(settings: FilterSettings, built: list[Rule]) -> dict[str, Any]:
    """What the manifest says of a run's rules."""
    rules = {rule.name: rule.record for rule in built}
    return {**asdict(settings.conventions), "rules": rules}
