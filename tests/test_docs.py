"""Prose that is executed: docs/cli.md is the program's own help, links and commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmtools.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_cli_page_is_the_programs_help():
    code = "import generate_cli, sys; sys.stdout.write(generate_cli.render())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT / "docs",
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.stdout == (ROOT / "docs" / "cli.md").read_text(), f"run make docs\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_of_the_project_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


FENCE = re.compile(r"^```(sh|bash|console)( setup)?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, bool, str]]:
    """Language, whether it is set-up that tests leave out, and text of each shell block."""
    return [(m[1], bool(m[2]), m[3]) for m in FENCE.finditer(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_llm_command_in_a_shell_block_exists(page):
    for _, _, text in blocks(page):
        for name in re.findall(r"(?:^|\| *|; *|\$ )llm (?:-\S+ )*(\w+)", text, re.MULTILINE):
            assert name in COMMANDS, name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_shell_is_fenced_as_what_it_is(page):
    for language, _, text in blocks(page):
        assert text.startswith("$ ") == (language == "console"), text


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if any(not is_setup for _, is_setup, _ in blocks(p))],
    ids=lambda p: p.name,
)
def test_the_shell_blocks_of_a_page_run_and_print_what_they_show(page, tmp_path):
    """In one folder, one after the other. In what a block shows, a number stands for any number
    and `...` for anything.
    """
    variables = tmp_path / "variables"
    variables.touch()
    (tmp_path / "work").mkdir()
    for language, is_setup, text in blocks(page):
        if is_setup:
            continue
        for command, expected in sessions(text) if language == "console" else [(text, None)]:
            # Variables that one command sets are there for the next.
            script = f"set -a -e -o pipefail; . {variables}; {command}\nexport -p > {variables}"
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=tmp_path / "work",
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}"
            if expected is not None:
                pattern = shown_as_pattern(expected)
                assert re.fullmatch(pattern, done.stdout.strip(), re.DOTALL), (
                    f"{command}\nprinted\n{done.stdout}\nbut {page.name} shows\n{expected}"
                )


def sessions(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output shown below it."""
    found: list[tuple[str, str]] = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        end = 1
        while lines[end - 1].endswith("\\"):
            end += 1
        found.append(("\n".join(lines[:end]), "\n".join(lines[end:])))
    return found


def shown_as_pattern(shown: str) -> str:
    pieces = re.split(r"(\.\.\.|\d[\d,.]*)", shown.strip())
    return "".join(
        ".*" if piece == "..." else r"\d[\d,.]*" if at % 2 else re.escape(piece)
        for at, piece in enumerate(pieces)
    )


def test_shown_output_is_compared_up_to_numbers():
    pattern = shown_as_pattern("kept 1,234 of 5 (dropped: ...)")
    assert re.fullmatch(pattern, "kept 7 of 99 (dropped: all)")
    assert not re.fullmatch(pattern, "lost 7 of 99 (dropped: all)")
