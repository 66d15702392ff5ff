"""The one tokenizer of this program: text to ids and back, special tokens, conversations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models

from llmtools import terminal
from llmtools.errors import InputError
from llmtools.formats.chat_templates import (
    CONFIG_FILE,
    NAMED_FOLDER,
    TEMPLATE_FILE,
    TOOL_USE,
)
from llmtools.formats.output import write_file
from llmtools.tokenizer.chat import NO_EXTRAS, ChatExtras, ChatTemplate, Message
from llmtools.tokenizer.facts import Facts, digest_of, recall, remember
from llmtools.tokenizer.fast import WORTH_CHARS, Disagreement, FastEncoder, check
from llmtools.tokenizer.identity import tokenizer_identity
from llmtools.tokenizer.ids import check_ids
from llmtools.tokenizer.pieces import PIECE_CHARS, can_be_cut, cut
from llmtools.tokenizer.shield import encode_rendered, shield
from llmtools.tokenizer.spans import supervised_spans
from llmtools.tokenizer.young_chars import any_young

TOKENIZER_FILE = "tokenizer.json"

# Where no configuration names them, the first of these among the special tokens.
EOS_NAMES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eos|>")
BOS_NAMES = ("<s>", "<|begin_of_text|>", "<bos>", "<|bos|>")
# A code point that is no character.
NO_TEXT = "\U0010ffff"
# Special tokens that end a turn when the chat template writes them.
TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
    "<|call|>",
)
# Harmony ends an answer with this, and with <|end|> only the messages that it is made of.
HARMONY_END = "<|return|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialRoles:
    """Which tokens mean what, and the settings file that said so.

    bos, eos: None where there is none. stops: further tokens that end an answer. tool_template: in
    place of chat_template where a conversation has tools. config: the contents of
    tokenizer_config.json, kept for saving.
    """

    bos: str | None = None
    eos: str | None = None
    stops: tuple[str, ...] = ()
    chat_template: str | None = None
    tool_template: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def parse_tokenizer(text: str, where: str) -> tokenizers.Tokenizer:
    """A tokenizer.json's text as the library's object; raises InputError that names `where`."""
    try:
        parsed = tokenizers.Tokenizer.from_str(text)
    except BaseException as fault:
        # Damaged vocabularies make the Rust library panic, which is not an Exception in Python.
        if not isinstance(fault, Exception) and type(fault).__name__ != "PanicException":
            raise
        raise InputError(f"{where}: not a tokenizer.json: {fault}") from fault
    # Settings of the file that would shorten or lengthen what is encoded.
    parsed.no_truncation()
    parsed.no_padding()
    return parsed


class Tokenizer:
    """Text to ids and back.

    Built by load_tokenizer or train_tokenizer from the text of a tokenizer.json and the roles of
    its special tokens. raises: InputError naming `where` for malformed content.
    """

    def __init__(self, text: str, roles: SpecialRoles, where: str = "tokenizer") -> None:
        self.where = where
        self._roles = roles
        self._plain = parse_tokenizer(text, where)
        # Whether another encoder can be used, by parse_special, once that is known.
        self._fast: dict[bool, FastEncoder | None] = {}
        self._num_chars = 0
        # Compiled, by source.
        self._templates: dict[str, ChatTemplate] = {}
        self._plain.encode_special_tokens = True
        if not self._plain.get_vocab_size(with_added_tokens=True):
            raise InputError(f"{where}: the vocabulary is empty")
        self._digest = digest_of(text)
        self._text = text
        self.bos_id = self._role_id("bos", roles.bos)
        self.eos_id = self._role_id("eos", roles.eos)

    def _role_id(self, role: str, token: str | None) -> int | None:
        if token is None:
            return None
        id: int | None = self._plain.token_to_id(token)
        if id is None:
            raise InputError(f"{self.where}: the {role} token {token!r} is not in the vocabulary")
        return id

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        found: dict[str, int] = self._plain.get_vocab(with_added_tokens=True)
        return found

    @cached_property
    def _facts(self) -> Facts:
        found = recall(self._digest)
        if found is None:
            check_ids(json.loads(self._text), self._vocabulary, self.where)
            found = Facts(
                identity=tokenizer_identity(json.loads(self.to_json())),
                vocab_size=max(self._vocabulary.values()) + 1,
            )
            remember(self._digest, found)
        return found

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self._facts.vocab_size

    @cached_property
    def _parsing(self) -> tokenizers.Tokenizer:
        """The same tokenizer that recognises special tokens inside text.

        A second object, because the library's switch is shared state and servers encode in threads.
        """
        return parse_tokenizer(self.to_json(), self.where)

    @cached_property
    def _literal(self) -> tokenizers.Tokenizer:
        """The same tokenizer that finds no special token inside text.

        A unigram model would take one that is written out for a piece of its own, so there the
        pieces have other names.
        """
        if not isinstance(self._plain.model, models.Unigram):
            return self._plain
        fields = json.loads(self.to_json())
        fields["post_processor"] = None
        fields["added_tokens"] = [one for one in fields["added_tokens"] if not one["special"]]
        for piece in fields["model"]["vocab"]:
            if piece[0] in self.special_tokens:
                piece[0] = f"{NO_TEXT}{self.special_tokens[piece[0]]}{NO_TEXT}"
        return parse_tokenizer(json.dumps(fields), self.where)

    def encode(
        self, text: str, *, add_special_tokens: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text.

        add_special_tokens: with what the tokenizer itself adds (BOS, where adds_bos).
        parse_special: "<|im_end|>" inside the text is that token; else it is plain text.
        """
        backend = self._parsing if parse_special else self._literal
        encoded = backend.encode(text, add_special_tokens=False)
        if add_special_tokens:
            encoded = self._plain.post_process(encoded)
        ids: list[int] = encoded.ids
        return ids

    def encode_with_ends(self, text: str) -> tuple[list[int], np.ndarray]:
        """Token ids of a plain text, and where each token ends in its UTF-8 bytes, int64 [T].

        Tokens that share one character all end where it does.
        """
        encoded = self._literal.encode(text, add_special_tokens=False)
        characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        sizes = 1 + sum((characters >= limit).astype(np.int64) for limit in (0x80, 0x800, 0x10000))
        bytes_until = np.concatenate([[0], np.cumsum(sizes)])
        ends = np.array([end for _, end in encoded.offsets], np.int64)
        return encoded.ids, bytes_until[ends]

    def encode_batch(
        self, texts: Sequence[str], *, parse_special: bool = False
    ) -> list[np.ndarray]:
        """Token ids of many texts, each uint32 [T], nothing added.

        By the reference, on all cores, for the first texts; past WORTH_CHARS by a faster encoder
        where one agrees (fast.py), but for texts with characters that encoders may differ on
        (young_chars.py). A long text is encoded piece by piece, so that memory does not grow with
        it.
        """
        fast = self._faster(texts, parse_special)
        if fast is None:
            return self._encode_by_reference(texts, parse_special)
        if any_young(texts):
            return [
                self._encode_by_reference([text], parse_special)[0]
                if any_young([text])
                else self._encode_by(fast, text)
                for text in texts
            ]
        return [self._encode_by(fast, text) for text in texts]

    def _encode_by(self, fast: FastEncoder, text: str) -> np.ndarray:
        if len(text) <= PIECE_CHARS:
            return fast.encode(text)
        return np.concatenate([fast.encode(piece) for piece in self.pieces(text)])

    def _faster(self, texts: Sequence[str], parse_special: bool) -> FastEncoder | None:
        """The fast encoder once it pays and where it agrees."""
        if parse_special in self._fast:
            return self._fast[parse_special]
        self._num_chars += sum(map(len, texts))
        if self._num_chars < WORTH_CHARS:
            return None
        found: FastEncoder | None = None
        try:
            found = FastEncoder(self._text, parse_special=parse_special)
            check(found.encode, lambda some: self._encode_by_reference(some, parse_special), texts)
        except Disagreement as fault:
            found = None
            terminal.note(f"{self.where}: encoding with tokenizers, not gigatoken: {fault}")
        self._fast[parse_special] = found
        return found

    def _encode_by_reference(self, texts: Sequence[str], parse_special: bool) -> list[np.ndarray]:
        backend = self._parsing if parse_special else self._literal
        if all(len(text) <= PIECE_CHARS for text in texts):
            encoded = backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(one.ids, np.uint32) for one in encoded]
        found = []
        for text in texts:
            parts = [
                np.array(one.ids, np.uint32)
                for piece in self.pieces(text)
                for one in backend.encode_batch_fast([piece], add_special_tokens=False)
            ]
            found.append(np.concatenate(parts))
        return found

    def pieces(self, text: str) -> list[str]:
        """The text in the pieces that are encoded one after another."""
        return cut(text) if len(text) > PIECE_CHARS and self._can_be_cut else [text]

    @cached_property
    def _can_be_cut(self) -> bool:
        # Without its vocabulary, which takes long to write out.
        rules = tokenizers.Tokenizer(models.BPE())
        rules.normalizer, rules.pre_tokenizer = self._plain.normalizer, self._plain.pre_tokenizer
        added = self._plain.get_added_tokens_decoder().values()
        tokens = [{"content": token.content, "rstrip": token.rstrip} for token in added]
        return can_be_cut(json.loads(rules.to_str()) | {"added_tokens": tokens})

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Text of some ids; bytes that are not UTF-8 become U+FFFD, unknown ids nothing."""
        text: str = self._plain.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def token_to_id(self, token: str) -> int | None:
        """The id of a token in its stored form, None where there is none."""
        id: int | None = self._plain.token_to_id(token)
        return id

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens and their ids."""
        added = self._plain.get_added_tokens_decoder()
        return {token.content: id for id, token in sorted(added.items()) if token.special}

    @cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer itself puts BOS before a text."""
        ids = self.encode("a", add_special_tokens=True)
        return self.bos_id is not None and ids[:1] == [self.bos_id] and ids != self.encode("a")

    @cached_property
    def stop_ids(self) -> set[int]:
        """Ids that end an answer: EOS, and the ends of turns that the chat template writes."""
        named = [self._role_id("stop", token) for token in self._roles.stops]
        written = self._written_ends
        if HARMONY_END in written:
            written = [token for token in written if token != "<|end|>"]
        ends = [self.special_tokens[token] for token in written]
        return {id for id in [self.eos_id, *named, *ends] if id is not None}

    @property
    def _written_ends(self) -> list[str]:
        """The ends of turns that the chat template writes."""
        template = (self.chat_template or "") + (self._roles.tool_template or "")
        return [t for t in self.special_tokens if t in TURN_ENDS and t in template]

    @property
    def identity(self) -> str:
        """Hash (hex) of the content that decides ids; see identity.py."""
        return self._facts.identity

    def to_json(self) -> str:
        """The text of a tokenizer.json."""
        text: str = self._plain.to_str()
        return text

    def save(self, directory: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja for transformers."""
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        config |= {k: v for k, v in self._roles.config.items() if k != "chat_template"}
        config |= {"bos_token": self._roles.bos, "eos_token": self._roles.eos}
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        write_file(directory / TOKENIZER_FILE, self._plain.to_str(pretty=True).encode())
        write_file(directory / CONFIG_FILE, text.encode())
        if self.chat_template is not None:
            write_file(directory / TEMPLATE_FILE, self.chat_template.encode())
        if self._roles.tool_template is not None:
            (directory / NAMED_FOLDER).mkdir(exist_ok=True)
            file = directory / NAMED_FOLDER / f"{TOOL_USE}.jinja"
            write_file(file, self._roles.tool_template.encode())

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of conversations, None where the tokenizer has none."""
        return self._roles.chat_template

    def with_content(self, text: str) -> Tokenizer:
        """Another tokenizer.json's text with the same roles and template."""
        return Tokenizer(text, self._roles, self.where)

    def with_chat_template(self, template: str) -> Tokenizer:
        """The same tokenizer with another chat template (see chat.CHATML)."""
        roles = replace(self._roles, chat_template=template, tool_template=None)
        return Tokenizer(self.to_json(), roles, self.where)

    def _template(self, extras: ChatExtras) -> ChatTemplate:
        """The template of a conversation, as transformers chooses it."""
        source = self.chat_template
        if extras.tools is not None and self._roles.tool_template is not None:
            source = self._roles.tool_template
        if source is None:
            raise InputError(f"{self.where}: this tokenizer has no chat template")
        if source not in self._templates:
            self._templates[source] = ChatTemplate(source, self._token_names, self.where)
        return self._templates[source]

    @cached_property
    def _token_names(self) -> dict[str, str]:
        """The special tokens as a template may name them."""
        tokens = {"bos_token": self._roles.bos, "eos_token": self._roles.eos}
        for role in ("unk_token", "pad_token"):
            value = self._roles.config.get(role)
            tokens[role] = value.get("content") if isinstance(value, dict) else value
        return {role: token for role, token in tokens.items() if token is not None}

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        *,
        continue_final_message: bool = False,
        extras: ChatExtras = NO_EXTRAS,
    ) -> str:
        """The text of a conversation, ready for the next answer with `add_generation_prompt`.

        Raises InputError when there is no template, or it refuses the conversation. See
        chat.ChatTemplate.render.
        """
        return self._template(extras).render(
            messages,
            add_generation_prompt,
            extras=extras,
            continue_final_message=continue_final_message,
        )

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        extras: ChatExtras = NO_EXTRAS,
    ) -> list[int]:
        """Token ids of a conversation.

        Special tokens are those the template writes; in messages, tools, documents and variables
        they are plain text, so that content cannot end its own turn. BOS is there exactly when the
        template writes it. raises: InputError also for tools or documents that it has no place for.
        """
        self._check_used(messages, extras)
        values = [list(messages), extras.tools, extras.documents, dict(extras.variables)]
        (shielded, tools, documents, variables), hidden = shield(values, self.special_tokens)
        text = self._template(extras).render(
            shielded,
            add_generation_prompt,
            extras=ChatExtras(tools=tools, documents=documents, variables=variables),
            continue_final_message=continue_final_message,
        )
        return encode_rendered(text, hidden, self.encode)

    def supervised_spans(
        self, messages: Sequence[Message], extras: ChatExtras = NO_EXTRAS
    ) -> tuple[list[int], list[int]]:
        """Ids of a conversation, and 1 where a token belongs to an assistant's turn.

        See spans.supervised_spans.
        """
        self._check_used(messages, extras)
        return supervised_spans(
            messages,
            self._template(extras),
            self.special_tokens,
            self._turn_ends,
            self.encode,
            extras,
        )

    @cached_property
    def _turn_ends(self) -> list[str]:
        """Tokens that end a turn of a conversation, whether or not they end generation."""
        stops = [token for token, id in self._vocabulary.items() if id in self.stop_ids]
        return [*stops, *self._written_ends]

    def _check_used(self, messages: Sequence[Message], extras: ChatExtras) -> None:
        """Raise InputError for tools, documents or calls that the template would leave out."""
        given = {
            "tools": bool(extras.tools),
            "documents": bool(extras.documents),
            "tool_calls": any(message.get("tool_calls") for message in messages),
        }
        for name, is_given in given.items():
            if is_given and not self._template(extras).names(name):
                raise InputError(
                    f"{self.where}: this chat template has no {name}, so they would be lost"
                )
