"""Characters on which the two encoders differ, and that there are no others."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmtools.tokenizer import fast
from llmtools.tokenizer.bytes_chars import byte_chars
from llmtools.tokenizer.split import PATTERNS
from llmtools.tokenizer.tokenizer import SpecialRoles, Tokenizer
from llmtools.tokenizer.train import train_tokenizer
from llmtools.tokenizer.young_chars import any_young
from toy_tokenizer import TEXTS, fields_of

pytest.importorskip("gigatoken")

# Letters, digits and marks of Unicode 16 and 17, one that composes, one that changes places.
YOUNG = (
    "a\U0001e6d5a A\ua7ceb",
    "1\U00011de31",
    "x\u1ad4_y",
    "\U000113c2\U000113c2",
    "a\u0301\u1acaa",
)
# What can stand beside a character, so that every class of a split rule shows.
PLACES = "a{0}a\nA{0}A\n1{0}1\n,{0},\n {0}{0}A{0}a a{0}A\n\n{0}\n'{0}\u0316{0}\u0301{0},{0}a\n"


def telling_tokenizer(pattern: str, *, is_composed: bool) -> Tokenizer:
    """Merges the last or first byte of any character with what stands beside it in one word."""
    fields = fields_of(train_tokenizer(TEXTS[:2], 256, pattern="gpt4", special_tokens=[]))
    chars = byte_chars()
    firsts, lasts = range(0xC2, 0xF5), range(0x80, 0xC0)
    pairs = [(chars[ord(side)], chars[byte]) for side in "aA1,'\n " for byte in firsts]
    pairs += [(chars[byte], chars[ord(side)]) for side in "aA1,\n" for byte in lasts]
    vocab = {chars[byte]: byte for byte in range(256)}
    vocab |= {left + right: 256 + number for number, (left, right) in enumerate(pairs)}
    fields["model"] |= {"vocab": vocab, "merges": list(map(list, pairs))}
    fields["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": PATTERNS[pattern]}
    fields["normalizer"] = {"type": "NFC"} if is_composed else None
    return Tokenizer(json.dumps(fields), SpecialRoles())


def known_characters() -> list[str]:
    """All that any_young does not name; of ideographs and syllables every 97th."""
    alike = [(0x3400, 0xA000), (0xAC00, 0xD7A4), (0x20000, 0x34000)]
    numbers = set(range(0x20000)) | set(range(0xE0000, 0xE0200)) | {0xF0000, 0x100000}
    numbers -= set(range(0xD800, 0xE000)).union(*(range(*ends) for ends in alike))
    numbers |= {number for ends in alike for number in range(*ends, 97)}
    return [chr(number) for number in sorted(numbers) if not any_young([chr(number)])]


@pytest.mark.parametrize(("pattern", "is_composed"), [("gpt4", True), ("o200k", False)])
def test_both_encoders_cut_around_every_other_character_alike(pattern, is_composed) -> None:
    tokenizer = telling_tokenizer(pattern, is_composed=is_composed)
    encode = fast.FastEncoder(tokenizer.to_json(), parse_special=False).encode
    known = known_characters()
    assert len(known) > 25_000
    for start in range(0, len(known), 256):
        text = "".join(map(PLACES.format, known[start : start + 256]))
        assert encode(text).tolist() == tokenizer.encode(text), hex(ord(known[start]))
    # The same places show the difference that a new letter makes.
    text = PLACES.format("\U0001e6d5")
    assert encode(text).tolist() != tokenizer.encode(text)


@pytest.mark.parametrize("pattern", ["gpt4", "o200k"])
def test_texts_with_them_have_the_reference_s_ids(pattern, monkeypatch) -> None:
    monkeypatch.setattr("llmtools.tokenizer.tokenizer.WORTH_CHARS", 1)
    tokenizer = telling_tokenizer(pattern, is_composed=True)
    tokenizer.encode_batch(["plain"])
    assert tokenizer._fast[False] is not None
    texts = ["plain", *YOUNG, "caf\u00e9 \u4e2d\u6587 \U0001f600"]
    found = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in found] == [tokenizer.encode(text) for text in texts]
    assert found[0].dtype == np.uint32
    assert [any_young([text]) for text in texts] == [False, *[True] * len(YOUNG), False]
