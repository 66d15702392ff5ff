"""Chat templates: conversations to text, in a sandbox, and which tokens a model learns from.

The environment is the one transformers renders templates in (its utils/chat_template_utils.py), so
that a template means the same here. Templates come with downloaded models, so they are bounded:
size of the template and of its output, steps of all its loops and calls, what `*` and `**` make.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn, TypeAlias

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmtools.errors import InputError

MAX_TEMPLATE_CHARS = 1 << 20
MAX_OUTPUT_CHARS = 1 << 24
MAX_STEPS = 1 << 20
MAX_INTEGER_BITS = 256

Message: TypeAlias = Mapping[str, Any]
Encode: TypeAlias = Callable[..., list[int]]

# For tokenizers without a template of their own.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class _GenerationBlock(Extension):
    """{% generation %} ... {% endgeneration %}, a mark of transformers that adds nothing."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as an instance variable)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Steps:
    """How many loop rounds and calls one rendering may still make."""

    def __init__(self) -> None:
        self.left = MAX_STEPS

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise SecurityError(f"more than {MAX_STEPS} loop rounds and calls")


_steps: ContextVar[_Steps] = ContextVar("steps of the rendering under way")


def _counted(values: Any) -> Any:
    """What a loop runs over, charged to the rendering's steps."""
    steps = _steps.get()
    if hasattr(values, "__len__"):
        steps.spend(len(values))
        return values

    def charged() -> Iterator[Any]:
        for value in values:
            steps.spend(1)
            yield value

    return charged()


class _Sandbox(ImmutableSandboxedEnvironment):
    """Also bounds loops and calls, and operators that make huge values out of small ones."""

    intercepted_binops = frozenset(["*", "**"])

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        return tree

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _steps.get().spend(1)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (right if operator == "**" else 1) + right.bit_length()
            if bits > MAX_INTEGER_BITS:
                raise SecurityError("a number grows too large")
        elif operator == "*" and not isinstance(left, float) and not isinstance(right, float):
            size, times = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(times, int) and times * len(size) > MAX_OUTPUT_CHARS:
                raise SecurityError("a repeated value grows too large")
        return super().call_binop(context, operator, left, right)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Not Jinja's own filter, which escapes HTML characters.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class ChatTemplate:
    """A compiled template.

    tokens: bos_token, eos_token, ... as the template may name them. raises: InputError naming
    `where` for a template that does not compile.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], where: str) -> None:
        self._tokens = dict(tokens)
        self._where = f"{where}: chat template"
        if len(source) > MAX_TEMPLATE_CHARS:
            raise InputError(
                f"{self._where}: {len(source)} characters (limit {MAX_TEMPLATE_CHARS})"
            )
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        environment.filters["counted"] = _counted
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._compiled = environment.from_string(source)
        except jinja2.TemplateSyntaxError as fault:
            raise InputError(f"{self._where}, line {fault.lineno}: {fault.message}") from fault
        except (RecursionError, MemoryError, ValueError, SyntaxError) as fault:
            raise InputError(f"{self._where}: does not compile: {fault}") from fault

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The text of a conversation; raises InputError when the template refuses it."""
        for number, message in enumerate(messages):
            if not isinstance(message.get("role"), str):
                raise InputError(f"message {number}: no role (system, user, assistant or tool)")
        pieces: list[str] = []
        num_chars = 0
        _steps.set(_Steps())
        try:
            for piece in self._compiled.generate(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._tokens,
            ):
                pieces.append(piece)
                num_chars += len(piece)
                if num_chars > MAX_OUTPUT_CHARS:
                    raise InputError(
                        f"{self._where}: its text passes {MAX_OUTPUT_CHARS} characters"
                    )
        except InputError:
            raise
        except Exception as fault:
            # A template is a program of someone else's: whatever it raises is its refusal.
            raise InputError(f"{self._where} refuses this conversation: {fault}") from fault
        return "".join(pieces)


def shield(
    messages: Sequence[Message], special_tokens: Iterable[str]
) -> tuple[list[Message], dict[str, str]]:
    """Messages whose special tokens, written out in content, are hidden behind single characters.

    Returns the messages and what each character stands for: private-use characters that occur
    nowhere in the conversation.
    """
    tokens = sorted(special_tokens, key=len, reverse=True)
    if not tokens:
        return list(messages), {}
    pattern = re.compile("|".join(map(re.escape, tokens)))
    strings = list(_strings(messages))
    found = sorted({match for text in strings for match in pattern.findall(text)})
    if not found:
        return list(messages), {}
    used = {char for text in strings for char in text if char >= "\U00100000"}
    free = (chr(code) for code in range(0x100000, 0x10FFFE) if chr(code) not in used)
    stand_ins = {token: next(free) for token in found}

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: stand_ins[match[0]], value)
        if isinstance(value, Mapping):
            return {hide(key): hide(item) for key, item in value.items()}
        return [hide(item) for item in value] if isinstance(value, list | tuple) else value

    return [hide(message) for message in messages], {v: k for k, v in stand_ins.items()}


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def encode_rendered(text: str, hidden: Mapping[str, str], encode: Encode) -> list[int]:
    """Ids of a rendered conversation; special tokens are parsed, hidden ones are plain text."""
    if not hidden:
        return encode(text, parse_special=True)
    ids: list[int] = []
    for part in re.split("([" + "".join(hidden) + "])", text):
        if part in hidden:
            ids += encode(hidden[part])
        elif part:
            ids += encode(part, parse_special=True)
    return ids


def supervised_spans(
    messages: Sequence[Message],
    template: ChatTemplate,
    special_tokens: Iterable[str],
    stops: Sequence[str],
    encode: Encode,
) -> tuple[list[int], list[int]]:
    """Ids of a conversation, and 1 where a token belongs to an assistant's turn, its end included.

    The turn of assistant message i is what the template adds after the prompt for it: the text of
    messages[:i + 1] less the text of messages[:i] with the generation prompt. White space that the
    template writes after the token that ends the turn is not part of it.

    The pieces between span edges are encoded one by one, because that is what generation sees: a
    prompt that was encoded alone, then new tokens. Where a special token stands at the edges, as in
    most templates, this equals encoding the whole text.

    raises: InputError when the template does not write conversations front to back (it rewrites
    earlier turns), so that no span of the text is the turn.
    """
    shielded, hidden = shield(messages, special_tokens)
    text = template.render(shielded, False)
    ids: list[int] = []
    mask: list[int] = []
    at = 0
    for number, message in enumerate(shielded):
        if message.get("role") != "assistant":
            continue
        before = template.render(shielded[:number], True)
        after = template.render(shielded[: number + 1], False)
        if not (text.startswith(after) and after.startswith(before) and at <= len(before)):
            raise InputError(
                f"message {number}: the chat template rewrites earlier turns, so the tokens of this"
                " answer cannot be told apart; use a chat template that keeps them"
            )
        end = len(before) + _turn_length(after[len(before) :], stops)
        for piece, is_answer in ((text[at : len(before)], 0), (text[len(before) : end], 1)):
            new = encode_rendered(piece, hidden, encode)
            ids += new
            mask += [is_answer] * len(new)
        at = end
    rest = encode_rendered(text[at:], hidden, encode)
    return ids + rest, mask + [0] * len(rest)


def _turn_length(turn: str, stops: Sequence[str]) -> int:
    """Characters of a turn up to the token that ends it, where only white space follows that."""
    ends = [turn.rfind(stop) + len(stop) for stop in stops if stop in turn]
    end = max(ends, default=len(turn))
    return end if not turn[end:].strip() else len(turn)
