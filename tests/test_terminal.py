"""What people see, and that pipes and files see none of it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from llmtools import terminal
from llmtools.errors import did_you_mean
from llmtools.terminal import format_table, human_count
from support import LLM, run_llm


def test_a_table_is_aligned_and_numbers_are_right_aligned():
    text = format_table(("name", "n"), [("a", 5), ("long name", 123)])
    assert text.splitlines() == [
        "name         n", "---------  ---", "a            5", "long name  123",
    ]  # fmt: skip
    assert format_table(("name", "n"), []).splitlines() == ["name  n", "----  -"]


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0"), (999, "999"), (1234567, "1.23M"), (2.5, "2.5"), (3e12, "3T")]
)
def test_counts_are_shown_short(n, text):
    assert human_count(n) == text


def test_only_near_names_are_suggested():
    assert did_you_mean("dedpu", ["dedup", "pack"]) == "; did you mean 'dedup'?"
    assert did_you_mean("xyz", ["dedup", "pack"]) == ""


def documents() -> bytes:
    words = " ".join(f"word{i}" for i in range(80))
    return b"".join(b'{"text":"%d %s"}\n' % (i, words.encode()) for i in range(500))


def test_a_pipe_sees_no_progress_and_no_colour():
    done = run_llm("dedup", stdin=documents())
    assert b"\x1b" not in done.stderr and b"\r" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_quiet_leaves_stderr_empty_and_always_prints_lines():
    assert run_llm("dedup", "-q", stdin=documents()).stderr == b""
    shown = run_llm("dedup", "--progress", "always", stdin=documents()).stderr.decode()
    assert "dedup: 500" in shown and "\r" not in shown and "\x1b" not in shown


def run_on_a_terminal(*args: str, **env: str) -> str:
    """stderr of a command whose stderr is a terminal."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*LLM, *args], stderr=child, stdin=subprocess.DEVNULL, env={**os.environ, **env}
    )
    os.close(child)
    shown = b""
    while True:
        try:
            block = os.read(parent, 4096)
        except OSError:
            # Linux reports the end of a terminal's last writer as an error.
            break
        if not block:
            break
        shown += block
    process.wait()
    os.close(parent)
    return shown.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="reads a pseudo-terminal as Linux ends it")
def test_a_terminal_sees_errors_in_colour_unless_it_says_no():
    assert "\x1b[31merror: " in run_on_a_terminal("dedup", "absent.jsonl", TERM="xterm")
    assert "\x1b" not in run_on_a_terminal("dedup", "absent.jsonl", TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in run_on_a_terminal("dedup", "absent.jsonl", TERM="dumb")
    assert "\x1b" not in run_on_a_terminal("dedup", "absent.jsonl", "--no-color", TERM="xterm")


@pytest.mark.skipif(sys.platform != "linux", reason="reads a pseudo-terminal as Linux ends it")
def test_a_terminal_sees_a_bar(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(documents())
    shown = run_on_a_terminal("dedup", str(source), "-o", str(tmp_path / "out.jsonl"), TERM="xterm")
    assert "dedup: " in shown and "\r" in shown


def test_the_display_is_process_wide_and_explicit():
    before = terminal.display()
    try:
        assert terminal.configure(quiet=True).quiet
        assert terminal.display().quiet and not before.quiet
    finally:
        terminal.configure(quiet=before.quiet)
    assert not terminal.display().quiet
