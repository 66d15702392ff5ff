"""The n-gram language model against dictionaries, its file, and what texts are for it."""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from llmtools.data.ngram_estimate import (
    Corpus,
    NGramSettings,
    Order,
    estimate,
    find_discounts,
    hashed,
    read_corpus,
)
from llmtools.data.ngram_lm import (
    NGramModel,
    build_model,
    dump_model,
    load_model,
    percentiles_of,
)
from llmtools.data.ngram_text import normalise, split_words, word_hash
from llmtools.errors import InputError, UsageError
from llmtools.formats.document import read_documents
from ngram_reference import Reference

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def prose() -> list[str]:
    """Real text: this project's own documentation."""
    return [file.read_text() for file in sorted(DOCS.glob("*.md"))]


def sentences(texts: list[str]) -> list[list[str]]:
    """What the reference reads."""
    lines = [line for text in texts for line in normalise(text, "ccnet").decode().split("\n")]
    skipped = ("<s>", "</s>", "<unk>")
    found = [[word for word in line.split() if word not in skipped] for line in lines]
    return [words for words in found if words]


def as_dicts(corpus: Corpus, orders: list[Order]) -> tuple[dict, dict]:
    """Estimates by the words of their n-grams, log10."""
    words = [word.decode() for word in corpus.words]
    probs, backoffs = {}, {}
    for n, one in enumerate(orders, 1):
        rows = corpus.ids[one.places[:, None] + np.arange(n)].tolist()
        if n == 1:
            rows = [[i] for i in range(len(words))]
        for row, prob, backoff in zip(rows, one.probs, one.backoffs, strict=True):
            gram = tuple(words[i] for i in row)
            probs[gram], backoffs[gram] = float(prob), float(backoff)
    return probs, backoffs


def furthest(ours: dict, theirs: dict) -> float:
    """The largest difference, infinite where the n-grams are not the same."""
    if ours.keys() != theirs.keys():
        return math.inf
    return max((abs(ours[gram] - theirs[gram]) for gram in ours), default=0.0)


def trained(texts: list[str], order: int, **settings: object) -> tuple[Corpus, list[Order]]:
    corpus = read_corpus(texts, "ccnet")
    return corpus, list(estimate(corpus, NGramSettings(order=order, **settings)))  # type: ignore[arg-type]


def model_of(texts: list[str], order: int = 3) -> NGramModel:
    return build_model(hashed(*trained(texts, order)), normalize="ccnet", documents=len(texts))


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_estimates_are_chen_and_goodmans_on_real_text(order, prose):
    corpus, orders = trained(prose, order)
    reference = Reference(sentences(prose), order)
    for one, discounts in zip(orders, reference.discounts, strict=True):
        assert one.discounts == pytest.approx(discounts[1:])
    assert not orders[0].is_fallback
    probs, backoffs = as_dicts(corpus, orders)
    assert furthest(probs, reference.probs) < 1e-9
    contexts = {g: b for g, b in backoffs.items() if g in reference.backoffs}
    assert furthest(contexts, reference.backoffs) < 1e-9
    assert all(b == 0 for gram, b in backoffs.items() if gram not in reference.backoffs)


def test_the_comparison_rejects_discounts_of_another_order_and_raw_counts(prose):
    """Broken twins of the reference."""
    probs, _ = as_dicts(*trained(prose, 3))
    read = sentences(prose)
    assert furthest(probs, Reference(read, 3, shift=1).probs) > 1e-3
    assert furthest(probs, Reference(read, 3, has_raw_counts=True).probs) > 1e-3


def test_pruned_estimates_are_the_references(prose):
    corpus, orders = trained(prose, 4, prune=(0, 0, 1, 2))
    reference = Reference(sentences(prose), 4, prune=(0, 0, 1, 2))
    probs, backoffs = as_dicts(corpus, orders)
    assert len(orders[3].probs) < len(orders[2].probs) < len(orders[1].probs)
    assert furthest(probs, reference.probs) < 1e-9
    known = {g: b for g, b in reference.backoffs.items() if g in backoffs}
    assert furthest({g: backoffs[g] for g in known}, known) < 1e-9
    assert furthest(probs, Reference(sentences(prose), 4).probs) == math.inf


