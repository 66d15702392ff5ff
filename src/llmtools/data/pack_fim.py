"""Fill in the middle (Bavarian et al. 2022): documents as prefix, suffix, then the middle.

    PSM   <prefix> a <suffix> c <middle> b
    SPM   <prefix> <suffix> c <middle> a b

with b the middle of the document a b c. A document is cut at two places drawn evenly: between
characters where its text is at hand, so that a model learns to go on in the midst of a token, else
between tokens. BOS and EOS stay outside. What is drawn depends on the seed and the document's
number in the input alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmtools.data.encode import EncodeSettings, encode_documents, frame_vocabulary
from llmtools.data.pack_order import order_keys
from llmtools.errors import UsageError, did_you_mean
from llmtools.formats.record import Document
from llmtools.formats.tokens import FrameBuilder, TokenFrame
from llmtools.tokenizer.tokenizer import Tokenizer

# prefix, suffix and middle: StarCoder; StarCoder2, Qwen and CodeGemma; Code Llama; SantaCoder;
# DeepSeek Coder, which calls them begin, hole and end.
KNOWN = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)
# Keys of documents beside those of any epoch.
_STREAM = 1 << 63


@dataclass(frozen=True, slots=True, kw_only=True)
class FimSettings:
    """rate: which share of documents. spm_rate: which share of those is SPM, the others PSM.

    tokens: names of the prefix, suffix and middle token; None for those of KNOWN that exist.
    """

    rate: float = 0.0
    spm_rate: float = 0.5
    tokens: tuple[str, str, str] | None = None


def fim_ids(tokenizer: Tokenizer, names: Sequence[str] | None) -> tuple[int, int, int]:
    """Ids of the prefix, suffix and middle token; raises UsageError where there are none."""
    for trio in KNOWN if names is None else (tuple(names),):
        ids = [tokenizer.token_to_id(name) for name in trio]
        prefix, suffix, middle = ids
        if prefix is not None and suffix is not None and middle is not None:
            return prefix, suffix, middle
    if names is None:
        tried = "; ".join(" ".join(trio) for trio in KNOWN)
        raise UsageError(
            f"--fim-rate: {tokenizer.where} has none of the known tokens for prefix, suffix and"
            f" middle ({tried}); name its own with --fim-tokens"
        )
    [absent, *_] = [name for name in names if tokenizer.token_to_id(name) is None]
    near = did_you_mean(absent, tokenizer.special_tokens)
    raise UsageError(f"--fim-tokens: {tokenizer.where} has no token {absent!r}{near}")


@dataclass(frozen=True, slots=True)
class _Draws:
    """Of some documents in a row: whether they are changed, to SPM, and two places in 0..1."""

    chosen: npt.NDArray[np.bool_]
    is_spm: npt.NDArray[np.bool_]
    places: npt.NDArray[np.float64]

    def cut(self, at: int, length: int) -> tuple[int, int]:
        """Where the middle of a document of `length` begins and ends; 0 and length are possible."""
        first, last = sorted(int(place * (length + 1)) for place in self.places[:, at])
        return min(first, length), min(last, length)


class FillInMiddle:
    """Changes documents in order; `documents` counts the changed ones."""

    def __init__(self, settings: FimSettings, tokenizer: Tokenizer, seed: int) -> None:
        self._settings, self._tokenizer, self._seed = settings, tokenizer, seed
        self._ids = fim_ids(tokenizer, settings.tokens)
        self._number = 0
        self.documents = 0

    def _draw(self, count: int) -> _Draws:
        draws = [
            order_keys(self._seed, _STREAM + one, self._number, count) / 2.0**64 for one in range(4)
        ]
        self._number += count
        return _Draws(
            chosen=draws[0] < self._settings.rate,
            is_spm=draws[1] < self._settings.spm_rate,
            places=np.stack(draws[2:]),
        )

    def change_frame(self, frame: TokenFrame) -> TokenFrame:
        """The documents of a frame, some of them cut between tokens."""
        vocabulary = frame.vocabulary
        draws = self._draw(frame.num_documents)
        builder = FrameBuilder(vocabulary)
        for at, (document_id, tokens, mask) in enumerate(frame.documents()):
            begin = int(
                len(tokens) > 0 and vocabulary.bos is not None and tokens[0] == vocabulary.bos
            )
            end = len(tokens)
            end -= int(end > begin and vocabulary.eos is not None and tokens[-1] == vocabulary.eos)
            if not draws.chosen[at] or end == begin:
                builder.add(document_id, tokens, mask)
                continue
            first, last = (begin + place for place in draws.cut(at, end - begin))
            bounds = [(begin, first), (first, last), (last, end)]
            parts = [tokens[a:b] for a, b in bounds]
            own = None
            if mask is not None:
                ones = np.ones(1, np.uint8)
                own = self._arranged([mask[a:b] for a, b in bounds], draws.is_spm[at], [ones] * 3)
                own = np.concatenate([mask[:begin], own, mask[end:]])
            changed = self._arranged(parts, draws.is_spm[at], self._marks(tokens.dtype))
            builder.add(document_id, np.concatenate([tokens[:begin], changed, tokens[end:]]), own)
            self.documents += 1
        return builder.take()

    def _marks(self, dtype: np.dtype[np.generic]) -> list[np.ndarray]:
        return [np.array([id], dtype) for id in self._ids]

    @staticmethod
    def _arranged(
        parts: Sequence[np.ndarray], is_spm: bool, marks: Sequence[np.ndarray]
    ) -> np.ndarray:
        prefix, middle, suffix = parts
        if is_spm:
            return np.concatenate([marks[0], marks[1], suffix, marks[2], prefix, middle])
        return np.concatenate([marks[0], prefix, marks[1], suffix, marks[2], middle])

    def encode(
        self, documents: Iterable[Document], settings: EncodeSettings, frame_bytes: int
    ) -> Iterator[TokenFrame]:
        """As `encode_documents`, with some documents cut between characters."""
        # Which form each document in the encoder has: None for one that is whole.
        coming: deque[bool | None] = deque()
        plain = replace(settings, add_bos=False, add_eos=False)
        vocabulary = frame_vocabulary(self._tokenizer, settings)
        builder = FrameBuilder(vocabulary)
        before = np.array([i for i in (vocabulary.bos,) if i is not None], np.uint32)
        after = np.array([i for i in (vocabulary.eos,) if i is not None], np.uint32)
        marks = self._marks(np.dtype(np.uint32))
        parts: list[np.ndarray] = []
        cut = self._cut(documents, coming)
        for frame in encode_documents(cut, self._tokenizer, plain, frame_bytes):
            for document_id, tokens, _ in frame.documents():
                parts.append(tokens.astype(np.uint32))
                form = coming[0]
                if form is None or len(parts) == 3:
                    ids = parts[0] if form is None else self._arranged(parts, form, marks)
                    builder.add(document_id, np.concatenate([before, ids, after]))
                    coming.popleft()
                    parts.clear()
            if builder.num_documents:
                yield builder.take()

    def _cut(self, documents: Iterable[Document], coming: deque[bool | None]) -> Iterator[Document]:
        for document in documents:
            draws = self._draw(1)
            if not draws.chosen[0] or not document.text:
                coming.append(None)
                yield document
                continue
            text = document.text
            first, last = draws.cut(0, len(text))
            coming.append(bool(draws.is_spm[0]))
            self.documents += 1
            for part in (text[:first], text[first:last], text[last:]):
                yield document.with_text(part)
