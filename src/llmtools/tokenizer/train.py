"""Training a tokenizer: count the different words of a stream, then learn a vocabulary from them.

bpe:       byte-level, any text comes back unchanged; merges equal to the `tokenizers` library's.
wordpiece: BERT's, words cut at spaces and punctuation; merges by frequency, as that library does.
unigram:   sentencepiece's, by expectation maximisation.
word:      whole words, the most frequent first. char: characters, likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from llmtools.errors import UsageError
from llmtools.formats.malformed import NothingLeft
from llmtools.tokenizer import split, word_kernel
from llmtools.tokenizer.bpe_train import Symbols, learn_merges
from llmtools.tokenizer.bytes_chars import byte_chars, token_bytes, token_text
from llmtools.tokenizer.tokenizer import EOS_NAMES, SpecialRoles, Tokenizer
from llmtools.tokenizer.unigram_train import learn_pieces
from llmtools.tokenizer.word_count import WordCounter, WordTable
from llmtools.tokenizer.wordpiece_train import learn_wordpieces

TRAIN_PATTERNS = ("gpt2", "gpt4", "llama3", "qwen2", "smollm")
MODELS = ("bpe", "wordpiece", "unigram", "word", "char")
DEFAULT_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# What a model that cannot spell every text says instead; it must be among the special tokens.
UNKNOWN = {"wordpiece": "[UNK]", "unigram": "<unk>", "word": "<unk>", "char": "<unk>"}
SPECIAL_TOKENS = {
    "bpe": DEFAULT_SPECIAL_TOKENS,
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "unigram": ("<unk>", "<s>", "</s>"),
    "word": ("<unk>", "<|endoftext|>"),
    "char": ("<unk>", "<|endoftext|>"),
}
NUM_BYTES = 256
# The first table of words and a batch of text.
LEAST_MEMORY = 4 << 20
MARK = "\u2581"
_SCANNERS = {
    "wordpiece": word_kernel.SIGNS,
    "word": word_kernel.SIGNS,
    "unigram": word_kernel.MARKS,
    "char": word_kernel.CHARACTERS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What decides a trained tokenizer, apart from its documents.

    special_tokens: first ids first; None for the model's usual ones. min_frequency: how often a
    pair (bpe, wordpiece) or a word (word, char) must occur. memory_bytes: for the table of words
    and for the training; it decides the outcome only where it makes rare words be left out.
    raises: UsageError for what cannot be.
    """

    vocab_size: int
    model: str = "bpe"
    pattern: str = "gpt2"
    special_tokens: tuple[str, ...] | None = None
    min_frequency: int = 0
    memory_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        specials = self.specials
        least = len(specials) + (NUM_BYTES if self.model == "bpe" else 1)
        if self.vocab_size < least:
            what = "256 bytes" if self.model == "bpe" else "one more token"
            raise UsageError(
                f"--vocab-size {self.vocab_size}: {what} and {len(specials)} special tokens take"
                f" {least}"
            )
        if self.vocab_size >= 1 << 31:
            raise UsageError(f"--vocab-size {self.vocab_size}: ids have 31 bits")
        if len(set(specials)) != len(specials) or not all(specials):
            raise UsageError(f"--special-tokens: {','.join(specials)} has an empty or double name")
        unknown = UNKNOWN.get(self.model)
        if unknown is not None and unknown not in specials:
            raise UsageError(
                f"--special-tokens: a {self.model} vocabulary needs {unknown} among them"
            )
        if self.memory_bytes < LEAST_MEMORY:
            raise UsageError(
                f"--memory: {self.memory_bytes:,} bytes are too little; training needs at least"
                f" {LEAST_MEMORY >> 20}M"
            )

    @property
    def specials(self) -> tuple[str, ...]:
        """The special tokens, the model's usual ones where none were named."""
        named = self.special_tokens
        return SPECIAL_TOKENS[self.model] if named is None else named


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    model: str = "bpe",
    pattern: str = "gpt2",
    special_tokens: Sequence[str] | None = None,
    min_frequency: int = 0,
) -> Tokenizer:
    """A tokenizer of at most `vocab_size` tokens, special tokens first.

    The same texts, in any order, give the same tokenizer. Fewer tokens come out when the texts hold
    too few repeated pairs. raises: UsageError for sizes that cannot be, InputError when there is no
    text.
    """
    settings = TrainSettings(
        vocab_size=vocab_size,
        model=model,
        pattern=pattern,
        special_tokens=None if special_tokens is None else tuple(special_tokens),
        min_frequency=min_frequency,
    )
    return learn_tokenizer(count_texts(texts, settings), settings)


def count_texts(texts: Iterable[str], settings: TrainSettings) -> WordTable:
    """The different words of the texts; raises NothingLeft where there is none."""
    scanner = _SCANNERS.get(settings.model, word_kernel.SCANNERS[settings.pattern])
    normalizer = _normalizer(settings)
    with WordCounter(scanner, settings.memory_bytes) as counter:
        counter.add(texts if normalizer is None else _normalized(texts, normalizer, settings.model))
        table = counter.table()
    if len(table.counts) == 0:
        raise NothingLeft("no text to train a tokenizer on: every document is empty")
    return table


