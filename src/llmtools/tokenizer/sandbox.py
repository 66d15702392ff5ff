"""Where chat templates run: Jinja without Python's internals, within limits of work and memory.

Templates come with downloaded models, so they are someone else's programs. Everything in them that
repeats or makes values is charged to the budget of the rendering under way: loop rounds, calls,
operators, filters, tests, slices, literals, and what is written out. What a single step may make is
estimated before it is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace

from llmtools.tokenizer.budget import ITEM_CHARS, current
from llmtools.tokenizer.charging import (
    OWN_FILTERS,
    Charging,
    charged_filter,
    charged_test,
    counted,
    written,
)
from llmtools.tokenizer.value_sizes import METHOD_SIZES, check_binop, check_width

# Filters that take unbounded time (regular expressions) or write memory addresses; no model's
# template uses one.
ABSENT_FILTERS = ("pprint", "striptags", "urlize", "wordcount", "wordwrap", "xmlattr")
# Methods that leave text for bytes, that a small table can make grow without bound, or that hash
# what was not weighed.
ABSENT_METHODS = frozenset(
    ["encode", "escape", "fromkeys", "maketrans", "striptags", "to_bytes", "translate", "unescape"]
)


class _Formatter(SandboxedFormatter):
    """str.format with bounded widths."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        for width in re.findall(r"\d+", format_spec):
            check_width(width)
        budget = current()
        budget.make(budget.weigh(value))
        return budget.made(super().format_field(value, format_spec))

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is not None:
            current().make(current().weigh(value))
        return super().convert_field(value, conversion)


class _Namespace(Namespace):
    """namespace() without Python's own attributes, as transformers has it.

    Its text is constant, because its values may hold itself.
    """

    def __init__(*args: Any, **named: Any) -> None:
        self, *rest = args
        for key in (values := dict(*rest, **named)):
            _check_name(key)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no attribute {name!r}")


class _Dict:
    """dict(), which is a class in Jinja's own environment."""

    def __call__(self, *args: Any, **named: Any) -> dict[Any, Any]:
        current().weigh(args)
        return dict(*args, **named)


class GenerationBlock(Extension):
    """{% generation %} ... {% endgeneration %}, where transformers finds the assistant's text.

    Writes the marks of the rendering's budget around it, where it has some.
    """

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as an instance variable)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, caller: Macro) -> str:
        text = str(caller())
        marks = current().marks
        return text if marks is None else marks[0] + text + marks[1]


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment; a rendering in it needs `budget.start` before.

    White space, extensions and names are those of transformers (utils/chat_template_utils.py).
    """

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        # Nothing is computed while compiling: no budget is running then.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationBlock, loopcontrols],
            optimized=False,
            finalize=written,
            cache_size=0,
        )
        for name in ABSENT_FILTERS:
            del self.filters[name]
        self.filters = {name: charged_filter(name, f) for name, f in self.filters.items()}
        tests: dict[str, Any] = self.tests
        self.tests = {name: charged_test(name, test) for name, test in tests.items()}
        self.filters |= OWN_FILTERS
        del self.globals["lipsum"]
        self.globals |= {"dict": _Dict(), "namespace": _Namespace}

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """A further filter, charged like Jinja's."""
        self.filters[name] = charged_filter(name, function)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        charging: nodes.Template = Charging().visit(tree)
        return charging

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in ABSENT_METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        pattern: str = value.__self__
        takes_mapping = value.__name__ == "format_map"

        def bounded(*args: Any, **named: Any) -> str:
            if takes_mapping:
                (named,), args = args, ()
            return str(_Formatter(self).vformat(pattern, args, named))

        return bounded

    def call(self, context: Context, obj: Any, /, *args: Any, **named: Any) -> Any:
        budget = current()
        budget.spend()
        budget.make(ITEM_CHARS * (len(args) + len(named)))
        args = tuple(counted(context, a) if hasattr(a, "__next__") else a for a in args)
        # A macro's arguments become a tuple, and hashing one goes through all that it holds.
        budget.weigh([a for a in args if isinstance(a, tuple)])
        if isinstance(obj, LoopContext):
            args = tuple(counted(context, a) for a in args)
        if isinstance(obj, MethodType | BuiltinMethodType) and isinstance(obj.__self__, str):
            size = METHOD_SIZES.get(obj.__name__)
            text = obj.__self__
            if obj.__name__ == "join":
                args = tuple(a if hasattr(a, "__len__") else list(a) for a in args)
            # Jinja itself adds names that begin with an underscore.
            own = {name: value for name, value in named.items() if name[0] != "_"}
            budget.make(len(text) if size is None else size(text, *args, **own))
        return budget.made(super().call(context, obj, *args, **named))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = current()
        budget.spend()
        budget.make(check_binop(operator, left, right))
        return super().call_binop(context, operator, left, right)
