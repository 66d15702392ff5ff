"""Any tokenizer file to one Tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmtools.errors import InputError
from llmtools.formats.chat_templates import (
    CONFIG_FILE,
    DEFAULT,
    NAMED_FOLDER,
    TEMPLATE_FILE,
    TOOL_USE,
    chat_templates,
)
from llmtools.formats.gguf import GGUFFile, is_gguf
from llmtools.formats.gguf_vocab import CHAT_TEMPLATE
from llmtools.formats.hub import fetch, is_hub_name
from llmtools.formats.model_path import LATEST, resolve_model
from llmtools.formats.rank_files import is_ranks
from llmtools.formats.sentencepiece import is_sentencepiece, read_sentencepiece
from llmtools.tokenizer import gguf_vocab, pair_files, sentencepiece, tiktoken
from llmtools.tokenizer.added_tokens import added_tokens
from llmtools.tokenizer.tokenizer import (
    BOS_NAMES,
    EOS_NAMES,
    TOKENIZER_FILE,
    SpecialRoles,
    Tokenizer,
)

SENTENCEPIECE_FILE = "tokenizer.model"
GENERATION_FILE = "generation_config.json"
# Those of this process, each with what its files were then.
_loaded: dict[str, tuple[list[tuple[str, int, int]], Tokenizer]] = {}
MAX_FILE_BYTES = 1 << 28
KINDS = (
    "a tokenizer.json, a model directory, a GGUF file, sentencepiece's .model, tiktoken's ranks or"
    " hf:ORG/NAME"
)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, a model or run directory, or a GGUF file.

    Also of tiktoken's rank files (tiktoken.py), sentencepiece's models (sentencepiece.py; in a
    directory, tokenizer.model), and of a directory with GPT-2's encoder.json and vocab.bpe, or
    vocab.json and merges.txt (pair_files.py).
    A file named tokenizer.json is read with the configuration beside it, as its directory would be.
    raises: InputError naming the file for anything missing or malformed.
    """
    place = fetch(path) if is_hub_name(path) else Path(path)
    if place.is_dir():
        if not (place / TOKENIZER_FILE).is_file() and (place / LATEST).is_file():
            place = resolve_model(place)
        if not place.is_dir():
            return _from_gguf(place)
        if not (place / TOKENIZER_FILE).is_file():
            if (place / SENTENCEPIECE_FILE).is_file():
                return _from_sentencepiece(place / SENTENCEPIECE_FILE)
            files = pair_files.find(place)
            if files is None:
                raise InputError(f"{place}: no {TOKENIZER_FILE} in this directory")
            vocab, merges = files
            text = pair_files.tokenizer_json(_read_text(vocab), _read_text(merges), vocab)
            return _rebuilt(text, place)
        return _from_directory(place)
    if not place.exists():
        raise InputError(f"{place}: no such tokenizer; -t takes {KINDS}")
    if is_gguf(place):
        return _from_gguf(place)
    if place.name == TOKENIZER_FILE:
        return _from_directory(place.parent)
    with place.open("rb") as file:
        head = file.read(4096)
    if is_ranks(head) or place.suffix == ".tiktoken":
        return _rebuilt(tiktoken.tokenizer_json(_read_bytes(place), place), place)
    if is_sentencepiece(head):
        return _from_sentencepiece(place)
    return _from_text(place, {}, {}, ())


def _from_sentencepiece(file: Path) -> Tokenizer:
    found = read_sentencepiece(_read_bytes(file), str(file))
    bos, eos = sentencepiece.ends(found)
    roles = SpecialRoles(bos=bos, eos=eos)
    return Tokenizer(sentencepiece.tokenizer_json(found, str(file)), roles, str(file))


def load_tokenizer_once(path: str | Path) -> Tokenizer:
    """As `load_tokenizer`, but a process that asks again gets the same one, unless a file changed.

    For commands, which a worker calls once for each unit.
    """
    if is_hub_name(path):
        return load_tokenizer(path)
    place = Path(path).resolve()
    if place.is_dir():
        files = sorted([*place.iterdir(), *(place / NAMED_FOLDER).glob("*")])
    else:
        settings = (CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE, NAMED_FOLDER)
        files = [place, *(place.parent / name for name in settings)]
    found_states = ((str(file), file.stat()) for file in files if file.exists())
    states = [(name, state.st_size, state.st_mtime_ns) for name, state in found_states]
    found = _loaded.get(str(place))
    if found is None or found[0] != states:
        found = _loaded[str(place)] = (states, load_tokenizer(path))
    return found[1]