def _normalized(
    texts: Iterable[str], normalizer: normalizers.Normalizer, model: str
) -> Iterable[str]:
    for text in texts:
        # NFC, the only normalizer of a pattern, leaves ASCII as it is.
        plain = text if model == "bpe" and text.isascii() else normalizer.normalize_str(text)
        if model == "unigram" and plain:
            marked = plain.replace(" ", MARK)
            plain = marked if marked.startswith(MARK) else MARK + marked
        yield plain


def _normalizer(settings: TrainSettings) -> normalizers.Normalizer | None:
    if settings.model == "bpe":
        return split.normalizer(settings.pattern)
    if settings.model in ("wordpiece", "word"):
        return normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    if settings.model == "unigram":
        spaces = normalizers.Replace(Regex(" {2,}"), " ")
        return normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
    return None


def learn_tokenizer(
    table: WordTable, settings: TrainSettings, on_tokens: Callable[[int], None] = lambda num: None
) -> Tokenizer:
    """The tokenizer that a table of words gives; see train_tokenizer.

    on_tokens: told the size of the vocabulary now and then.
    """
    learn = {
        "bpe": _byte_level,
        "wordpiece": _wordpiece,
        "unigram": _unigram,
        "word": _most_frequent,
        "char": _most_frequent,
    }
    backend = Backend(learn[settings.model](table, settings, on_tokens))
    normalizer = _normalizer(settings)
    if normalizer is not None:
        backend.normalizer = normalizer
    if settings.model == "bpe":
        backend.pre_tokenizer = split.pre_tokenizer(settings.pattern)
        backend.decoder = decoders.ByteLevel()
    elif settings.model in ("wordpiece", "word"):
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece() if settings.model == "wordpiece" else None
    elif settings.model == "unigram":
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
    else:
        backend.decoder = decoders.Fuse()
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in settings.specials]
    )
    eos = next((token for token in EOS_NAMES if token in settings.specials), None)
    return Tokenizer(backend.to_str(), SpecialRoles(eos=eos), "the trained tokenizer")


def _byte_level(
    table: WordTable, settings: TrainSettings, on_tokens: Callable[[int], None]
) -> models.Model:
    ids = {token: id for id, token in enumerate(settings.specials)}
    for character in sorted(byte_chars()):
        ids.setdefault(character, len(ids))
    id_of_byte = np.array([ids[character] for character in byte_chars()], np.int32)
    # A special token that spells no bytes can equal no merge; its id is taken by an impossible one.
    texts = [token_bytes(token) or token.encode() + b"\xff\xff" for token in ids]
    learned = learn_merges(
        Symbols(id_of_byte[table.words], table.starts, table.counts),
        texts,
        settings.vocab_size,
        min_frequency=settings.min_frequency,
        on_tokens=on_tokens,
    )
    names = [*ids, *map(token_text, learned.tokens[len(ids) :])]
    return models.BPE(
        vocab={name: id for id, name in enumerate(names)},
        merges=[(names[left], names[right]) for left, right in learned.merges],
    )


def _wordpiece(
    table: WordTable, settings: TrainSettings, on_tokens: Callable[[int], None]
) -> models.Model:
    names = learn_wordpieces(
        table,
        settings.specials,
        settings.vocab_size,
        min_frequency=settings.min_frequency,
        on_tokens=on_tokens,
    )
    vocab = {name: id for id, name in enumerate(names)}
    return models.WordPiece(vocab, unk_token=UNKNOWN["wordpiece"])


def _unigram(
    table: WordTable, settings: TrainSettings, on_tokens: Callable[[int], None]
) -> models.Model:
    unknown = settings.specials.index(UNKNOWN["unigram"])
    room = settings.vocab_size - len(settings.specials)
    pieces = learn_pieces(table, room, on_tokens=on_tokens)
    specials = [(token, 0.0) for token in settings.specials]
    kept = [piece for piece in pieces if piece[0] not in settings.specials]
    return models.Unigram([*specials, *kept], unk_id=unknown, byte_fallback=False)


def _most_frequent(
    table: WordTable, settings: TrainSettings, on_tokens: Callable[[int], None]
) -> models.Model:
    """The most frequent words; among equals the first in code point order."""
    texts = table.texts()
    room = settings.vocab_size - len(settings.specials)
    least = max(1, settings.min_frequency)
    if len(texts) > room:
        least = max(least, int(np.partition(table.counts, -room)[-room]))
    places = np.flatnonzero(table.counts >= least).tolist()
    counted = [(-int(table.counts[place]), texts[place].decode()) for place in places]
    words = [word for _, word in sorted(counted) if word not in settings.specials]
    vocab = {word: id for id, word in enumerate([*settings.specials, *words[:room]])}
    unknown = UNKNOWN[settings.model]
    on_tokens(len(vocab))
    if settings.model == "char":
        return models.BPE(vocab, [], unk_token=unknown)
    return models.WordLevel(vocab, unk_token=unknown)
