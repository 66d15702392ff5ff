"""`llm inspect` on every artefact, and on what is none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmtools.errors import InputError
from llmtools.formats.describe import describe
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import open_output
from llmtools.formats.packed import PackedRow, PackedWriter
from llmtools.formats.tokens import FrameBuilder, Vocabulary, write_frame
from llmtools.quant.gguf_export import export_gguf
from llmtools.tokenizer.export import tiktoken_ranks
from llmtools.tokenizer.train import train_tokenizer
from support import assert_user_error, run_llm
from tiny_llama import save_tiny_llama
from toy_tokenizer import TEXTS

VOCABULARY = Vocabulary(tokenizer="abc", vocab_size=100, eos=1)


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_documents_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines({"id": "1", "text": "é"}, {"text": "abc", "lang": "en"})))
    found = describe(str(path))
    assert found["kind"] == "documents"
    assert (found["records"], found["bytes"]) == (2, path.stat().st_size)
    assert found["fields"] == {"text": 2, "id": 1, "lang": 1}
    assert found["text"] == {"characters": 4, "bytes": 5, "longest": 3, "mean_characters": 2.0}
    assert describe(str(tmp_path))["records"] == 2


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"messages": []}, "conversations"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preferences"),
        ({"loss": 1.0}, "records"),
        ({"text": "one"}, "documents"),
    ],
)
def test_records_are_told_by_their_fields(
    tmp_path: Path, record: dict[str, object], kind: str
) -> None:
    for name, content in [("one.jsonl", lines(record)), ("many.jsonl", lines(record) * 3)]:
        (tmp_path / name).write_bytes(content)
        assert describe(str(tmp_path / name))["kind"] == kind
    (tmp_path / "array.json").write_bytes(json.dumps([record]).encode())
    assert describe(str(tmp_path / "array.json"))["kind"] == kind


def test_token_frames_and_packed_shards(tmp_path: Path) -> None:
    builder = FrameBuilder(VOCABULARY)
    builder.add(7, np.arange(5))
    builder.add(8, np.arange(3))
    with open_output(str(tmp_path / "t.bin")) as out:
        frame = builder.take()
        write_frame(out, frame)
        write_frame(out, frame)
    found = describe(str(tmp_path / "t.bin"))
    assert found["kind"] == "token frames"
    assert (found["frames"], found["documents"], found["tokens"]) == (2, 4, 16)
    assert (found["mean_tokens"], found["longest_tokens"]) == (4.0, 5)
    assert (found["tokenizer"], found["eos"]) == ("abc", "1")

    directory = tmp_path / "packed"
    directory.mkdir()
    writer = PackedWriter(directory, seq_len=4, vocabulary=VOCABULARY)
    writer.add(
        PackedRow(
            input_ids=np.arange(5),
            segment_lengths=np.array([5], np.int32),
            segment_document_ids=np.array([7], np.uint64),
        )
    )
    writer.close()
    for place in (directory, next(directory.glob("*.safetensors"))):
        found = describe(str(place))
        assert found["kind"] == "packed shards"
        assert (found["rows"], found["seq_len"], found["tokens"]) == (1, 4, 5)


def test_models_of_all_forms(tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "model")
    found = describe(str(model))
    assert found["kind"] == "model directory"
    assert found["architecture"] == "LlamaForCausalLM"
    parameters = found["parameters"]
    assert found["types"]["F16"] == {
        "tensors": 21,
        "parameters": parameters,
        "bytes": 2 * parameters,
    }
    export_gguf(model, str(tmp_path / "a.gguf"), "Q8_0")
    found = describe(str(tmp_path / "a.gguf"))
    assert (found["kind"], found["parameters"]) == ("GGUF model", parameters)
    assert found["types"]["Q8_0"]["tensors"] == 16
    assert found["metadata"]["tokenizer.ggml.tokens"] == "[320 elements]"
    assert "characters)" in found["metadata"]["tokenizer.huggingface.json"]
    found = describe(str(model / "model.safetensors"))
    assert (found["kind"], found["parameters"]) == ("weights (safetensors)", parameters)
    found = describe(str(model / "config.json"))
    assert (found["kind"], found["config"]["hidden_size"]) == ("model config", 64)


def test_tokenizers_of_all_forms(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 300, pattern="gpt4", special_tokens=[])
    whole, ranks = tmp_path / "t.json", tmp_path / "t.gpt4.tiktoken"
    whole.write_text(tokenizer.to_json())
    ranks.write_bytes(tiktoken_ranks(tokenizer))
    found = [json.loads(run_llm("inspect", path, "--json").stdout) for path in (whole, ranks)]
    assert [one["kind"] for one in found] == ["tokenizer", "tokenizer"]
    assert [one["model"] for one in found] == ["BPE", "ranks of tiktoken"]
    for key in ("identity", "vocab_size"):
        assert found[0][key] == found[1][key] == getattr(tokenizer, key)
    (tmp_path / "t.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    assert describe(str(tmp_path / "t.model"))["model"] == "sentencepiece"


def test_an_adapter(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"a.lora_A.weight": torch.zeros(4, 8)}, tmp_path / "adapter_model.safetensors")
    found = describe(str(tmp_path))
    assert (found["kind"], found["type"], found["parameters"]) == ("adapter", "LORA", 32)


def test_a_run_shows_its_steps_and_newest_metrics(tmp_path: Path) -> None:
    for step in ("step-000010", "step-000020"):
        (tmp_path / step).mkdir()
    (tmp_path / "latest").write_text("step-000020\n")
    metrics = lines({"step": 1, "loss": 3.0, "val_loss": 4.0}, {"step": 2, "loss": 2.0})
    (tmp_path / "metrics.jsonl").write_bytes(metrics + b'{"step": 3, "lo')
    found = describe(str(tmp_path))
    assert found["kind"] == "run"
    assert found["steps"] == ["step-000010", "step-000020"]
    assert found["latest"] == "step-000020"
    assert found["last_metrics"] == {"step": 2, "loss": 2.0, "val_loss": 4.0}


def test_results_and_manifests(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"results": {"perplexity": {"nll_per_token": 1.5}}}, indent=1))
    recorder = Recorder("eval", {"limit": 3})
    recorder.count(tokens=5)
    recorder.write_beside(results)
    found = describe(str(results))
    assert found["kind"] == "results"
    assert found["results"]["perplexity"]["nll_per_token"] == 1.5
    assert found["manifest"]["counts"] == {"tokens": 5}
    assert describe(str(tmp_path / "results.json.manifest.json"))["kind"] == "manifest"


def test_the_command_prints_lines_or_one_object(tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "model")
    path = model / "tokenizer.json"
    text = run_llm("inspect", path).stdout.decode()
    assert "kind: tokenizer\n" in text and "pre_tokenizer: " in text
    found = json.loads(run_llm("inspect", path, "--json").stdout)
    assert found["kind"] == "tokenizer"
    assert len(found["identity"]) == 32
    assert found["added_tokens"] == ["<s>", "</s>"]


def test_terminal_controls_in_foreign_text_are_shown_not_sent(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"results": {}, "note": "a\x1b[31m\nb"}))
    out = run_llm("inspect", tmp_path / "results.json").stdout
    assert b"\x1b" not in out and rb"note: a\x1b[31m\nb" in out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\x7fELF" + bytes(60), "not an artefact"),
        (b"hello there", "not an artefact"),
        (b'{"a": ', "not JSON"),
        (b"GGUF\x03\0\0\0", "cut short"),
        (b"\x1f\x8b\x08rest", "decompress|truncated"),
    ],
)
def test_what_is_none_or_damaged_is_an_input_error(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "thing"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        describe(str(path))


def test_unknown_things_end_with_exit_3(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\0" * 100)
    assert_user_error(run_llm("inspect", tmp_path / "x.bin", check=False), 3, "x.bin")
    assert_user_error(run_llm("inspect", tmp_path / "absent", check=False), 3, "absent")
    (tmp_path / "empty").mkdir()
    assert_user_error(run_llm("inspect", tmp_path / "empty", check=False), 3, "empty")
