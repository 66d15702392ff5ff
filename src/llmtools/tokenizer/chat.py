"""Chat templates: conversations to text.

The environment is the one transformers renders templates in (its utils/chat_template_utils.py), so
that a template means the same here; sandbox.py bounds what it may do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn, TypeAlias

import jinja2

from llmtools.errors import InputError
from llmtools.tokenizer import budget
from llmtools.tokenizer.sandbox import Sandbox
from llmtools.tokenizer.shield import free_characters, strings

MAX_TEMPLATE_CHARS = 1 << 17
MAX_OUTPUT_CHARS = 1 << 24

Message: TypeAlias = Mapping[str, Any]

# For tokenizers without a template of their own.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# The names that a message's reasoning goes by; the first is the one that templates read today.
REASONING = ("reasoning_content", "thinking", "reasoning")
# What a template is always given, which no variable may replace.
RESERVED = ("messages", "tools", "documents", "add_generation_prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatExtras:
    """What a conversation brings besides its messages.

    tools: functions as JSON schemas. documents: objects with title and text. variables: further
    names that the template may read, as enable_thinking.
    """

    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


NO_EXTRAS = ChatExtras()


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
        self._source = source
        self._tokens = dict(tokens)
        self._where = f"{where}: chat template"
        if len(source) > MAX_TEMPLATE_CHARS:
            raise InputError(
                f"{self._where}: {len(source)} characters (limit {MAX_TEMPLATE_CHARS})"
            )
        environment = Sandbox()
        environment.add_filter("tojson", _tojson)
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._compiled = environment.from_string(source)
        except jinja2.TemplateSyntaxError as fault:
            raise InputError(f"{self._where}, line {fault.lineno}: {fault.message}") from fault
        except (RecursionError, ValueError, SyntaxError) as fault:
            raise InputError(f"{self._where}: does not compile: {fault}") from fault

    @property
    def has_generation_blocks(self) -> bool:
        """Whether the template itself says what is the assistant's."""
        return _GENERATION.search(self._source) is not None

    def names(self, word: str) -> bool:
        """Whether a word is anywhere in the template: one without it cannot use what it names."""
        return word in self._source

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        *,
        extras: ChatExtras = NO_EXTRAS,
        continue_final_message: bool = False,
        marks: tuple[str, str] | None = None,
    ) -> str:
        """The text of a conversation.

        continue_final_message: the text ends where the content of the last message does, so that a
        model goes on with it. marks: written around {% generation %} blocks.
        raises: InputError for messages that are none, or when the template refuses them.
        """
        if add_generation_prompt and continue_final_message:
            raise InputError("a generation prompt begins a new message; it cannot continue one")
        said = [_message(message, number) for number, message in enumerate(messages)]
        names = _variables(extras) | {
            "tools": None if extras.tools is None else _objects(extras.tools, "tools"),
            "documents": None
            if extras.documents is None
            else _objects(extras.documents, "documents"),
        }
        if not continue_final_message:
            return self._run(said, add_generation_prompt, names, marks)
        tag, content = self._tag_final(said)
        text = self._run(said, False, names, marks)
        at = text.rfind(tag[0])
        if at < 0 or content.strip() not in text:
            raise InputError(
                f"{self._where} leaves out the final message, so it cannot be continued"
            )
        # Where the template trims content, its white space is not there to be continued.
        return text[:at] if text[at:].startswith(tag) else text[:at].rstrip()

    def _tag_final(self, said: list[dict[str, Any]]) -> tuple[str, str]:
        """Put a mark behind the last message's text; the mark and the text."""
        tag = next(free_characters(said)) + " "
        content = said[-1].get("content") if said else None
        if isinstance(content, str):
            said[-1]["content"] = content + tag
            return tag, content
        for part in reversed(content if isinstance(content, list) else []):
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                text = part["text"]
                part["text"] = text + tag
                return tag, text
        raise InputError("the final message has no text to continue")

    def _run(
        self,
        said: list[dict[str, Any]],
        add_generation_prompt: bool,
        names: Mapping[str, Any],
        marks: tuple[str, str] | None,
    ) -> str:
        pieces: list[str] = []
        num_chars = 0
        budget.start(budget.Budget(list(strings([said, *names.values()])), marks))
        try:
            for piece in self._compiled.generate(
                {**self._tokens, **names},
                messages=said,
                add_generation_prompt=add_generation_prompt,
            ):
                pieces.append(piece)
                num_chars += len(piece)
                if num_chars > MAX_OUTPUT_CHARS:
                    raise InputError(
                        f"{self._where}: its text passes {MAX_OUTPUT_CHARS} characters"
                    )
        except (InputError, MemoryError):
            raise
        except Exception as fault:
            # A template is a program of someone else's: whatever it raises is its refusal.
            raise InputError(f"{self._where} refuses this conversation: {fault}") from fault
        text = "".join(pieces)
        try:
            text.encode()
        except UnicodeEncodeError as fault:
            raise InputError(f"{self._where} writes a lone surrogate, which is no text") from fault
        return text


def _message(message: Any, number: int) -> dict[str, Any]:
    """A message of its own for the template, as transformers prepares it.

    A null is a key that is not there, and reasoning has all of its names.
    """
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InputError(f"message {number}: no role (system, user, assistant or tool)")
    said = {key: _plain(item) for key, item in message.items() if item is not None}
    reasoning = next((said[key] for key in REASONING if key in said), None)
    if reasoning is not None:
        said = {"thinking": reasoning, **said, "reasoning_content": reasoning}
    return said


def _variables(extras: ChatExtras) -> dict[str, Any]:
    taken = [name for name in extras.variables if name in RESERVED]
    if taken:
        raise InputError(f"{taken[0]!r} is no variable of a chat template: it is always given")
    return {str(name): _plain(value) for name, value in extras.variables.items()}


def _objects(values: Any, what: str) -> list[Any]:
    if not isinstance(values, list | tuple) or not all(isinstance(v, Mapping) for v in values):
        raise InputError(f"{what} is not a list of objects")
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    """A copy made of JSON's types: a template calls methods, and these have harmless ones."""
    try:
        return _copied(value)
    except RecursionError as fault:
        raise InputError("a message is nested too deeply for a chat template") from fault


def _copied(value: Any) -> Any:
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Mapping):
        return {_copied(key): _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    raise InputError(f"{type(value).__name__} in a conversation; JSON values only")