def _rebuilt(text: str, where: Path) -> Tokenizer:
    """The tokenizer of files that name no roles."""
    special = _special_tokens(text, str(where))
    roles = SpecialRoles(
        bos=next((token for token in BOS_NAMES if token in special), None),
        eos=next((token for token in EOS_NAMES if token in special), None),
    )
    return Tokenizer(text, roles, str(where))


def _from_directory(directory: Path) -> Tokenizer:
    config = _read_object(directory / CONFIG_FILE)
    return _from_text(
        directory / TOKENIZER_FILE,
        config,
        chat_templates(directory, config),
        _generation_stops(directory),
    )


def _from_text(
    file: Path, config: Mapping[str, Any], templates: Mapping[str, str], stop_ids: tuple[int, ...]
) -> Tokenizer:
    text = _read_text(file)
    special = _special_tokens(text, str(file))
    content = {id: token for token, id in special.items()}
    roles = SpecialRoles(
        bos=_role(config, "bos_token", BOS_NAMES, special, file),
        eos=_role(config, "eos_token", EOS_NAMES, special, file),
        stops=tuple(content[id] for id in stop_ids if id in content),
        chat_template=templates.get(DEFAULT),
        tool_template=templates.get(TOOL_USE),
        config=config,
    )
    return Tokenizer(text, roles, str(file))


def _special_tokens(text: str, where: str) -> dict[str, int]:
    """The special tokens of a tokenizer.json and their ids."""
    try:
        added = added_tokens(text)
        return {str(token["content"]): int(token["id"]) for token in added if token["special"]}
    except (ValueError, RecursionError) as fault:
        raise InputError(
            f"{where}: not a tokenizer.json: {fault or 'nested too deeply'}"
        ) from fault
    except (TypeError, KeyError, AttributeError) as fault:
        raise InputError(
            f"{where}: not a tokenizer.json: its added tokens are no list of objects with content,"
            " id and special"
        ) from fault


def _role(
    config: Mapping[str, Any],
    key: str,
    usual: tuple[str, ...],
    special: Mapping[str, int],
    file: Path,
) -> str | None:
    """The token of a role: what the configuration says, else the first usual name there is."""
    if key not in config:
        return next((token for token in usual if token in special), None)
    value = config[key]
    token = value.get("content") if isinstance(value, dict) else value
    if token is not None and not isinstance(token, str):
        raise InputError(f"{file.parent / CONFIG_FILE}: {key} is {token!r}, not a token")
    return token


def _generation_stops(directory: Path) -> tuple[int, ...]:
    """The ids that end an answer according to generation_config.json."""
    value = _read_object(directory / GENERATION_FILE).get("eos_token_id")
    ids = value if isinstance(value, list) else [value]
    return tuple(id for id in ids if isinstance(id, int))


def _from_gguf(file: Path) -> Tokenizer:
    metadata = GGUFFile(file).metadata
    where = str(file)
    text = gguf_vocab.tokenizer_json(metadata, where)
    special = _special_tokens(text, where)
    named = {
        role: gguf_vocab.token_of(metadata, role, where)
        for role in ("bos", "eos", "eot", "padding", "unknown")
    }
    config = {"pad_token": named["padding"], "unk_token": named["unknown"]}
    template, for_tools = (metadata.get(CHAT_TEMPLATE + suffix) for suffix in ("", f".{TOOL_USE}"))
    roles = SpecialRoles(
        bos=named["bos"] or next((t for t in BOS_NAMES if t in special), None),
        eos=named["eos"] or next((t for t in EOS_NAMES if t in special), None),
        stops=() if named["eot"] is None else (named["eot"],),
        chat_template=template if isinstance(template, str) else None,
        tool_template=for_tools if isinstance(for_tools, str) else None,
        config={role: token for role, token in config.items() if token is not None},
    )
    return Tokenizer(text, roles, where)


def _read_bytes(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{file}: {file.stat().st_size} bytes (limit {MAX_FILE_BYTES})")
        return file.read_bytes()
    except OSError as fault:
        raise InputError(f"{file}: {fault.strerror or fault}") from fault


def _read_text(file: Path) -> str:
    try:
        return _read_bytes(file).decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InputError(f"{file}: not UTF-8 at byte {fault.start}") from fault


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(_read_text(file))
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{file}: not JSON: {fault}") from fault
    if not isinstance(value, dict):
        raise InputError(f"{file}: {type(value).__name__} where a JSON object was expected")
    return value
