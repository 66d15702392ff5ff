"""Completion scripts: bash really completes; zsh and fish hold every command and option."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from llmtools.cli import COMMANDS
from llmtools.commands.completion import parsers
from support import run_llm

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (folder / shell).write_bytes(run_llm("completion", shell).stdout)
    return {shell: folder / shell for shell in SHELLS}


def complete(script: Path, *words: str) -> list[str]:
    """What bash offers for the last of some words."""
    typed = " ".join(f"'{word}'" for word in words)
    code = (
        f"source {script}; COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1));"
        ' _llm; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_verbs_options_and_choices(scripts: dict[str, Path]) -> None:
    bash = scripts["bash"]
    assert complete(bash, "llm", "de") == ["dedup", "detokenize"]
    assert set(COMMANDS) <= set(complete(bash, "llm", ""))
    assert complete(bash, "llm", "tokenizer", "t") == ["train"]
    assert complete(bash, "llm", "tokenizer", "train", "--vo") == ["--vocab-size"]
    assert complete(bash, "llm", "dedup", "--hash") == ["--hashes-per-bucket"]
    assert complete(bash, "llm", "pretrain", "x", "--lr-schedule", "") == ["cosine", "linear"]
    assert complete(bash, "llm", "--progress", "never", "-q", "dedup", "--n-") == ["--n-grams"]
    # Values and arguments are files: nothing of ours is offered.
    assert complete(bash, "llm", "dedup", "-o", "") == []
    assert complete(bash, "llm", "dedup", "") == []
    assert complete(bash, "llm", "dedup", "--nothing") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_valid_and_holds_every_command_and_option(
    scripts: dict[str, Path], shell: str
) -> None:
    text = scripts[shell].read_text()
    for words, _, options in parsers():
        assert words[0] in text
        for option in options:
            for flag in option.flags:
                named = {"-" * 2: f"-l {flag[2:]}", "-": f"-s {flag[1:]}"}
                fish = named["--" if flag.startswith("--") else "-"]
                assert (fish if shell == "fish" else flag) in text, (words, flag)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; its script was compared as text alone")
    subprocess.run([shell, "-n", str(scripts[shell])], check=True)


def test_quotes_in_help_stay_inside_their_word(scripts: dict[str, Path]) -> None:
    # "An adapter's base model" is in several helps; zsh's syntax of quotes is bash's.
    for shell in ("bash", "zsh"):
        subprocess.run(["bash", "-n", str(scripts[shell])], check=True)
