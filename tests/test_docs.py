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


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_llm_command_in_a_shell_block_exists(page):
    for block in re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(), re.DOTALL):
        for name in re.findall(r"(?:^|\| *|; *|\$ )llm (?:-\S+ )*(\w+)", block, re.MULTILINE):
            assert name in COMMANDS, name
