"""`--words unicode` beside uniseg, an independent implementation of UAX #29.

What stands between white space is cut by uniseg's default word boundaries; then a run of one sign
that is neither letter nor digit is one word, which is our own addition.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from uniseg.wordbreak import words

from llmtools.data.rules.words import words_of
from llmtools.formats.document import read_documents
from text_batches import batch_of

# Letters, digits and every kind of sign that joins or parts them, of several scripts.
SIGNS = "ab1 ,.:;'’\"_-#…אב׳״カひ日กäe\u0301\u200d\u00ad👨👧🇩🇪한\n\t١٢"
FLAGS = "🇩🇪"


def found(text: str, kind: str = "unicode") -> list[str]:
    table = words_of(batch_of([text]), kind)
    raw = text.encode()
    spans = zip(table.starts.tolist(), table.num_bytes.tolist(), strict=True)
    return [raw[start : start + size].decode() for start, size in spans]


def expected(text: str) -> list[str]:
    out: list[str] = []
    for piece in text.split():
        merged: list[str] = []
        for word in words(piece):
            sign = word[0]
            is_run = merged and merged[-1][-1] == sign and not any(map(str.isalnum, merged[-1]))
            if is_run and not sign.isalnum() and sign not in FLAGS:
                merged[-1] += word
            else:
                merged.append(word)
        out += merged
    return out


@given(st.text(alphabet=SIGNS, max_size=30))
def test_words_are_those_of_the_standard(text: str) -> None:
    assert found(text) == expected(text)


def test_words_of_real_documents_in_many_scripts(shared_data: Path) -> None:
    path = str(shared_data / "corpora" / "multiling.jsonl.zst")
    texts = [d.text[:3000] for d in itertools.islice(read_documents([path]), 0, None, 40)]
    assert len(texts) > 100
    assert all(found(text) == expected(text) for text in texts)
    # The broken twin: white space alone.
    assert not any(found(text, "fast") == expected(text) for text in texts if text.strip())
