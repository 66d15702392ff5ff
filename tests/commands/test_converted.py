"""Simple values of parameters are those that typer's own conversion makes, for every command."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import typer

from llmtools import cli
from llmtools.commands.parsing import converted
from support import run_llm

NUMBERS = (
    "1",
    "007",
    "-3",
    "20",
    "999999999999999",
    "0.25",
    "-0.5",
    "3.0",
    "1e3",
    "1_0",
    " 1",
    "+1",
)
WORDS = [(name, verb) for name, row in cli.COMMANDS.items() for verb in list(row.verbs) or [None]]


@pytest.mark.parametrize(("name", "verb"), WORDS)
def test_simple_values_are_converted_as_typer_does(name: str, verb: str | None) -> None:
    module = importlib.import_module(f"llmtools.commands.{cli.COMMANDS[name].module}")
    command = typer.main.get_command(module.app if verb is None else module.apps[verb])
    context = command.context_class(command, info_name=name)
    num_converted = 0
    for param in command.get_params(context):
        for value in (param.default, "fast", *NUMBERS, ["a"], ("a", "b"), []):
            found = converted(param, value)
            if found is not None:
                num_converted += 1
                theirs = param.process_value(context, value)
                assert found[0] == theirs
                assert type(found[0]) is type(theirs)
    assert num_converted > 5


def test_a_command_line_of_simple_values_loads_no_pydantic(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "one"}\n{"text": "one"}\n')
    done = run_llm(
        "dedup", source, "--method", "exact", "-o", "-", env={"PYTHONPROFILEIMPORTTIME": "1"}
    )
    assert done.stdout.count(b"\n") == 1
    assert b"| typer" in done.stderr.replace(b"  ", b"")
    assert b"pydantic" not in done.stderr
