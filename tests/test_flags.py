"""Every flag of every command: changing it changes what the command does, or is refused."""

from __future__ import annotations

import contextlib
import importlib
import json
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from bad_records import BAD, GOOD
from flag_cases import BASE, CASES, ELSEWHERE, EVERYWHERE, NO_EFFECT, UNITS, Case
from in_process import run_here
from llmtools.cli import COMMANDS
from llmtools.formats.gguf import GGUFFile
from llmtools.formats.manifest import KEY
from llmtools.formats.tensor_header import read_header
from llmtools.model import Decoder, config_from_hf, save_model
from support import run_llm
from tiny_chat import save_base, write_chats
from tiny_evals import write_questions
from tiny_fasttext import write_model
from tiny_packed import CONFIG, write_config, write_packed
from toy_tokenizer import save_toy, toy_chat_tokenizer, toy_tokenizer

THERE = b"this was here before"
# What describes a run, and holds its time and its settings themselves.
ABOUT = ("manifest.json", "run.toml", "settings.toml")


def lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def letters(number: int) -> str:
    """A number without digits, which dedup takes for all the same."""
    return chr(97 + number // 26) + chr(97 + number % 26)


def write_texts(folder: Path) -> None:
    """Documents: some for filter's thresholds, near duplicates, plain ones, malformed ones."""
    names = "alder birch cedar dogwood elm fir gum hazel ivy juniper kauri larch maple oak".split()
    bodies = [" ".join(f"b{letters(n)}{letters(i)}" for i in range(40)) for n in range(8)]
    varied = [" ".join(f"word{i}" for i in range(n)) + "." for n in (3, 10, 15, 30)]
    varied += [
        # One paragraph, one line and one phrase of many come twice; one sign among many words.
        "\n\n".join(f"paragraph {n} tells of {name} trees" for n, name in enumerate(names))
        + "\n\nparagraph 3 tells of dogwood trees",
        "\n".join(f"line {n} is of {name} wood" for n, name in enumerate(names))
        + "\nline 3 is of dogwood wood",
        " ".join(f"a{n} b{n} c{n}" for n in range(60)) + " a1 b1 c1 a2 b2 c2 a3 b3 c3",
        "# " + " ".join(f"token{n}" for n in range(40)),
    ]
    lines(
        folder / "varied.jsonl",
        [
            {"id": f"v{n}", "other": f"o{n}", "text": text, "body": bodies[n]}
            for n, text in enumerate(varied)
        ],
    )
    # Lines of every kind that filter's rules on lines know.
    shapes = [
        "- one item of three\nplain words without an end\nand more words that go on...",
        "The first sentence [1] is here. The second one follows it.\nJavaScript is in this line.",
        "Lorem ipsum is in this line.\nA line that stays as it is.",
        "A brace { is in this line.\nA line that stays as it is.",
        "Read our privacy policy before that.\nTwo words.\nA line that stays as it is.",
        "1 2 3 4 5 6 7 8 9 of the numbers",
        "A line of some length comes twice.\nA line of some length comes twice.\nshort\nshort",
    ]
    lines(folder / "shapes.jsonl", [{"id": f"s{n}", "text": t} for n, t in enumerate(shapes)])
    hosts = ("plain.example", "a.blocked.example", "x.example/ant-bee", "x.example/antbeecat")
    pages = [
        {"id": f"p{n}", "text": text, "other": "http://a.blocked.example", "url": f"http://{host}"}
        for n, (host, text) in enumerate(
            zip(hosts, ("no", "an ant", "antics", "none"), strict=True)
        )
    ]
    lines(folder / "pages.jsonl", pages)
    (folder / "blocked.txt").write_text("# domains\nblocked.example\n")
    (folder / "urls.txt").write_text("http://plain.example\n")
    (folder / "tlds.txt").write_text("http\nblocked\n")
    (folder / "words.txt").write_text("ant\nbee\n")
    cut = [
        "Number 1 of a line that is long enough. A second sentence. The third one. A fourth.",
        "Number 2 of a line that is long enough. A second sentence. Another one. A fourth.",
        "Number 3 of a line that is long enough.\nA line alone.\nNUMBER 4 OF A line alone.",
        "number 5 of a line that is long enough.\nA line alone.\nIt is here by itself.",
        "A second sentence. The third one. A fourth. And then something else altogether.",
    ]
    lines(folder / "cut.jsonl", [{"id": f"c{n}", "text": text} for n, text in enumerate(cut)])
    angles = np.arange(80) * 0.17
    np.save(folder / "vectors.npy", np.stack([np.cos(angles), np.sin(angles)], axis=1))
    # Pairs whose shingles agree in 0.6 to 0.9: whether they share a bucket depends on the hashes.
    near = []
    for pair in range(40):
        words = [f"p{letters(pair)}x{letters(i)}" for i in range(60)]
        for copy in range(2):
            changed = range(5, 60, 60 // (1 + pair % 4)) if copy else range(0)
            own = [f"new{letters(i)}" if i in changed else w for i, w in enumerate(words)]
            name = f"{pair}-{copy}"
            text = " ".join(own)
            body = f"{letters(pair)} alone"
            near.append({"id": f"n{name}", "other": f"o{name}", "text": text, "body": body})
    lines(folder / "near.jsonl", near)
    docs = [
        {
            "id": f"d{n}",
            "other": f"o{n}",
            "text": f"The capital of land{n} is city{n}, it's 12345 o'clock.<|endoftext|> Yes!",
            "body": f"Another text, number {n}: Rome and Paris, and Paris and Rome.",
        }
        for n in range(8)
    ]
    lines(folder / "docs.jsonl", docs)
    lines(folder / "more.jsonl", docs[:3])
    rated = [
        {"text": text, "label": n % 2, "other": n < 3} for n, text in enumerate([*varied, *bodies])
    ]
    lines(folder / "rated.jsonl", rated)
    (folder / "bad.jsonl").write_bytes(b"\n".join([*GOOD, *list(BAD.values())[:3]]) + b"\n")


def save_speaker(folder: Path, says: int) -> None:
    """A model whose likeliest token is always the same."""
    tokenizer = toy_tokenizer()
    values = CONFIG | {
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    decoder = Decoder(config_from_hf(values, "test"))
    decoder.initialize(seed=0)
    with torch.no_grad():
        decoder.model.embed_tokens.weight.abs_()
        for block in decoder.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        assert decoder.lm_head is not None
        decoder.lm_head.weight.zero_()
        decoder.lm_head.weight[says] = 1.0
    folder.mkdir()
    save_model(folder, decoder)
    tokenizer.save(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the command lines name."""
    folder = tmp_path_factory.mktemp("flags")
    write_texts(folder)
    save_toy(folder / "tok.json")
    save_toy(folder / "other.json", pattern="gpt4")
    tokenizer = toy_tokenizer()
    save_base(folder / "base")
    write_model(folder / "lid.bin", minn=2, maxn=4)
    write_model(folder / "other.bin", minn=2, maxn=4, seed=2)
    save_speaker(folder / "talker", tokenizer.encode(" ")[0])
    save_speaker(folder / "mute", tokenizer.eos_id or 0)
    small = Decoder(config_from_hf(CONFIG, "test"))
    small.initialize(seed=5)
    (folder / "small").mkdir()
    save_model(folder / "small", small)
    save_base(folder / "chatty", initializer_range=0.5)
    toy_chat_tokenizer().save(folder / "chatty")
    write_chats(folder / "chat.jsonl")
    write_packed(folder / "rows")
    write_config(folder / "config.json")
    write_config(folder / "wide.json", intermediate_size=64)
    run_here("tokenize", "docs.jsonl", "-t", "tok.json", "-o", "t.safetensors", cwd=folder)
    for source, name in (("docs.jsonl", "lm"), ("varied.jsonl", "other-lm")):
        for ending in ("safetensors", "arpa"):
            line = ("scorer", "train", source, "--order", "2", "-o", f"{name}.{ending}")
            run_here(*line, cwd=folder)
    for seed in range(2):
        drawn = np.random.default_rng(seed).normal(size=(16, 3))
        np.save(folder / f"v{seed}.npy", drawn.astype(np.float32))
    line = ("--kind", "regression", "--encoder", "base", "-o", "rating.safetensors")
    run_here("scorer", "train", "rated.jsonl", *line, cwd=folder)
    tree = folder / "tree"
    tree.mkdir()
    (tree / "a.py").write_text("print('a')\n")
    (tree / "b.txt").write_text("hi")
    (tree / "c.txt").write_bytes(b"\xff\xfe not text")
    (folder / "list.txt").write_text("tree/b.txt\n")
    (folder / "evals").mkdir()
    for name, shift in (("hellaswag_val.jsonl", 0), ("other.jsonl", 1)):
        write_questions(folder / "evals" / name, shift)
    asked = ("--tasks", "hellaswag", "--data", "evals/hellaswag_val.jsonl", "-o", "half")
    run_here("eval", "base", *asked, cwd=folder)
    (folder / "half" / "results.json").unlink()
    (folder / "keys.txt").write_text("a-long-secret\n")
    return folder


def content_of(file: Path) -> object:
    """What a file holds, without ids of manifests and times, which say what was asked for."""
    if file.read_bytes() == THERE:
        return THERE
    if file.suffix == ".safetensors":
        parts = []
        with open(file, "rb") as source:
            while (header := read_header(source, str(file))) is not None:
                about = {k: v for k, v in header.metadata.items() if k != KEY}
                names = [(e.name, e.dtype, e.shape) for e in header.tensors.values()]
                parts.append((about, names, source.read(header.data_bytes)))
        return parts
    if file.suffix == ".gguf":
        gguf = GGUFFile(file)
        return [(name, t.type_name, gguf.raw(name).tobytes()) for name, t in gguf.tensors.items()]
    if file.name == "results.json":
        value = json.loads(file.read_text())
        return value["results"], [task["prompt_hash"] for task in value["tasks"].values()]
    if file.name == "metrics.jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return [{k: v for k, v in row.items() if k != "tokens_per_s"} for row in rows]
    return file.read_bytes()


def answer_of(stdout: bytes) -> object:
    """stdout, without the times of a plan and of an answer."""
    try:
        value = json.loads(stdout)
    except ValueError:
        return b"\n".join(line for line in stdout.splitlines() if not line.startswith(b"  time"))
    if isinstance(value, dict):
        value.pop("timings", None)
    return value


def fake_serve(service: Any, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """What the server would have been started with, instead of starting it."""
    limits = service.model.engine.limits
    print(service.name, len(service.api_keys), limits.max_batch)
    on_ready()


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of threads that commands ask torch for; and servers end where they would begin."""
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr("llmtools.server.serve.serve", fake_serve)
    return asked


@contextlib.contextmanager
def a_taken_port(line: str) -> Iterator[str]:
    """The word `taken` in a command line as the number of a port that is in use."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield line.replace(" taken", f" {holder.getsockname()[1]}")


def outcome(place: Path, folder: Path, case: Case, line: str) -> dict[str, Any]:
    """All that a command line does in a folder of its own."""
    folder.mkdir()
    for entry in place.iterdir():
        (folder / entry.name).symlink_to(entry)
    own = set(folder.iterdir())
    with a_taken_port(line) as words:
        parts = shlex.split(words)
        if case.existing:
            there = folder / next((p for p in parts if p.startswith("out")), "out")
            if case.existing == "directory":
                there.mkdir()
                there /= "old"
            there.write_bytes(THERE)
        if case.after:
            assert run_here(*shlex.split(case.after), cwd=folder).returncode == 0
        stdin = b'{"prompt": "The capital"}\n' if "--jsonl" in parts else b""
        done = run_here(*parts, stdin=stdin, cwd=folder)
    files = sorted(
        file
        for top in set(folder.iterdir()) - own
        for file in ([top] if top.is_file() else top.rglob("*"))
        if file.is_file() and not file.name.endswith(ABOUT)
    )
    return {
        "code": done.returncode,
        "stdout": answer_of(done.stdout),
        "files": {str(file.relative_to(folder)): content_of(file) for file in files},
        "stderr": done.stderr.decode(),
    }


def result(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "stderr"}


ALL = [(command, flag) for command, flags in CASES.items() for flag in flags]


@pytest.mark.parametrize(("command", "flag"), ALL, ids=lambda value: value.replace(" ", "-"))
def test_changing_a_flag_changes_the_result_or_is_refused(
    command: str, flag: str, place: Path, tmp_path: Path, observed: list[int]
) -> None:
    case = CASES[command][flag]
    base = case.base or BASE[command]
    changed = outcome(place, tmp_path / "changed", case, case.instead or f"{base} {case.added}")
    assert "internal error" not in changed["stderr"]
    if case.watch == "threads":
        assert 3 in observed, changed["stderr"]
        return
    if case.refused is not None:
        code, mention = case.refused
        assert (changed["code"], mention in changed["stderr"]) == (code, True), changed["stderr"]
        before = outcome(place, tmp_path / "base", case, base)
        assert before["code"] == 0, before["stderr"]
        return
    assert changed["code"] == 0, changed["stderr"]
    before = outcome(place, tmp_path / "base", case, base)
    if case.watch == "stderr":
        assert before["stderr"] != changed["stderr"]
    else:
        assert result(before) != result(changed)


@pytest.mark.parametrize("command", [c for c in BASE if c != "serve"])
def test_the_same_line_twice_gives_the_same_result(command, place, tmp_path, observed):
    """So a difference in the test above is the flag's doing."""
    runs = [outcome(place, tmp_path / n, Case(), BASE[command]) for n in "ab"]
    assert runs[0]["code"] == 0, runs[0]["stderr"]
    assert result(runs[0]) == result(runs[1])


@cache
def options_of(command: str) -> dict[str, list[str]]:
    """The options of a command, from its parser: long name -> all names."""
    name, _, verb = command.partition(" ")
    module = importlib.import_module(f"llmtools.commands.{COMMANDS[name].module}")
    parser: Any = typer.main.get_command(module.apps[verb] if verb else module.app)
    options = [o for o in parser.params if o.param_type_name == "option"]
    return {max(o.opts, key=len): [*o.opts, *o.secondary_opts] for o in options}


def all_commands() -> list[str]:
    return [f"{n} {v}".strip() for n, c in COMMANDS.items() for v in (c.verbs or ("",))]


@pytest.mark.parametrize("command", all_commands())
def test_every_flag_has_a_case_and_every_case_a_flag(command):
    options = options_of(command)
    own = options.keys() - EVERYWHERE
    assert options.keys() >= EVERYWHERE
    folder = Path(__file__).parent
    if command not in ELSEWHERE:
        units = own & UNITS if "--workers" in own else set()
        assert own - units == CASES[command].keys()
        files = ("test_workers.py", "test_executors.py")
        text = "".join((folder / "commands" / name).read_text() for name in files)
        assert {flag for flag in units if f'"{flag}"' in text} == units
        return
    text = "".join((folder / name).read_text() for name in ELSEWHERE[command].split())
    used = {flag for flag in own if any(f'"{name}"' in text for name in options[flag])}
    assert used == own


def test_no_case_is_left_of_a_command_that_is_gone():
    assert {*CASES, *ELSEWHERE} == set(all_commands())
    assert BASE.keys() == CASES.keys()


def test_a_flag_without_effect_is_found(place, tmp_path, observed):
    """The check itself: a flag that changes nothing (a default said aloud) gives equal results."""
    case = Case("--learning-rate 6e-4")
    line = BASE["pretrain"]
    runs = [
        outcome(place, tmp_path / name, case, words)
        for name, words in (("a", line), ("b", f"{line} {case.added}"))
    ]
    assert result(runs[0]) == result(runs[1])


@pytest.mark.parametrize("name", NO_EFFECT)
def test_a_setting_that_cannot_have_an_effect_is_an_error_or_a_warning(
    name, place, tmp_path, observed
):
    line, code, said = NO_EFFECT[name]
    found = outcome(place, tmp_path / "run", Case(), line)
    assert (found["code"], said in found["stderr"]) == (code, True), found["stderr"]


@pytest.mark.parametrize("command", BASE)
def test_the_flags_of_every_command_have_an_effect_in_each(command, place, tmp_path, observed):
    base = BASE[command]
    plain = outcome(place, tmp_path / "plain", Case(), base)
    quiet = outcome(place, tmp_path / "quiet", Case(), f"{base} --quiet")
    verbose = outcome(place, tmp_path / "verbose", Case(), f"{base} --verbose")
    assert plain["code"] == quiet["code"] == verbose["code"] == 0
    assert len(verbose["stderr"].splitlines()) > len(plain["stderr"].splitlines())
    if command not in ("eval", "generate"):
        assert len(quiet["stderr"].splitlines()) < len(plain["stderr"].splitlines())
    if command != "serve":
        known = base.removesuffix(" --json")
        report = outcome(place, tmp_path / "json", Case(), f"{known} --json")
        assert isinstance(report["stdout"], dict)
    shown = outcome(place, tmp_path / "shown", Case(), f"{base} --show-config")
    assert shown["code"] == 0 and shown["files"] == {}
    (tmp_path / "wrong.toml").write_text("[nothing]\nx = 1\n")
    settings = shlex.quote(str(tmp_path / "wrong.toml"))
    refused = outcome(place, tmp_path / "config", Case(), f"{base} --config {settings}")
    assert refused["code"] == 2 and "nothing" in refused["stderr"]


def test_a_run_in_the_tests_process_equals_one_of_its_own(place, tmp_path):
    line = ["dedup", str(place / "near.jsonl"), "--rejects"]
    here = run_here(*line, tmp_path / "a")
    there = run_llm(*line, tmp_path / "b")
    assert (here.returncode, here.stdout) == (there.returncode, there.stdout)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sys.stdout is not None
