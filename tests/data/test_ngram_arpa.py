"""ARPA files: written and read back, and everything a reader must refuse."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import zstandard

from llmtools.data.ngram_arpa import dump_arpa, load_arpa
from llmtools.data.ngram_estimate import NGramSettings, estimate, hashed, read_corpus
from llmtools.data.ngram_lm import build_model
from llmtools.errors import InputError

SMALL = """\
\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1\t<unk>
0\t<s>\t-0.5
-0.7\t</s>
-0.3\ta\t-0.2

\\2-grams:
-0.1\t<s> a
-0.4\ta </s>

\\end\\
"""


def load(text: str | bytes, folder: Path) -> object:
    path = folder / "lm.arpa"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_arpa(path, "none")


def test_what_is_written_scores_as_the_model_it_came_from(tmp_path):
    texts = [(Path(__file__).parents[2] / "docs" / "formats.md").read_text()]
    corpus = read_corpus(texts, "ccnet")
    orders = list(estimate(corpus, NGramSettings(order=4, prune=(0, 0, 1))))
    model = build_model(hashed(corpus, orders), normalize="ccnet")
    data = b"".join(dump_arpa(corpus, orders))
    for content in (data, gzip.compress(data), zstandard.compress(data)):
        (tmp_path / "lm.arpa").write_bytes(content)
        found = load_arpa(tmp_path / "lm.arpa", "ccnet")
        assert found.counts == model.counts
        assert np.allclose(found.perplexities(texts), model.perplexities(texts), rtol=1e-6)


def test_a_small_file_is_worked_out_by_hand(tmp_path):
    model = load(SMALL, tmp_path)
    sums, counts = model.score_texts(["a", "b", "a b"])
    assert counts.tolist() == [2, 2, 3]
    # <s> a, a </s>; backoff of <s>, unknown, </s>; <s> a, backoff of a, unknown, </s>.
    assert sums == pytest.approx([-0.5, -0.5 - 1 - 0.7, -0.1 - 0.2 - 1 - 0.7])


def test_a_model_without_unknown_words_gives_them_kenlms_probability(tmp_path):
    text = SMALL.replace("-1\t<unk>\n", "").replace("ngram 1=4", "ngram 1=3")
    sums, _ = load(text, tmp_path).score_texts(["b"])
    assert sums == pytest.approx([-0.5 - 100 - 0.7])


@pytest.mark.parametrize(
    ("old", "new", "mention"),
    [
        ("\\data\\", "data", "begins with"),
        ("ngram 2=2", "ngram 3=2", "order 2 are missing"),
        ("ngram 2=2", "ngram 2=99999999999", "2 2-grams where 99,999,999,999"),
        ("ngram 1=4", "ngram 1=3", "4 1-grams where 3"),
        ("ngram 1=4\nngram 2=2\n", "", "0 orders"),
        ("\\2-grams:", "\\3-grams:", "2-grams: was expected"),
        ("-0.4\ta </s>", "-0.4\ta", "2 words"),
        ("-0.4\ta </s>", "-0.4\ta </s>\t-1\t-1", "2 words"),
        ("-0.4\ta </s>", "-x\ta </s>", "could not convert"),
        ("-0.4\ta </s>", "0.4\ta </s>", "above 1"),
        ("-0.4\ta </s>", "nan\ta </s>", "not a number"),
        ("-0.3\ta\t-0.2", "-0.3\ta\tinf", "not a number"),
        ("-0.4\ta </s>", "-0.4\t<s> a", "twice"),
        ("-0.4\ta </s>", "-0.4\ta\x01b </s>", "control character"),
        ("\\end\\\n", "", "truncated"),
        ("\\end\\", "\\more\\", "end\\ was expected"),
        ("-0.4\ta </s>", "-0.4\t" + "a" * (1 << 20), "a line of more than"),
    ],
)
def test_what_is_no_arpa_file_is_refused_with_its_line(old, new, mention, tmp_path):
    assert old in SMALL
    with pytest.raises(InputError, match=r"lm\.arpa") as caught:
        load(SMALL.replace(old, new), tmp_path)
    assert mention in str(caught.value)


def test_a_compressed_file_that_ends_early_is_refused(tmp_path):
    with pytest.raises(InputError, match="truncated"):
        load(gzip.compress(SMALL.encode() * 50)[:-40], tmp_path)


def test_damaged_text_is_refused_or_scores(tmp_path):
    chance = np.random.default_rng(3)
    for _ in range(300):
        hurt = bytearray(SMALL.encode())
        for at in chance.integers(0, len(hurt), 2):
            hurt[at] = chance.integers(0, 256)
        try:
            model = load(bytes(hurt), tmp_path)
        except InputError:
            continue
        model.perplexities(["a b"])
