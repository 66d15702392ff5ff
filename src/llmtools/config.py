"""Settings as TOML: what a run was started with, written and read back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from llmtools.errors import InputError

Scalar: TypeAlias = str | int | float | bool
Sections: TypeAlias = dict[str, dict[str, Scalar]]


def format_toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """TOML text of named tables of scalars, keys in the order given; None leaves a key out."""
    parts = []
    for name, values in sections.items():
        lines = [f"{key} = {_literal(value)}" for key, value in values.items() if value is not None]
        parts.append("\n".join([f"[{name}]", *lines]) + "\n")
    return "\n".join(parts)


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON's numbers and strings are TOML's; repr gives the shortest digits that round-trip.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def read_toml(path: Path) -> Sections:
    """The tables of a TOML file; raises InputError naming the file for anything else."""
    try:
        values = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror or fault}") from fault
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise InputError(f"{path}: not TOML: {fault}") from fault
    for name, table in values.items():
        if not isinstance(table, dict):
            raise InputError(f"{path}: {name!r} is not a table")
    return values


def differences(old: Sections, new: Sections, *, ignore: frozenset[str] = frozenset()) -> list[str]:
    """'train.seed was 1, now 2' for each setting that differs; `ignore` holds 'table.key' names."""

    def flat(sections: Sections) -> dict[str, Scalar]:
        return {
            f"{name}.{key}": value
            for name, table in sections.items()
            for key, value in table.items()
            if value is not None and f"{name}.{key}" not in ignore
        }

    before, after = flat(old), flat(new)
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key} was {before.get(key, 'not set')}, now {after.get(key, 'not set')}"
        for key in keys
        if before.get(key) != after.get(key)
    ]