def test_probabilities_of_all_words_sum_to_one_after_every_context(prose):
    corpus, orders = trained(prose[:1], 3)
    model = build_model(hashed(corpus, orders), normalize="none")
    vocabulary = [word for word in corpus.words if word not in (b"<unk>", b"<s>", b"</s>")]
    known = b" ".join(vocabulary[:2])
    for context in (vocabulary[5], known, b"never seen", b"never " + vocabulary[0]):
        words = split_words([context + b" " + word for word in [*vocabulary, b"unheard-of"]])
        scores = model.word_scores(words)
        # The last word before </s> is the one that follows the context.
        following = scores[words.offsets[1:] - 2]
        stop = model.word_scores(split_words([context]))[-1]
        assert (10**following).sum() + 10**stop == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_scores_of_unseen_text_are_the_references(order, prose):
    known, unseen = prose[:-2], prose[-2:]
    model = model_of(known, order)
    reference = Reference(sentences(known), order)
    words = split_words([normalise(text, "ccnet") for text in unseen])
    scores = model.word_scores(words)[words.places > 0]
    wanted = [score for line in sentences(unseen) for score in reference.score(line)]
    assert np.abs(scores - wanted).max() < 2e-6
    sums, counts = model.score_texts(unseen)
    assert sums.sum() == pytest.approx(sum(wanted))
    assert counts.sum() == len(wanted)


def test_scores_do_not_depend_on_the_batch_or_on_pieces_of_a_long_text(prose, monkeypatch):
    model = model_of(prose[:3], 4)
    together = model.perplexities(prose)
    assert together.tolist() == [model.perplexities([text])[0] for text in prose]
    monkeypatch.setattr("llmtools.data.ngram_lm.CHUNK", 7)
    assert model.perplexities(prose[:2]).tolist() == together[:2].tolist()


def test_real_prose_gets_less_perplexity_than_the_same_words_shuffled(shared_data):
    source = str(shared_data / "corpora/prose.jsonl.zst")
    texts = []
    for document in read_documents([source]):
        texts.append(document.text)
        if len(texts) == 300:
            break
    model = model_of(texts[:250])
    chance = np.random.default_rng(0)
    for text in texts[250:260]:
        words = text.split()
        shuffled = " ".join(words[i] for i in chance.permutation(len(words)))
        plain, mixed = model.perplexities([" ".join(words), shuffled])
        assert plain < mixed


def test_the_same_documents_give_the_same_file_in_whatever_batches(prose, monkeypatch):
    first = b"".join(dump_model(model_of(prose)))
    monkeypatch.setattr("llmtools.data.ngram_estimate.BATCH_BYTES", 100)
    assert b"".join(dump_model(model_of(prose))) == first


def test_a_model_comes_back_from_its_file_with_all_it_holds(tmp_path, prose):
    model = model_of(prose)
    found = percentiles_of(model.perplexities(prose))
    kept = build_model(hashed(*trained(prose, 3)), normalize="ccnet", percentiles=found)
    (tmp_path / "lm.safetensors").write_bytes(b"".join(dump_model(kept)))
    loaded = load_model(tmp_path / "lm.safetensors")
    base = loaded.ngrams
    while not isinstance(base, np.memmap):
        base = base.base
    assert (loaded.counts, loaded.normalize) == (model.counts, "ccnet")
    assert loaded.perplexities(prose).tolist() == model.perplexities(prose).tolist()
    assert loaded.cutoff(0) == min(model.perplexities(prose))
    assert loaded.cutoff(100) == max(model.perplexities(prose))
    with pytest.raises(InputError, match="no percentiles"):
        model.cutoff(30)


