"""The root command: help, start-up, global flags, exit codes, pipes."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from llmtools.cli import COMMANDS, GROUPS
from llmtools.commands.common import resolve_values
from support import LLM, assert_user_error, run_llm

HEAVY = ("typer", "rich", "numpy", "torch", "tokenizers", "numba", "orjson")


def modules_loaded_by(*args: str) -> set[str]:
    code = (
        "import sys\nfrom llmtools.cli import run\n"
        "try:\n    run(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    return {name.split(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize("flag", ["--help", "-h", "--version"])
def test_root_help_and_version_load_the_standard_library_only(flag):
    assert modules_loaded_by(flag).isdisjoint(HEAVY)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_has_two_examples_and_never_loads_torch(name):
    words = [name, *list(COMMANDS[name].verbs)[:1]]
    done = run_llm(*words, "--help")
    text = done.stdout.decode()
    examples = text.split("Examples:")[1].split("Options:")[0]
    assert examples.count(f"llm {' '.join(words)}") >= 2, text
    assert done.stderr == b""
    assert modules_loaded_by(*words, "--help").isdisjoint({"torch", "rich"})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_a_command_line_that_the_parser_takes(name):
    words = [name, *list(COMMANDS[name].verbs)[:1]]
    text = run_llm(*words, "--help", env={"COLUMNS": "200"}).stdout.decode()
    lines = text.split("Examples:")[1].split("Options:")[0].split("Arguments:")[0].splitlines()
    examples = [line.strip() for line in lines if line.strip()]
    assert len(examples) >= 2
    for example in examples:
        lexer = shlex.shlex(example, posix=True, punctuation_chars="|<>")
        lexer.whitespace_split = True
        tokens = list(lexer)
        stages: list[list[str]] = [[]]
        redirected = False
        for token in tokens:
            if token == "|":
                stages.append([])
            elif token in "<>":
                redirected = True
            elif not redirected:
                stages[-1].append(token)
            else:
                redirected = False
        for stage in stages:
            if stage[0] != "llm":
                continue
            row = COMMANDS[stage[1]]
            verb = stage[2] if row.verbs else None
            resolve_values(stage[1], verb, stage[3 if row.verbs else 2 :])


def test_root_help_lists_every_command_in_its_group():
    text = run_llm("--help").stdout.decode()
    for name, command in COMMANDS.items():
        assert command.group in GROUPS
        assert f"  {name}" in text and command.summary in text


def test_without_a_command_the_help_goes_to_stderr():
    done = run_llm(check=False)
    assert done.returncode == 2
    assert done.stdout == b"" and b"Usage: llm COMMAND" in done.stderr


def test_an_unknown_command_is_refused_with_the_nearest_name():
    assert_user_error(run_llm("dedpu", check=False), 2, "'dedpu'", "did you mean 'dedup'?")
    assert_user_error(run_llm("--jsn", check=False), 2, "no option '--jsn'")


def test_an_unknown_option_is_refused():
    assert_user_error(run_llm("dedup", "--bogus", check=False), 2, "--bogus", "llm dedup --help")


def test_global_flags_may_stand_before_the_command(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("some text\n")
    out = tmp_path / "out.jsonl"
    done = run_llm("-q", "--json", "extract", source, "-o", out)
    json.loads(done.stdout)
    assert done.stderr == b""


def test_a_reader_that_leaves_ends_the_command_silently(tmp_path):
    source = tmp_path / "many.jsonl"
    # Different letters in every document: dedup takes all numbers for the same word.
    texts = (" ".join(hashlib.sha256(b"%d" % i).hexdigest()) for i in range(20000))
    source.write_text("".join(f'{{"id":"{i}","text":"{t}"}}\n' for i, t in enumerate(texts)))
    llm = " ".join(LLM)
    done = subprocess.run(
        ["bash", "-c", f"{llm} dedup {source} | head -1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    first, status = done.stdout.splitlines()
    assert json.loads(first)["id"] == "0"
    assert status == "141"
    assert done.stderr == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_reading_leaves_no_output(tmp_path, number, code):
    out = tmp_path / "out.jsonl"
    process = subprocess.Popen(
        [*LLM, "filter", "-", "-o", str(out)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    line = json.dumps({"id": "a", "text": "word " * 60}).encode() + b"\n"
    # Enough to fill the pipe, so that the command is past its start and reading.
    for _ in range(2000):
        process.stdin.write(line)
    process.stdin.flush()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert b"Traceback" not in stderr
    assert os.listdir(tmp_path) == []


def test_both_script_names_and_the_module_are_one_program():
    for program in ("llm", "llmtools"):
        path = os.path.join(os.path.dirname(sys.executable), program)
        done = subprocess.run([path, "--version"], capture_output=True)
        assert done.stdout == run_llm("--version").stdout
