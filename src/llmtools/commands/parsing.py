"""A command's parser: flags, then environment, then settings files, and every mistake at once.

typer >= 0.29 carries its own copy of click, reached here through public names alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

from llmtools import cli, config, terminal
from llmtools.config import Setting
from llmtools.errors import UsageError, did_you_mean

ClickException: type[Exception] = typer.BadParameter.__mro__[2]

# They say what to do with this one run, so a settings file must not switch them on unseen.
COMMAND_LINE_ONLY = frozenset({"help", "force", "config", "show-config", "dry-run"})
_PLAIN_INT = re.compile("-?[0-9]{1,15}")
_PLAIN_FLOAT = re.compile(r"-?[0-9]{1,15}\.[0-9]{1,15}")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class SettingsCommand(TyperCommand):
    """Parses like typer, but collects the mistakes of flags, environment and files."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Fill ctx.params; raises UsageError that lists all mistakes. See click's own."""
        named = ((option_name(p), p) for p in self.get_params(ctx))
        options: dict[str, Any] = {name: p for name, p in named if name is not None}
        mistakes: list[str] = []
        given, rest, order = self._flags(ctx, list(args), options, mistakes)
        # --help is answered whatever else is wrong.
        if given.get("help"):
            options["help"].handle_parse_result(ctx, given, rest)
        has_unknown = bool(mistakes)
        table = ctx.command_path.partition(" ")[2].replace(" ", ".")
        settings = self._settings(given.get("config"), table, options, mistakes)
        origins = {
            name: "flag" if p.name in given else settings[name].origin if name in settings else None
            for name, p in options.items()
        }
        opts = dict(given)
        refused: set[str] = set()
        for name, setting in settings.items():
            if options[name].name not in given:
                try:
                    opts[options[name].name] = as_given(options[name], setting.value)
                except ValueError as fault:
                    refused.add(options[name].name)
                    mistakes.append(f"{setting.origin}: {name} is {setting.value!r}, not {fault}")
        shows = bool(opts.get("show_config"))
        for param in _in_order(order, self.get_params(ctx)):
            if option_name(param) == "help":
                continue
            value = opts.get(param.name)
            simple = converted(param, param.default if value is None else value)
            if simple is not None:
                ctx.params[param.name] = simple[0]
                continue
            try:
                _, rest = param.handle_parse_result(ctx, opts, rest)
            except ClickException as fault:
                is_missing = opts.get(param.name) is None
                is_known = param.name in refused or (has_unknown and not option_name(param))
                if is_missing and (shows or is_known):
                    continue
                mistakes.append(_worded(fault, origins.get(option_name(param) or "")))
        if rest and not has_unknown:
            mistakes.append(f"unexpected argument {' '.join(map(repr, rest))}")
        if mistakes:
            raise UsageError(report(mistakes, ctx.command_path))
        if shows:
            terminal.emit_text(shown(table, options, ctx.params, origins))
            ctx.exit()
        ctx.args = []
        return []

    def _flags(
        self, ctx: Any, args: list[str], options: Mapping[str, Any], mistakes: list[str]
    ) -> tuple[dict[str, Any], list[str], list[Any]]:
        """What the command line gives; unknown options and missing values become mistakes."""
        while True:
            parser = self.make_parser(ctx)
            try:
                given, rest, order = parser.parse_args(args=list(args))
                return dict(given), rest, order
            except ClickException as fault:
                name = str(getattr(fault, "option_name", ""))
                at = next((i for i, a in enumerate(args) if _is_option(a, name)), None)
                if at is None:
                    mistakes.append(_message(fault))
                    return {}, [], []
                if hasattr(fault, "possibilities"):
                    near = did_you_mean(name, [f"--{known}" for known in options])
                    mistakes.append(f"no option {name!r}{near}")
                else:
                    mistakes.append(_message(fault))
                del args[at]

    def _settings(
        self, named: str | None, table: str, options: Mapping[str, Any], mistakes: list[str]
    ) -> dict[str, Setting]:
        """Settings by option name, the nearest source of each."""
        keys = options.keys() - {"help", "config"}
        environment = config.from_environment(options.keys() - {"help"})
        named = named or (environment["config"].value if "config" in environment else None)
        layers = [environment]
        try:
            for path in config.settings_files(named):
                layers.append(config.from_file(path, table, keys, table_names(), mistakes))
        except UsageError as fault:
            mistakes.append(str(fault))
        found: dict[str, Setting] = {}
        for layer in reversed(layers):
            found |= layer
        found.pop("config", None)
        for name in sorted(found.keys() & COMMAND_LINE_ONLY):
            mistakes.append(f"{found.pop(name).origin}: --{name} works on the command line alone")
        return found