def test_damaged_files_are_refused_or_score_and_never_run_astray(tmp_path, prose):
    data = b"".join(dump_model(model_of(prose[:2])))
    path = tmp_path / "lm.safetensors"
    path.write_bytes(data[:-8])
    with pytest.raises(InputError, match="truncated"):
        load_model(path)
    chance = np.random.default_rng(1)
    for _ in range(300):
        hurt = bytearray(data)
        for at in chance.integers(0, 3000 if chance.random() < 0.5 else len(data), 4):
            hurt[at] = chance.integers(0, 256)
        path.write_bytes(hurt)
        try:
            model = load_model(path)
        except InputError:
            continue
        model.perplexities(prose[:1])


def test_tables_without_room_at_their_end_are_refused(tmp_path):
    model = model_of(["a b c d", "a b"])
    full = model.ngrams.copy()
    full[:, 0] = np.maximum(full[:, 0], 1)
    broken = NGramModel(
        ngrams=full,
        segments=model.segments,
        slots=model.slots,
        counts=model.counts,
        normalize="none",
    )
    path = tmp_path / "lm.safetensors"
    path.write_bytes(b"".join(dump_model(broken)))
    with pytest.raises(InputError, match="do not fit together"):
        load_model(path)


def test_texts_without_words_have_no_perplexity():
    model = model_of(["a b c", "a c"])
    found = model.perplexities(["", " \n\n\t ", "a", "<s> </s>"])
    assert np.isnan(found).tolist() == [True, True, False, True]


def test_sentences_shorter_than_the_order_give_a_model_of_fewer_orders():
    _, orders = trained(["a", "b"], 5)
    assert len(orders) == 3
    assert orders[0].is_fallback


def test_discounts_that_cannot_be_estimated_are_lmplzs():
    assert find_discounts(np.array([1, 2])) == ((0.5, 1.0, 1.5), True)
    # n1..n4 = 4, 2, 1, 1: Y = 1/2, and D3+ = 3 - 4 Y n4 / n3.
    found, is_fallback = find_discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4, 9, 0]))
    assert found == pytest.approx((0.5, 1.25, 1.0))
    assert not is_fallback


@pytest.mark.parametrize(
    ("values", "mention"),
    [
        ({"order": 0}, "1 to 16"),
        ({"order": 17}, "1 to 16"),
        ({"normalize": "loud"}, "ccnet"),
        ({"prune": (1, 1)}, "first is 0"),
        ({"prune": (0, 2, 1)}, "none is below"),
        ({"order": 2, "prune": (0, 0, 1)}, "up to 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, mention):
    with pytest.raises(UsageError, match=mention):
        NGramSettings(**values)


def test_hashes_of_words_are_those_of_plain_python():
    words = split_words([b"one two\n\n three\x00four"])
    spelled = [b"<s>", b"one", b"two", b"</s>", b"<s>", b"three", b"four", b"</s>"]
    assert words.hashes.tolist() == [word_hash(word) for word in spelled]
    assert words.places.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def slow_normalise(text: str) -> str:
    """cc_net's steps, one after another, over a whole text; control characters but white space."""
    text = "".join(char.lower() for char in text)
    text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    text = "".join("0" if unicodedata.category(c) == "Nd" else c for c in text)
    for char, plain in {"“": '"', "”": '"', "’": "'", "—": " - ", "…": "...", "。": "."}.items():
        text = text.replace(char, plain)
    return "".join(c for c in text if unicodedata.category(c) != "Cc" or c.isspace())


@pytest.mark.parametrize(
    "text",
    [
        "Ünïcödé “quotes” — and 1234 ٣٤ digits… It’s",
        "e\u0301 combined, İstanbul, ΣΊΣΥΦΟΣ, 日本語。",
        "bell\x07 \x7f and \x9f gone",
        "é" * 100 + "x" + "É" * 17,
        "",
    ],
)
def test_normalised_text_is_cc_nets(text):
    assert normalise(text, "ccnet").decode() == slow_normalise(text)
    assert normalise(text, "none").decode() == text


def test_words_without_punctuation():
    assert normalise("The end. (Really?) It's", "words").split() == b"the end really it s".split()
