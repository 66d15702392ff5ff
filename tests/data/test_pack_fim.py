"""Fill in the middle: the parts of a document in another order, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.test_pack_rows import unpack, write_documents
from llmtools.data.encode import EncodeSettings, tokenize
from llmtools.data.pack import PackSettings, pack
from llmtools.data.pack_fim import KNOWN, FimSettings, fim_ids
from llmtools.errors import UsageError
from llmtools.formats.record import document_hash
from llmtools.tokenizer.tokenizer import SpecialRoles, Tokenizer, parse_tokenizer
from toy_tokenizer import toy_tokenizer

TEXTS = ["", "x", *(f"Document {at} has a text of its own. " * (at % 7 + 1) for at in range(200))]


def with_tokens(names: tuple[str, ...]) -> Tokenizer:
    raw = parse_tokenizer(toy_tokenizer().to_json(), "toy")
    raw.add_special_tokens(list(names))
    return Tokenizer(raw.to_str(), SpecialRoles(eos="<|endoftext|>"), "coder")


def packed_documents(folder: Path, fim: FimSettings, *, from_frames: bool) -> dict[int, list[int]]:
    """The tokens of each document, by the hash of its id, EOS left out."""
    tokenizer = with_tokens(KNOWN[0])
    name = f"{len(list(folder.iterdir()))}"
    source = write_documents(folder / f"{name}.jsonl", TEXTS)
    if from_frames:
        frames = folder / f"{name}.safetensors"
        tokenize([str(source)], str(frames), tokenizer, EncodeSettings())
        source = frames
    settings = PackSettings(seq_len=64, fim=fim)
    pack([str(source)], str(folder / name), settings, tokenizer=tokenizer)
    found: dict[int, list[int]] = {}
    for owner, token, mask in unpack(folder / name)[0]:
        assert mask == 1
        found.setdefault(owner, []).append(token)
    for ids in found.values():
        assert ids.pop() == tokenizer.eos_id
    return found


@pytest.mark.parametrize("from_frames", [False, True])
@pytest.mark.parametrize("spm_rate", [0.0, 0.5, 1.0])
def test_the_parts_put_back_are_the_document(
    tmp_path: Path, spm_rate: float, from_frames: bool
) -> None:
    tokenizer = with_tokens(KNOWN[0])
    pre, suf, mid = fim_ids(tokenizer, None)
    fim = FimSettings(rate=0.6, spm_rate=spm_rate)
    found = packed_documents(tmp_path, fim, from_frames=from_frames)
    changed = spm = inside = 0
    places = []
    for at, text in enumerate(TEXTS):
        ids = found.get(document_hash(f"d{at}"), [])
        if pre not in ids:
            assert ids == tokenizer.encode(text)
            continue
        changed += 1
        assert [ids.count(mark) for mark in (pre, suf, mid)] == [1, 1, 1]
        assert ids[0] == pre
        middle = ids[ids.index(mid) + 1 :]
        if ids[1] == suf and spm_rate:
            # Where the prefix of a PSM is empty both forms look alike, which SPM covers.
            spm += 1
            suffix, before = ids[2 : ids.index(mid)], middle
            whole = [*before, *suffix]
        else:
            prefix = ids[1 : ids.index(suf)]
            suffix = ids[ids.index(suf) + 1 : ids.index(mid)]
            whole = [*prefix, *middle, *suffix]
            places.append(len(tokenizer.decode(prefix)) / len(text))
        assert tokenizer.decode(whole) == text
        if from_frames:
            assert whole == tokenizer.encode(text)
        inside += whole != tokenizer.encode(text)
    assert 0.5 < changed / len(TEXTS) < 0.7
    assert spm == pytest.approx(spm_rate * changed, abs=0.1 * changed)
    # Between characters means in the midst of tokens, too.
    assert (inside > changed / 4) is not from_frames
    if not spm_rate:
        # The smaller of two even draws is 1/3 on average.
        assert np.mean(places) == pytest.approx(1 / 3, abs=0.07)


def test_the_seed_decides_and_rate_0_changes_nothing(tmp_path: Path) -> None:
    one = packed_documents(tmp_path, FimSettings(rate=0.5), from_frames=False)
    assert one == packed_documents(tmp_path, FimSettings(rate=0.5), from_frames=False)
    none = packed_documents(tmp_path, FimSettings(), from_frames=False)
    tokenizer = with_tokens(KNOWN[0])
    assert none[document_hash("d5")] == tokenizer.encode(TEXTS[5])
    same = [one[name] == none[name] for name in none]
    assert 0.3 < np.mean(same) < 0.7


@pytest.mark.parametrize("names", KNOWN)
def test_the_tokens_of_known_models_are_found(names: tuple[str, str, str]) -> None:
    tokenizer = with_tokens(names)
    assert fim_ids(tokenizer, None) == tuple(tokenizer.token_to_id(name) for name in names)


def test_a_tokenizer_without_such_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none of the known tokens .*--fim-tokens"):
        fim_ids(toy_tokenizer(), None)
    with pytest.raises(UsageError, match=r"no token '<\|im_strt\|>'; did you mean '<\|im_st"):
        fim_ids(toy_tokenizer(), ("<|im_end|>", "<|im_strt|>", "<|im_end|>"))
    source = write_documents(tmp_path / "d.jsonl", ["text"])
    settings = PackSettings(seq_len=8, fim=FimSettings(rate=0.5))
    with pytest.raises(UsageError, match="name the tokenizer with -t"):
        pack([str(source)], str(tmp_path / "out"), settings)
    assert not (tmp_path / "out").exists()