def table_names() -> list[str]:
    """The tables a settings file may have."""
    return [
        ".".join(words)
        for name, row in cli.COMMANDS.items()
        for words in ([[name, verb] for verb in row.verbs] or [[name]])
    ]


def option_name(param: Any) -> str | None:
    """The long name of an option without its dashes, None for an argument."""
    names = [o for o in param.opts if o.startswith("--")]
    return names[0].removeprefix("--") if names else None


def converted(param: Any, value: Any) -> tuple[Any] | None:
    """What typer's conversion makes of a simple value, in a tuple; None leaves it to typer.

    For each conversion typer builds a pydantic schema, and loads pydantic for the first: 60 to 100
    ms of CPU for a command with many flags, of which a command line gives few.
    """
    if param.is_eager or param.callback is not None or (value is None and param.required):
        return None
    wanted = param.type_descriptor.annotation
    if param.multiple or param.nargs != 1:
        if value is None:
            return ((),)
        is_list = wanted == list[str] and type(value) in (list, tuple) and bool(value)
        return (list(value),) if is_list and all(type(one) is str for one in value) else None
    if wanted in (int, float) and isinstance(value, str):
        return _number(param.type_descriptor.parameter_info, wanted, value)
    # A number here is a default, which is within its bounds.
    is_simple = wanted in (bool, int, float, str) and type(value) is wanted
    is_choice = get_origin(wanted) is Literal and value in get_args(wanted)
    return (value,) if is_simple or is_choice or value is None else None


def _number(info: Any, wanted: type[int] | type[float], text: str) -> tuple[Any] | None:
    """A plainly written number within its bounds."""
    if _PLAIN_INT.fullmatch(text) is None and (wanted is int or not _PLAIN_FLOAT.fullmatch(text)):
        return None
    number = wanted(text)
    is_within = (info.min is None or number >= info.min) and (
        info.max is None or number <= info.max
    )
    return (number,) if is_within else None


def as_given(param: Any, value: Any) -> Any:
    """A setting's value in the form in which a flag would give it to `param`.

    raises: ValueError whose text says what was expected.
    """
    if param.is_flag:
        if isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
            return value.lower() in _TRUE
        if isinstance(value, bool):
            return value
        raise ValueError("true or false")
    if param.multiple:
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool | dict | list) for one in values):
            raise ValueError("a string or a list of strings")
        return [str(one) for one in values]
    if isinstance(value, bool | dict | list):
        raise ValueError("a number or a string")
    return str(value)


def report(mistakes: list[str], program: str) -> str:
    """One message for all mistakes."""
    see = f"({program} --help shows the options)"
    if len(mistakes) == 1:
        return f"{mistakes[0]} {see}"
    return "\n".join([f"{len(mistakes)} mistakes {see}:", *(f"  - {m}" for m in mistakes)])


def shown(
    table: str,
    options: Mapping[str, Any],
    values: Mapping[str, Any],
    origins: Mapping[str, str | None],
) -> str:
    """The settings in force as a table that --config reads back, each with its origin."""
    lines = [f"[{table}]"]
    for name, param in options.items():
        if name in COMMAND_LINE_ONLY:
            continue
        origin = origins[name] or "default"
        value = _plain(values.get(param.name))
        if value is None or value == []:
            lines.append(f"# {name} is not set")
        else:
            lines.append(f"{name} = {config.format_value(value)}  # {origin}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, PurePath) else getattr(value, "value", value)


def _is_option(argument: str, name: str) -> bool:
    if argument.partition("=")[0] == name:
        return True
    is_cluster = argument.startswith("-") and not argument.startswith("--")
    return is_cluster and len(name) == 2 and name[1] in argument[1:]


def _in_order(order: list[Any], params: list[Any]) -> Iterator[Any]:
    """Eager parameters first, then those given, then the rest."""
    given = [p for n, p in enumerate(order) if p not in order[:n]]
    every = [*given, *(p for p in params if p not in given)]
    return iter(sorted(every, key=lambda p: not p.is_eager))


def _worded(fault: Exception, origin: str | None) -> str:
    text = _message(fault)
    return text if origin in (None, "flag") else f"{origin}: {text}"


def _message(fault: Exception) -> str:
    text = str(fault.format_message()).replace(": Value error, ", ": ")  # type: ignore[attr-defined]
    return (text[:1].lower() + text[1:]).rstrip(".")
