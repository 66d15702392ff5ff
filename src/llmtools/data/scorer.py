"""What gives documents numbers: any file that `llm score --with` takes, told by its content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.fasttext import FastText
from llmtools.data.ngram_arpa import load_arpa
from llmtools.data.ngram_lm import NGramModel, load_model
from llmtools.data.ngram_text import NORMALIZE
from llmtools.data.regression import FORMAT as REGRESSION
from llmtools.data.regression import Embed, Regression, load_regression
from llmtools.errors import InputError, UsageError, did_you_mean
from llmtools.formats import tensor_header
from llmtools.formats.fasttext import is_fasttext
from llmtools.formats.manifest import read_manifest
from llmtools.formats.ngram import ARPA_MAGIC, FORMAT
from llmtools.formats.stream import open_input

Scores = Mapping[str, npt.NDArray[np.float64]]


class Scorer(Protocol):
    """Gives each document of a batch one number, or several.

    name: what the number is called in metadata.scores. where: the file or directory it came from.
    """

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> str: ...

    def score(self, batch: Batch) -> Scores:
        """Values (D,) by name, `name` among them; NaN for a document that has none."""
        ...


class NGramScorer:
    """Perplexity by an n-gram language model; a document without words has none."""

    def __init__(self, model: NGramModel, where: str, name: str | None) -> None:
        self.model = model
        self.where = where
        self.name = name or "perplexity"

    def score(self, batch: Batch) -> Scores:
        texts = [bytes(batch.text(row)) for row in range(len(batch.documents))]
        return {self.name: self.model.perplexities(texts)}


MOST_LABELS = 20


class ClassifierScorer:
    """The scores of a fastText classifier's labels, or of one of them."""

    def __init__(self, model: FastText, where: str, label: str | None, name: str | None) -> None:
        if label is not None and label not in model.labels:
            raise UsageError(
                f"{where}:{label}: {where} has no label {label!r}"
                f"{did_you_mean(label, model.labels)}"
            )
        if label is None and len(model.labels) > MOST_LABELS:
            raise UsageError(
                f"{where} has {len(model.labels)} labels; name one, as {where}:{model.labels[0]}"
            )
        self.where = where
        self._model = model
        labels = model.labels if label is None else [label]
        self._columns = {
            (one if name is None else name if label is not None else f"{name}_{one}"):
            model.labels.index(one)
            for one in labels
        }  # fmt: skip
        self.name = next(iter(self._columns))

    def score(self, batch: Batch) -> Scores:
        found = self._model.scores(batch.buffer, batch.offsets).astype(np.float64)
        # No row of the model stands for anything in such a text.
        found[found.max(axis=1) == 0] = np.nan
        return {name: found[:, column] for name, column in self._columns.items()}


class RegressionScorer:
    """What a regression says of the vectors that a model gives the documents."""

    def __init__(self, model: Regression, embed: Embed, where: str, name: str | None) -> None:
        self.where = where
        self.name = name or "regression"
        self._model = model
        self._embed = embed

    def score(self, batch: Batch) -> Scores:
        vectors = self._embed(
            [str(batch.text(row), "utf-8") for row in range(len(batch.documents))]
        )
        if vectors.shape[1] != len(self._model.weights):
            raise InputError(
                f"{self.where}: made for vectors of {len(self._model.weights)} numbers; the"
                f" encoder's have {vectors.shape[1]}"
            )
        found = self._model.scores(vectors)
        # A text without tokens has no vector.
        found[~vectors.any(axis=1)] = np.nan
        return {self.name: found}


def load_scorer(
    path: str,
    *,
    name: str | None = None,
    normalize: str | None = None,
    encoder: str | None = None,
    open_encoder: Callable[[str], Embed] | None = None,
) -> Scorer:
    """The scorer in a file; `name` replaces the name it has by itself.

    normalize: what texts go through before an ARPA model sees them, which the file cannot say; as
    the manifest beside it says where it is None, else nothing. open_encoder: loads the model whose
    vectors a regression takes, `encoder` or the one it was trained with. Raises InputError for a
    file that is missing, damaged or no scorer.
    """
    label = None
    if not Path(path).is_file() and ":" in path:
        path, _, label = path.rpartition(":")
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; name a language model or another scorer")
    with open_input(path) as stream:
        head = stream.peek(64)[:64]
    if is_fasttext(head):
        return ClassifierScorer(FastText.load(Path(path)), path, label, name)
    if label is not None:
        raise UsageError(f"{path}:{label}: only classifiers have labels, and {path} is none")
    if tensor_header.is_container(head):
        with open(path, "rb") as file:
            header = tensor_header.read_header(file, path)
        kind = header.metadata.get("format", "") if header is not None else ""
        if kind == FORMAT:
            loaded = load_model(Path(path))
            if normalize not in (None, loaded.normalize):
                raise UsageError(
                    f"--normalize {normalize}: {path} was trained with {loaded.normalize};"
                    " only ARPA files do not say"
                )
            return NGramScorer(loaded, path, name)
        if kind == REGRESSION:
            regression = load_regression(Path(path))
            encoder = encoder or regression.encoder
            if not encoder or open_encoder is None:
                raise UsageError(f"{path}: a regression of vectors; --encoder names their model")
            return RegressionScorer(regression, open_encoder(encoder), path, name)
        raise InputError(f"{path}: a safetensors file of another kind ({kind or 'unnamed'})")
    if head.lstrip().startswith(ARPA_MAGIC):
        state = Path(path).stat()
        how = normalize or _normalize_of(Path(path))
        return NGramScorer(_cached_arpa(path, how, state.st_size, state.st_mtime_ns), path, name)
    raise InputError(
        f"{path}: not a scorer (an n-gram language model of llm scorer train, or an ARPA file);"
        f" it begins with {head[:16]!r}"
    )


@lru_cache(4)
def _cached_arpa(path: str, normalize: str, size: int, mtime_ns: int) -> NGramModel:
    """A worker process asks for it once for every unit, and reading one takes long."""
    return load_arpa(Path(path), normalize)


def _normalize_of(path: Path) -> str:
    """What the manifest of an ARPA file says, 'none' where there is none."""
    settings = (read_manifest(path) or {}).get("settings")
    found = settings.get("normalize") if isinstance(settings, dict) else None
    return found if found in NORMALIZE else "none"


def load_ngram_scorer(path: str, option: str) -> NGramScorer:
    """The n-gram model in a file; raises UsageError naming `option` for another kind of scorer."""
    scorer = load_scorer(path)
    if not isinstance(scorer, NGramScorer):
        raise UsageError(f"{option} {path}: not an n-gram language model")
    return scorer
