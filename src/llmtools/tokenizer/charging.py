"""Charging the budget of a rendering for what Jinja does not let a sandbox intercept.

Filters and tests are wrapped; loops, ~, comparisons, literals, slices and literal text are sent
through filters of our own, put into the template's syntax tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from llmtools.tokenizer.budget import ITEM_CHARS, current
from llmtools.tokenizer.value_sizes import FILTER_SIZES, MAX_FILTER_INTEGER

# Filters and tests that look at all that a value holds, not at its surface.
DEEP_FILTERS = frozenset(
    "dictsort e escape forceescape groupby join max min sort string tojson unique urlencode".split()
)
# Those among them that go through values of which nothing says how many there are.
GATHERING = frozenset(["groupby", "join", "max", "min", "sort", "unique"])
DEEP_TESTS = frozenset("!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lt ne".split())


@pass_context
def counted(_: Context, values: Any) -> Any:
    """What a loop runs over, each round charged."""
    budget = current()
    if hasattr(values, "__len__"):
        budget.spend(len(values))
        return values
    if not hasattr(values, "__next__"):
        return values

    def charged() -> Iterator[Any]:
        for value in values:
            budget.spend()
            budget.make(ITEM_CHARS)
            yield value

    return charged()


@pass_context
def _made(_: Context, value: Any) -> Any:
    return current().made(value)


@pass_context
def _compared(_: Context, value: Any) -> Any:
    """What is compared or hashed: cheap for text, not for lists in lists."""
    budget = current()
    budget.spend()
    if isinstance(value, list | tuple | dict | set):
        budget.weigh(value)
    elif isinstance(value, str):
        budget.make(len(value) >> 4)
    return value


@pass_context
def _searched(_: Context, value: Any) -> Any:
    """The right side of `in`; a dictionary is not searched through."""
    return value if isinstance(value, dict) else _compared(_, value)


@pass_context
def _concatenated(_: Context, values: Sequence[Any]) -> str:
    """The operator ~."""
    budget = current()
    budget.make(sum(map(budget.weigh, values)))
    return "".join(map(str, values))


@pass_context
def written(_: Context, value: Any) -> Any:
    """Text on its way out."""
    budget = current()
    budget.make(len(value) if isinstance(value, str) else budget.weigh(value))
    return value


class Charging(NodeTransformer):
    """Routes what the environment cannot intercept through the filters above."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _through("counted", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> Any:
        self.generic_visit(node)
        return _through("concatenated", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _through("compared", node.expr)
        for operand in node.ops:
            name = "searched" if operand.op in ("in", "notin") else "compared"
            operand.expr = _through(name, operand.expr)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        # Literal text is written like any other, or a loop could write it unseen.
        node.nodes = [
            nodes.Const(one.data, lineno=one.lineno) if isinstance(one, nodes.TemplateData) else one
            for one in node.nodes
        ]
        return node

    def _display(self, node: Any) -> Any:
        self.generic_visit(node)
        return _through("made", node)

    visit_List = visit_Dict = _display

    def visit_Tuple(self, node: nodes.Tuple) -> Any:
        self.generic_visit(node)
        return node if node.ctx != "load" else _through("compared", node)

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        node.key = _through("compared", node.key)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> Any:
        self.generic_visit(node)
        return _through("made", node) if isinstance(node.arg, nodes.Slice) else node


def _through(name: str, node: Any) -> Any:
    if isinstance(node, nodes.Const):
        return node
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def charged_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose input is weighed before, and whose output after."""
    kind = getattr(function, "jinja_pass_arg", None)
    own = kind.name if kind is not None else ""

    @pass_context
    @wraps(function, updated=())
    def charged(context: Context, value: Any, /, *args: Any, **named: Any) -> Any:
        budget = current()
        budget.spend()
        if hasattr(value, "__next__"):
            value = counted(context, value)
            if name in GATHERING:
                value = list(value)
        if name not in ("default", "d"):
            for given in (*args, *named.values()):
                if isinstance(given, int) and abs(given) > MAX_FILTER_INTEGER:
                    raise SecurityError(f"the argument {given} of {name} grows too large")
        if name == "sum" and not all(
            isinstance(s, int | float) for s in (*args[1:], named.get("start", 0))
        ):
            raise SecurityError("sum adds numbers only")
        if name in FILTER_SIZES:
            budget.make(FILTER_SIZES[name](value, *args, **named))
        elif name in DEEP_FILTERS:
            budget.make(budget.weigh(value))
        elif isinstance(value, str):
            budget.make(len(value))
        first = {
            "context": (context,),
            "eval_context": (context.eval_ctx,),
            "environment": (context.environment,),
        }.get(own, ())
        return budget.made(function(*first, value, *args, **named))

    return charged


def charged_test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A test (`x is equalto y`) whose operands are weighed."""

    @pass_context
    @wraps(function, updated=())
    def charged(context: Context, /, *args: Any) -> Any:
        for value in args if name in DEEP_TESTS else ():
            _compared(context, value)
        own = getattr(function, "jinja_pass_arg", None)
        return function(*([] if own is None else [context.environment]), *args)

    return charged


OWN_FILTERS = {
    "compared": _compared,
    "concatenated": _concatenated,
    "counted": counted,
    "made": _made,
    "searched": _searched,
}
