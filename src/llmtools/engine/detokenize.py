"""Text of tokens that arrive one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
# An incomplete character at the end decodes to at most this many U+FFFD: vocabularies with byte
# tokens give one for each byte, byte-level ones a single one.
MAX_INCOMPLETE = 3
# The ids decoded at each step; when they pass WINDOW, the last KEPT stay for context.
WINDOW = 24
KEPT = 8


class Decodes(Protocol):
    """What a tokenizer must offer."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str: ...


class Detokenizer:
    """Ids to text in pieces that never split a character; special tokens have no text.

    The pieces joined are the decoding of all ids. (A SentencePiece vocabulary that writes a whole
    character in byte tokens and then a byte that fits nowhere is the exception: its decoder turns
    the character itself into U+FFFD, after it was passed on.)

    before: ids in front of the first, for context: vocabularies whose words begin with a space drop
    that space at the start of a text, but a continuation of a prompt needs it.
    """

    def __init__(self, tokenizer: Decodes, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._window = list(before[-KEPT:])
        self._text = self._decode(self._window)
        self._shown = self._certain()

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _certain(self) -> int:
        """Characters of the window's text that further tokens cannot change."""
        length = len(self._text)
        while length > max(0, len(self._text) - MAX_INCOMPLETE):
            if self._text[length - 1] != REPLACEMENT:
                break
            length -= 1
        return length

    def feed(self, token_id: int) -> str:
        """The text that became certain with one more token, often ''."""
        self._window.append(token_id)
        self._text = self._decode(self._window)
        new = self._show(self._certain())
        if len(self._window) > WINDOW:
            self._shorten()
        return new

    def finish(self) -> str:
        """The rest, U+FFFD where a character stayed incomplete."""
        return self._show(len(self._text))

    def _show(self, stop: int) -> str:
        new = self._text[self._shown : stop]
        self._shown = max(self._shown, stop)
        return new

    def _shorten(self) -> None:
        """Drop ids from the window's front, where the rest decodes to the end of the same text."""
        kept = self._window[-KEPT:]
        text = self._decode(kept)
        dropped = len(self._text) - len(text)
        if text and self._text.endswith(text) and dropped <= self._shown:
            self._window, self._text = kept, text
            self._shown -= dropped
