"""Text that arrives in pieces: whole characters, and stop strings."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtools.engine.detokenize import Detokenizer
from llmtools.engine.stop import StopStrings
from tiny_engine import ByteTokenizer
from toy_tokenizer import ADVERSARIAL, toy_tokenizer


def pieces(ids: list[int], tokenizer: object, before: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tokenizer, before or [])  # type: ignore[arg-type]
    return [*(detokenizer.feed(id) for id in ids), detokenizer.finish()]


@given(st.lists(st.integers(0, 255), max_size=120))
@settings(max_examples=200)
def test_the_pieces_of_any_bytes_are_their_decoding(ids: list[int]) -> None:
    assert "".join(pieces(ids, ByteTokenizer())) == ByteTokenizer().decode(ids)


@pytest.mark.parametrize("text", [*ADVERSARIAL, "日本語 👩‍👩‍👧 naïve " * 30])
def test_no_piece_splits_a_character(text: str) -> None:
    tokenizer = toy_tokenizer()
    ids = tokenizer.encode(text)
    parts = pieces(ids, tokenizer)
    assert "".join(parts) == tokenizer.decode(ids, skip_special_tokens=True)
    assert not any("\ufffd" in part for part in parts[:-1])


def test_a_byte_that_completes_no_character_becomes_a_replacement_at_the_end() -> None:
    assert pieces([65, 0xE6, 0x97], ByteTokenizer()) == ["A", "", "", "\ufffd"]


class SpaceTokenizer:
    """Words that begin with a space, which is dropped at the start of a text (SentencePiece)."""

    words = (" Once", " upon", " a", " time")

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(self.words[id] for id in ids).removeprefix(" ")


def test_a_continuation_keeps_the_space_of_its_first_word() -> None:
    assert "".join(pieces([2, 3] * 30, SpaceTokenizer(), [0, 1])) == " a time" * 30
    assert "".join(pieces([0, 1] * 30, SpaceTokenizer())) == ("Once upon" + " Once upon" * 29)


def cut(text: str, stops: list[str]) -> str:
    found = [at for at in map(text.find, stops) if at >= 0]
    return text[: min(found)] if found else text


@given(
    st.text("abc", max_size=40),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 40), max_size=10),
)
@settings(max_examples=300)
def test_stop_strings_cut_the_text_wherever_its_pieces_end(
    text: str, stops: list[str], edges: list[int]
) -> None:
    bounds = [0, *sorted(edges), len(text)]
    stream = StopStrings(stops)
    shown = ""
    for start, stop in pairwise(bounds):
        shown += stream.feed(text[start:stop])
        # One that ends later may begin earlier than the one that was found, which came first.
        if stream.found:
            break
    assert (shown + stream.finish()) == cut(text[:stop], stops)


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    stream = StopStrings(["</end>"])
    assert [stream.feed(t) for t in ("a<", "b</e", "nx", "</end>c")] == ["a", "<b", "</enx", ""]
    assert stream.found and stream.finish() == "" and stream.feed("more") == ""
