"""The thresholds of all filter rules as flags, made from the dataclasses that hold them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Annotated, Any, TypeVar

import typer

from llmtools.data.rules.settings import limits
from llmtools.data.rules.table import KINDS

F = TypeVar("F", bound=Callable[..., None])


def rule_fields() -> dict[str, tuple[Field[Any], list[str]]]:
    """Every threshold by name, with the rules that have it."""
    found: dict[str, tuple[Field[Any], list[str]]] = {}
    for name, kind in KINDS.items():
        for item in fields(kind.settings):
            found.setdefault(item.name, (item, []))[1].append(name)
    return found


def with_rule_flags(function: F) -> F:
    """Give a command a flag for each threshold; its `thresholds` receives them by name.

    A flag that is not given is None, so that a recipe's value can stand.
    """
    own = inspect.signature(function, eval_str=True)
    kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(item, rules)
        )
        for name, (item, rules) in rule_fields().items()
    ]
    plain = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in kept]
    function.__signature__ = own.replace(parameters=plain + added)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in plain + added}
    return function


def given_values(thresholds: Mapping[str, Any]) -> dict[str, Any]:
    """The thresholds that were given, n-gram limits read; raises UsageError for malformed ones."""
    known = rule_fields()
    return {
        name: limits(_option(name), value) if _is_limits(known[name][0]) else value
        for name, value in thresholds.items()
        if value is not None
    }


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _is_limits(item: Field[Any]) -> bool:
    return isinstance(item.default, tuple)


def _annotation(item: Field[Any], rules: list[str]) -> Any:
    default: Any = item.default
    shown = ",".join(f"{n}:{limit}" for n, limit in default) if _is_limits(item) else default
    text = f"{', '.join(rules)}: {item.metadata['help']}"
    if shown is not None:
        text += f"  [default: {shown}]"
    kind = type(default) if isinstance(default, bool | int | float) else str
    if kind is bool:
        name = item.name.replace("_", "-")
        return Annotated[bool | None, typer.Option(f"--{name}/--no-{name}", help=text)]
    option = typer.Option(_option(item.name), help=text)
    if kind is not str and item.metadata["min"] is not None:
        option = typer.Option(_option(item.name), help=text, min=item.metadata["min"])
    return Annotated[kind | None, option]
