"""Training a fastText classifier: hashed n-grams, a mean of rows, a linear layer, softmax.

What comes out is a fastText model like any other. Where fastText asks several threads to write the
same weights without a lock, this takes one, so that the same documents and seed give the same file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmtools import terminal
from llmtools.data.agreement import macro_area
from llmtools.data.classifier_kernel import train_pass
from llmtools.data.fasttext import END, FastText, dictionary_of, rows_of
from llmtools.data.fasttext_kernel import Bytes, Integers
from llmtools.errors import InputError, UsageError
from llmtools.formats.fasttext import LABEL_PREFIX, FastTextFile, Loss

# What fastText takes for space: bytes.split() does too, but for NUL.
_NO_NUL = bytes.maketrans(b"\0", b" ")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierTraining:
    """The size of the model and how long it is trained.

    dim: numbers in a row. buckets: rows of n-grams, which share them by hash. word_ngrams: longest
    run of words that is one feature. min_chars, max_chars: n-grams of characters (0: none).
    max_words: the most frequent ones have a row of their own if seen `min_count` times.
    """

    dim: int = 16
    word_ngrams: int = 2
    min_chars: int = 0
    max_chars: int = 0
    buckets: int = 200_000
    max_words: int = 100_000
    min_count: int = 2
    epochs: int = 5
    learning_rate: float = 1.0
    seed: int = 1

    def __post_init__(self) -> None:
        limits = {
            "dim": (1, 4096),
            "word_ngrams": (1, 10),
            "min_chars": (0, 20),
            "max_chars": (0, 20),
            "buckets": (1, 2**31 - 1),
            "max_words": (0, 10_000_000),
            "min_count": (1, 2**31 - 1),
            "epochs": (1, 10_000),
        }
        faults = [
            f"{name} {getattr(self, name)}: {low:,} to {high:,}"
            for name, (low, high) in limits.items()
            if not low <= getattr(self, name) <= high
        ]
        if not 0 < self.learning_rate <= 100:
            faults.append(f"learning_rate {self.learning_rate}: above 0, at most 100")
        if self.min_chars > self.max_chars:
            faults.append(f"min_chars {self.min_chars} is above max_chars {self.max_chars}")
        if faults:
            raise UsageError("; ".join(faults))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A classifier as it will be stored, with its words' counts and the loss of each pass."""

    file: FastTextFile
    word_counts: Integers
    losses: list[float]


def train_classifier(
    texts: Sequence[bytes], labels: Sequence[str], settings: ClassifierTraining
) -> Trained:
    """A classifier of these texts, UTF-8; raises InputError where fewer than two labels are given.

    Memory: the texts, about as much again for their n-grams, and 4 * dim bytes a row.
    """
    counts = Counter(labels)
    if len(counts) < 2:
        raise InputError(
            f"all {len(labels):,} documents have the label {next(iter(counts), None)!r}; a"
            " classifier needs two"
        )
    # As fastText orders them; the name decides between equal counts.
    names = sorted(counts, key=lambda name: (-counts[name], name))
    words = count_words(texts, settings)
    uses_buckets = settings.word_ngrams > 1 or settings.max_chars > 0
    bucket = settings.buckets if uses_buckets else 0
    chance = np.random.default_rng(settings.seed)
    inputs = chance.random((len(words) + bucket, settings.dim), np.float32)
    inputs = (inputs * 2 - 1) / np.float32(settings.dim)
    if not len(inputs):
        raise InputError(f"no word stands {settings.min_count} times in the documents")
    outputs = np.zeros((len(names), settings.dim), np.float32)
    file = FastTextFile(
        path=Path("the new classifier"),
        dim=settings.dim,
        word_ngrams=settings.word_ngrams,
        loss=Loss.SOFTMAX,
        bucket=bucket,
        minn=settings.min_chars,
        maxn=settings.max_chars,
        words=[word for word, _ in words],
        labels=[(LABEL_PREFIX + name).encode() for name in names],
        label_counts=np.array([counts[name] for name in names], np.int64),
        kept=None,
        inputs=inputs,
        outputs=outputs,
    )
    number = {name: i for i, name in enumerate(names)}
    targets = np.array([number[label] for label in labels], np.int64)
    rows, starts = rows_of(dictionary_of(file), *joined(texts))
    losses = []
    with terminal.progress("scorer train", total=settings.epochs, unit="pass") as bar:
        for done in range(settings.epochs):
            rates = [
                settings.learning_rate * (1 - passed / settings.epochs)
                for passed in (done, done + 1)
            ]
            order = chance.permutation(len(texts))
            loss = train_pass(rows, starts, order, targets, inputs, outputs, *rates)
            if not np.isfinite(loss):
                raise UsageError(
                    f"the loss is {loss} in pass {done + 1}: lower --learning-rate"
                    f" ({settings.learning_rate})"
                )
            losses.append(loss)
            bar.update(loss=f"{loss:.4f}")
    counted = np.array([count for _, count in words], np.int64)
    return Trained(file=file, word_counts=counted, losses=losses)


def count_words(texts: Sequence[bytes], settings: ClassifierTraining) -> list[tuple[bytes, int]]:
    """The words that get a row, most frequent first, `</s>` among them as often as there are texts.

    fastText puts one at the end of each text.
    """
    counts: Counter[bytes] = Counter()
    for text in texts:
        counts.update(text.translate(_NO_NUL).split())
    counts[END] = len(texts)
    prefix = LABEL_PREFIX.encode()
    known = [
        (word, count)
        for word, count in counts.items()
        if count >= settings.min_count and not word.startswith(prefix)
    ]
    known.sort(key=lambda pair: (-pair[1], pair[0]))
    return known[: settings.max_words]


def joined(texts: Sequence[bytes]) -> tuple[Bytes, Integers]:
    """Texts in one buffer, and where each begins, as in a Batch."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return np.frombuffer(b"".join(texts), np.uint8), offsets


def judge_classifier(
    file: FastTextFile, texts: Sequence[bytes], labels: Sequence[str]
) -> dict[str, float]:
    """Accuracy, and the area under the curve (its mean over the labels), on texts held out."""
    model = FastText(file)
    scores = model.scores(*joined(texts))
    # A label that was never trained on is never found.
    number = {name: i for i, name in enumerate(model.labels)}
    targets: npt.NDArray[np.int64] = np.array([number.get(name, -1) for name in labels])
    accuracy = float((scores.argmax(axis=1) == targets).mean())
    return {"accuracy": accuracy, "auc": macro_area(scores, targets)}
