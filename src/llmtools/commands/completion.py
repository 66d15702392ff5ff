"""`llm completion`: a script for the shell, made from the parsers themselves.

The script holds every command, verb, option and choice, so that pressing TAB starts no Python.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer

from llmtools import cli, terminal
from llmtools.commands.common import command, make_app
from llmtools.commands.completion_scripts import Option, bash_script, fish_script, zsh_script

app = make_app()


@command(
    app,
    "completion",
    examples=[
        "llm completion bash > ~/.local/share/bash-completion/completions/llm",
        "llm completion fish > ~/.config/fish/completions/llm.fish",
    ],
)
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="The shell.")],
) -> None:
    """Print a completion script: commands, options, their choices, and file names.

    For zsh, save it as _llm in a directory of $fpath.
    """
    write = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}[shell]
    terminal.emit_text(write(list(parsers())))


def parsers() -> Iterator[tuple[tuple[str, ...], str, list[Option]]]:
    """Each command or verb: its words, its summary and its options."""
    for name, row in cli.COMMANDS.items():
        module = importlib.import_module(f"llmtools.commands.{row.module}")
        for verb, summary in row.verbs.items():
            yield (name, verb), summary, [*_options(typer.main.get_command(module.apps[verb]))]
        if not row.verbs:
            yield (name,), row.summary, [*_options(typer.main.get_command(module.app))]


def _options(parser: Any) -> Iterator[Option]:
    context = parser.context_class(parser, info_name="llm", resilient_parsing=True)
    for param in parser.get_params(context):
        flags = (*param.opts, *param.secondary_opts)
        if not flags[0].startswith("-"):
            continue
        text = str(param.help or "").partition("  [default")[0].strip().rstrip(".")
        yield Option(
            flags=("-h", "--help") if "--help" in flags else flags,
            help=text,
            takes_value=not param.is_flag,
            choices=_choices(param),
        )


def _choices(param: Any) -> tuple[str, ...]:
    """The values an option allows; typer shows them as <a|b> in the help."""
    shown = param.display_type(None) if not param.is_flag else ""
    return tuple(shown.strip("<>[]").split("|")) if "|" in shown else ()
