"""The expressions of `llm filter --where`: a question to one record, parsed and answered here.

    or       := and ("or" and)*              and := not ("and" not)*
    not      := "not" not | compare
    compare  := value (("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in") value)?
    value    := number | "string" | true | false | null | [value, ...] | ( or )
              | len(value) | has(field) | field
    field    := name ("." name | ["any name"] | [number])*

Strings are in single or double quotes, with a backslash before a quote or a backslash. Numbers are
compared with numbers and strings with strings; values of two kinds are never equal. `in` looks for
a value in a list, or for a string in a string. A field that is absent or null has no answer, which
ends the whole expression (Unanswered), except in has(field) and behind an `and` or `or` that is
decided already; and so do other kinds than an operator takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmtools.errors import UsageError
from llmtools.formats.malformed import kind_of

MAX_LENGTH = 10_000
MAX_DEPTH = 50

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<name>[^\W\d]\w*)
    |(?P<sign>==|!=|<=|>=|[<>()\[\],.])
    |(?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = frozenset(("and", "or", "not", "in", "true", "false", "null", "len", "has"))
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}

Fields = Mapping[str, Any]
Ask = Callable[[Fields], Any]


class Unanswered(Exception):
    """A record that an expression cannot be answered for.

    field: which of its fields is to blame. found: what it holds; None where it is absent or null.
    """

    def __init__(self, field: str, found: str | None = None) -> None:
        super().__init__(field)
        self.field, self.found = field, found


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A parsed expression; `fields` are those it names, in order, without those in has()."""

    text: str
    fields: tuple[str, ...]
    ask: Ask

    def holds(self, record: Fields) -> bool:
        """The answer for one record; raises Unanswered."""
        return _truth(self.ask(record), self.text)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def parse_expression(text: str) -> Expression:
    """Raises UsageError that shows where the expression is wrong."""
    if len(text) > MAX_LENGTH:
        raise UsageError(f"--where: {len(text):,} characters; the limit is {MAX_LENGTH:,}")
    parser = _Parser(text)
    ask = parser.either()
    parser.expect_end()
    return Expression(text=text, fields=tuple(dict.fromkeys(parser.fields)), ask=ask)


class _Parser:
    """Recursive descent, one token ahead; each method gives a function of a record."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._depth = 0
        self.fields: list[str] = []
        self._next = self._token(0)

    def fault(self, reason: str, at: int) -> UsageError:
        shown = self._text.replace("\n", " ").replace("\t", " ")
        return UsageError(f"--where: {reason}\n  {shown}\n  {' ' * at}^")

    def _token(self, start: int) -> _Token:
        found = _TOKEN.match(self._text, start)
        if found is None:
            at = start + len(self._text[start:]) - len(self._text[start:].lstrip())
            char = self._text[at]
            reason = f"{char!r} has no meaning here"
            if char in "\"'":
                reason = "this string has no end"
            elif char == "=":
                reason = "'=' has no meaning here; write == to compare"
            raise self.fault(reason, at)
        kind = found.lastgroup or "end"
        return _Token(kind, found[kind], found.start(kind))

    def _take(self) -> _Token:
        token = self._next
        if token.kind != "end":
            self._next = self._token(token.at + len(token.text))
        return token

    def _takes(self, *texts: str) -> _Token | None:
        is_plain = self._next.kind in ("name", "sign")
        return self._take() if is_plain and self._next.text in texts else None

    def _expect(self, text: str) -> None:
        if not self._takes(text):
            raise self.fault(f"{text!r} expected", self._next.at)

    def expect_end(self) -> None:
        if self._next.kind != "end":
            raise self.fault("'and', 'or' or the end expected", self._next.at)

    def either(self) -> Ask:
        parts = [self._all()]
        while self._takes("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else _joined(parts, True)

    def _all(self) -> Ask:
        parts = [self._not()]
        while self._takes("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else _joined(parts, False)

    def _not(self) -> Ask:
        count = 0
        while self._takes("not"):
            count += 1
        ask = self._compare()
        if not count:
            return ask
        return lambda record: _truth(ask(record), "not") is (count % 2 == 0)

    def _compare(self) -> Ask:
        left, start = self._value()
        sign = self._takes("==", "!=", "<", "<=", ">", ">=", "in", "not")
        if sign is None:
            return left
        name = sign.text
        if name == "not":
            self._expect("in")
            name = "not in"
        right, stop = self._value()
        again = self._takes("==", "!=", "<", "<=", ">", ">=", "in", "not")
        if again is not None:
            raise self.fault("one comparison at a time; join two with 'and'", again.at)
        return _comparison(name, left, right, start, stop)

    def _value(self) -> tuple[Ask, str]:
        """A value, and how it is called in messages."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self.fault(f"more than {MAX_DEPTH} levels of nesting", self._next.at)
        found = self._one_value()
        self._depth -= 1
        return found

    def _one_value(self) -> tuple[Ask, str]:
        token = self._take()
        if token.kind == "number":
            number = float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
            return lambda record: number, token.text
        if token.kind == "string":
            string = re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
            return lambda record: string, token.text
        if token.text in ("true", "false", "null"):
            constant = {"true": True, "false": False, "null": None}[token.text]
            return lambda record: constant, token.text
        if token.text == "[":
            return self._list(), "[...]"
        if token.text == "(":
            inner = self.either()
            self._expect(")")
            return inner, "(...)"
        if token.text == "len":
            self._expect("(")
            inner, called = self._value()
            self._expect(")")
            return lambda record: _length(inner(record), called), f"len({called})"
        if token.text == "has":
            self._expect("(")
            path = self._path(self._take())
            self._expect(")")
            return lambda record: _walk(record, path) is not None, f"has({_spell(path)})"
        path = self._path(token)
        called = _spell(path)
        self.fields.append(called)
        return lambda record: _field(record, path, called), called

    def _list(self) -> Ask:
        items: list[Ask] = []
        while not self._takes("]"):
            if items:
                self._expect(",")
            items.append(self._value()[0])
        return lambda record: [item(record) for item in items]

    def _path(self, token: _Token) -> tuple[str | int, ...]:
        if token.kind != "name" or token.text in _WORDS:
            found = repr(token.text) if token.text else "the end"
            raise self.fault(f"a field, a number or a string expected, not {found}", token.at)
        path: list[str | int] = [token.text]
        while (sign := self._takes(".", "[")) is not None:
            item = self._take()
            if sign.text == "." and item.kind == "name":
                path.append(item.text)
            elif sign.text == "[" and item.kind == "string":
                path.append(re.sub(r"\\(.)", r"\1", item.text[1:-1], flags=re.DOTALL))
                self._expect("]")
            elif sign.text == "[" and item.kind == "number" and item.text.isdigit():
                path.append(int(item.text))
                self._expect("]")
            else:
                raise self.fault('a name, ["a name"] or [number] expected', item.at)
        return tuple(path)


