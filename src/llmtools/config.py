"""Settings as TOML: what a run was started with, written and read back.

And where a command's settings come from besides its flags, the nearest first: LLMTOOLS_X in the
environment, a file named by --config or else ./llmtools.toml, and the user's own
$XDG_CONFIG_HOME/llmtools/config.toml. A file has a table for each command: [dedup],
[tokenizer.train].
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from llmtools.errors import InputError, UsageError, did_you_mean

PREFIX = "LLMTOOLS_"
PROJECT_FILE = "llmtools.toml"

Scalar: TypeAlias = str | int | float | bool
Sections: TypeAlias = dict[str, dict[str, Scalar]]


def format_toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """TOML text of named tables of scalars, keys in the order given; None leaves a key out."""
    parts = []
    for name, values in sections.items():
        given = {key: value for key, value in values.items() if value is not None}
        lines = [f"{key} = {format_value(value)}" for key, value in given.items()]
        parts.append("\n".join([f"[{name}]", *lines]) + "\n")
    return "\n".join(parts)


def format_value(value: Any) -> str:
    """A scalar, or a list of scalars, as TOML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_value, value))}]"
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


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as it was found and where: 'environment LLMTOOLS_SEED' or 'FILE [table]'."""

    value: Any
    origin: str


def user_file() -> Path:
    """The user's own settings."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "llmtools" / "config.toml"


def settings_files(named: str | None) -> list[Path]:
    """The files that apply, the nearest first; UsageError for one that was named and is absent."""
    if named is not None and not Path(named).is_file():
        raise UsageError(f"--config {named}: no such file")
    project = Path(named or PROJECT_FILE)
    return [path for path in (project, user_file()) if path.is_file()]


def from_environment(keys: Collection[str]) -> dict[str, Setting]:
    """The settings among `keys` (as 'seq-len') that LLMTOOLS_X variables give."""
    named = {key: PREFIX + key.upper().replace("-", "_") for key in keys}
    return {
        key: Setting(os.environ[name], f"environment {name}")
        for key, name in named.items()
        if os.environ.get(name)
    }


def from_file(
    path: Path, table: str, keys: Collection[str], tables: Collection[str], mistakes: list[str]
) -> dict[str, Setting]:
    """The settings of one command's table in one file; what is wrong is added to `mistakes`.

    table: 'dedup' or 'tokenizer.train'. tables: those of all commands. keys: the command's own;
    underscores in a file stand for dashes.
    """
    try:
        found: Any = tomllib.loads(path.read_bytes().decode())
    except OSError as fault:
        mistakes.append(f"{path}: {fault.strerror or fault}")
        return {}
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as fault:
        mistakes.append(f"{path}: not TOML: {fault}")
        return {}
    mistakes += _unknown_tables(found, str(path), tables)
    for name in table.split("."):
        found = found.get(name, {}) if isinstance(found, dict) else {}
    settings = {}
    for key, value in found.items() if isinstance(found, dict) else ():
        if f"{table}.{key}" in tables:
            continue
        name = key.replace("_", "-")
        if name in keys:
            settings[name] = Setting(value, f"{path} [{table}]")
        else:
            mistakes.append(f"{path} [{table}]: no setting {key!r}{did_you_mean(name, keys)}")
    return settings


def _unknown_tables(found: Mapping[str, Any], path: str, tables: Collection[str]) -> list[str]:
    nouns = {name.partition(".")[0] for name in tables}
    mistakes = []
    for name, value in found.items():
        if name not in nouns:
            mistakes.append(f"{path}: no command {name!r}{did_you_mean(name, nouns)}")
        elif not isinstance(value, dict):
            mistakes.append(f"{path}: {name} is {value!r}, not a table of settings")
    return mistakes


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
