"""Prompts to token ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmtools.errors import InputError
from llmtools.tokenizer.chat import NO_EXTRAS, ChatExtras, Message
from llmtools.tokenizer.tokenizer import Tokenizer
from llmtools.tokenizer.tools import parse_calls, parse_tools


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """A conversation to answer, or, with continue_final_message, to go on with."""

    messages: Sequence[Message]
    extras: ChatExtras = NO_EXTRAS
    continue_final_message: bool = False


def read_chat(
    messages: Any,
    *,
    tools: Any = None,
    documents: Any = None,
    variables: Any = None,
    continue_final_message: Any = False,
) -> ChatPrompt:
    """A conversation as records and requests bring it; raises InputError naming what is wrong."""
    if not _are_objects(messages):
        raise InputError("'messages' is not a list of objects")
    if not isinstance(continue_final_message, bool):
        raise InputError("continue_final_message is not true or false")
    if documents is not None and not _are_objects(documents):
        raise InputError("documents is not a list of objects")
    if variables is not None and not isinstance(variables, dict):
        raise InputError("chat_template_kwargs is not an object")
    listed = [
        {**m, "tool_calls": parse_calls(m["tool_calls"])} if m.get("tool_calls") else m
        for m in messages
    ]
    extras = ChatExtras(tools=parse_tools(tools), documents=documents, variables=variables or {})
    return ChatPrompt(messages=listed, extras=extras, continue_final_message=continue_final_message)


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def encode_prompt(tokenizer: Tokenizer, prompt: str | Sequence[Message] | ChatPrompt) -> list[int]:
    """Ids of a text or of a conversation; raises like the two below."""
    if isinstance(prompt, str):
        return encode_text(tokenizer, prompt)
    return encode_chat(
        tokenizer, prompt if isinstance(prompt, ChatPrompt) else ChatPrompt(messages=prompt)
    )


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a plain prompt: one BOS in front where the tokenizer itself puts it.

    Special tokens written out in it are those tokens, because who writes a prompt may write its
    template too. raises: InputError for text that is not Unicode.
    """
    _check_unicode(text)
    ids = tokenizer.encode(text, parse_special=True)
    if tokenizer.adds_bos and ids[:1] != [tokenizer.bos_id]:
        assert tokenizer.bos_id is not None
        ids = [tokenizer.bos_id, *ids]
    return ids


def encode_chat(tokenizer: Tokenizer, chat: ChatPrompt) -> list[int]:
    """Ids of a conversation up to where the assistant's answer begins, or goes on.

    Special tokens inside messages are plain text. raises: InputError when the tokenizer has no chat
    template, or it refuses the conversation.
    """
    if not chat.messages:
        raise InputError("messages is empty; a conversation has at least one message")
    extras = chat.extras
    given = [list(chat.messages), extras.tools, extras.documents, dict(extras.variables)]
    _check_unicode(json.dumps(given, ensure_ascii=False))
    return tokenizer.encode_chat(
        chat.messages,
        add_generation_prompt=not chat.continue_final_message,
        continue_final_message=chat.continue_final_message,
        extras=extras,
    )


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise InputError(
            f"the prompt is not Unicode text: half of a surrogate pair, or a byte that is not"
            f" UTF-8, at character {fault.start}"
        ) from fault