def _spell(path: tuple[str | int, ...]) -> str:
    """A path as it would be written."""
    plain = re.compile(r"[^\W\d]\w*")
    parts = [f".{p}" if isinstance(p, str) and plain.fullmatch(p) else f"[{p!r}]" for p in path[1:]]
    return f"{path[0]}{''.join(parts)}"


def _walk(record: Fields, path: tuple[str | int, ...]) -> Any:
    """What a path leads to; None where it leads nowhere."""
    value: Any = record
    for part in path:
        if isinstance(part, str):
            value = value.get(part) if isinstance(value, dict) else None
        else:
            value = value[part] if isinstance(value, list) and part < len(value) else None
    return value


def _field(record: Fields, path: tuple[str | int, ...], called: str) -> Any:
    value = _walk(record, path)
    if value is None:
        raise Unanswered(called)
    return value


def _joined(parts: list[Ask], decides: bool) -> Ask:
    """`or` where True decides, `and` where False does."""
    name = "or" if decides else "and"

    def ask(record: Fields) -> bool:
        for part in parts:
            if _truth(part(record), name) is decides:
                return decides
        return not decides

    return ask


def _comparison(name: str, left: Ask, right: Ask, start: str, stop: str) -> Ask:
    if name in ("==", "!="):
        return lambda record: _same(left(record), right(record)) is (name == "==")
    if name in ("in", "not in"):
        return lambda record: _within(left(record), right(record), stop) is (name == "in")
    order = _ORDERS[name]

    def ask(record: Fields) -> bool:
        a, b = left(record), right(record)
        kinds = {kind_of(a), kind_of(b)}
        if len(kinds) > 1 or not kinds <= {"a number", "a string"}:
            # The side that is a field is to blame, as far as can be told.
            called, value = (stop, b) if kind_of(a) == "a number" else (start, a)
            raise Unanswered(called, kind_of(value))
        return order(a, b)

    return ask


def _same(a: Any, b: Any) -> bool:
    return kind_of(a) == kind_of(b) and bool(a == b)


def _within(value: Any, whole: Any, called: str) -> bool:
    if isinstance(whole, list):
        return any(_same(value, item) for item in whole)
    if isinstance(whole, str) and isinstance(value, str):
        return value in whole
    raise Unanswered(called, kind_of(whole))


def _length(value: Any, called: str) -> int:
    if not isinstance(value, str | list):
        raise Unanswered(called, kind_of(value))
    return len(value)


def _truth(value: Any, called: str) -> bool:
    if not isinstance(value, bool):
        raise Unanswered(called, kind_of(value))
    return value
