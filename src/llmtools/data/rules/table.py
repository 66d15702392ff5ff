"""All rules by name, and the list of them that one run of `llm filter` applies.

A new rule is a line in `KINDS`: its thresholds (a dataclass in settings.py, whose fields become
flags) and where its class is, which is called with (name, settings, conventions).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from llmtools.data.rules.recipes import Recipe, Step
from llmtools.data.rules.score_settings import PerplexitySettings, WhereSettings
from llmtools.data.rules.settings import (
    AddressSettings,
    BadWordsSettings,
    C4ParagraphSettings,
    C4Settings,
    ClassifierSettings,
    Conventions,
    FineWebSettings,
    GopherQualitySettings,
    LanguageSettings,
    LengthSettings,
    NewlineSettings,
    RefinedWebSettings,
    RepetitionSettings,
    SymbolSettings,
    URLSettings,
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
    "refinedweb": Kind(settings=RefinedWebSettings, rule="refinedweb:RefinedWebRule"),
    "addresses": Kind(settings=AddressSettings, rule="addresses:AddressRule"),
    "newlines": Kind(settings=NewlineSettings, rule="addresses:NewlineRule"),
    "url": Kind(settings=URLSettings, rule="url:URLRule"),
    "badwords": Kind(settings=BadWordsSettings, rule="badwords:BadWordsRule"),
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
    preset: Mapping[str, Mapping[str, Any]] | None = None,
) -> FilterSettings:
    """The rules `names` with the thresholds `given` by field; all mistakes in one UsageError.

    preset: thresholds of single rules that stand where none are given.
    """
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
            rules[name], wrong = make(
                KINDS[name].settings, {**(preset or {}).get(name, {}), **(given or {})}
            )
            faults += [fault for fault in wrong if fault not in faults]
    if faults:
        raise UsageError("; ".join(faults))
    return FilterSettings(rules=rules, conventions=conventions or Conventions())


def follow(
    recipe: Recipe, given: Mapping[str, Any], conventions: Conventions
) -> tuple[FilterSettings, list[Step]]:
    """The rules of a recipe, and the steps left out because the file they read is not given.

    Raises UsageError where nothing is left.
    """
    steps = [one for one in recipe.steps if not one.needs or any(n in given for n in one.needs)]
    missing = [one for one in recipe.steps if one not in steps]
    if not steps:
        wanted = "; ".join(f"{one.rule} needs {flags_of(one)}" for one in missing)
        raise UsageError(f"nothing is left of the recipe: {wanted}")
    names = tuple(one.rule for one in steps)
    preset = {one.rule: one.thresholds for one in steps}
    return choose(names, given, conventions, preset), missing


def flags_of(step: Step) -> str:
    """The flags that a step waits for, as 'one or another FILE'."""
    return " or ".join(f"--{name.replace('_', '-')}" for name in step.needs) + " FILE"


def unused(settings: FilterSettings, given: Mapping[str, Any]) -> list[str]:
    """Thresholds that were given although no rule of the run has them."""
    used = {item.name for one in settings.rules.values() for item in fields(one)}
    return [name for name in given if name not in used]


def describe(settings: FilterSettings) -> list[str]:
    """The rules in force, one a line with what it is set to."""
    shared = settings.conventions
    lines = [f"dialect {shared.dialect}, words {shared.words}"]
    for name, one in settings.rules.items():
        values = {item.name: getattr(one, item.name) for item in fields(one)}
        shown = [f"{key}={_shown(value)}" for key, value in values.items() if value is not None]
        lines.append(f"{name}: {' '.join(shown)}")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{n}:{limit}" for n, limit in value)
    return str(value)


def _twice(names: tuple[str, ...]) -> set[str]:
    return {name for name in names if names.count(name) > 1}


def as_record(settings: FilterSettings, built: list[Rule]) -> dict[str, Any]:
    """What the manifest says of a run's rules."""
    rules = {rule.name: rule.record for rule in built}
    return {**asdict(settings.conventions), "rules": rules}
