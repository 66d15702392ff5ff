"""Settings: flags, then environment, then files; every mistake in one report; --show-config."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from llmtools import cli
from support import assert_user_error, run_llm


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "config" / "llmtools").mkdir(parents=True)
    return tmp_path


def shown(home: Path, *args: str, **env: str) -> dict[str, Any]:
    done = run_llm("dedup", *args, "--show-config", cwd=home, env=environment(home, env))
    table: dict[str, Any] = tomllib.loads(done.stdout.decode())["dedup"]
    return table


def environment(home: Path, more: dict[str, str] | None = None) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(home / "config"), **(more or {})}


def user(home: Path, text: str) -> None:
    (home / "config" / "llmtools" / "config.toml").write_text(text)


def test_flags_win_over_environment_over_project_over_user(home: Path) -> None:
    assert shown(home)["seed"] == 1
    user(home, "[dedup]\nseed = 2\nn-grams = 9\n")
    assert shown(home)["seed"] == 2
    (home / "llmtools.toml").write_text("[dedup]\nseed = 3\n")
    assert shown(home)["seed"] == 3
    assert shown(home, LLMTOOLS_SEED="4")["seed"] == 4
    found = shown(home, "--seed", "5", LLMTOOLS_SEED="4")
    assert (found["seed"], found["n-grams"]) == (5, 9)


def test_a_named_file_stands_in_place_of_the_projects(home: Path) -> None:
    (home / "llmtools.toml").write_text("[dedup]\nseed = 3\nn-grams = 7\n")
    (home / "own.toml").write_text("[dedup]\nseed = 6\n")
    found = shown(home, "--config", "own.toml")
    assert (found["seed"], found.get("n-grams")) == (6, None)
    assert shown(home, LLMTOOLS_CONFIG="own.toml")["seed"] == 6
    done = run_llm("dedup", "--config", "none.toml", cwd=home, check=False)
    assert_user_error(done, 2, "--config none.toml")


def test_origins_are_told_and_the_output_is_read_back(home: Path) -> None:
    (home / "llmtools.toml").write_text("[dedup]\nnum_buckets = 3\n")
    args = ("dedup", "--seed", "8", "--show-config")
    text = run_llm(*args, cwd=home, env={"LLMTOOLS_ID_KEY": "url"}).stdout.decode()
    assert "seed = 8  # flag\n" in text
    assert 'id-key = "url"  # environment LLMTOOLS_ID_KEY\n' in text
    assert "num-buckets = 3  # llmtools.toml [dedup]\n" in text
    assert "max-distance = 3  # default\n" in text
    (home / "back.toml").write_text(text)
    again = run_llm("dedup", "--config", "back.toml", "--show-config", cwd=home).stdout.decode()
    assert tomllib.loads(again) == tomllib.loads(text)


@pytest.mark.parametrize(
    "words", [[n, v] for n, c in cli.COMMANDS.items() for v in c.verbs or ("",)], ids="-".join
)
def test_every_commands_settings_are_shown_and_read_back(home: Path, words: list[str]) -> None:
    words = [word for word in words if word]
    text = run_llm(*words, "--show-config", cwd=home).stdout.decode()
    (home / "back.toml").write_text(text)
    again = run_llm(*words, "--config", "back.toml", "--show-config", cwd=home).stdout.decode()
    assert tomllib.loads(again) == tomllib.loads(text) != {}


def test_settings_change_what_a_command_does(home: Path) -> None:
    (home / "docs.jsonl").write_text('{"body": "a b c"}\n{"body": "a b c"}\n{"body": "d"}\n')
    (home / "llmtools.toml").write_text('[dedup]\ntext-key = "body"\noutput = "out.jsonl"\n')
    run_llm("dedup", "docs.jsonl", cwd=home)
    assert len((home / "out.jsonl").read_text().splitlines()) == 2
    (home / "llmtools.toml").write_text("[tokenizer.train]\nvocab-size = 300\n")
    run_llm("tokenizer", "train", "docs.jsonl", "--text-key", "body", "-o", "t.json", cwd=home)


def test_lists_and_switches_come_from_files_and_environment(home: Path) -> None:
    (home / "site").mkdir()
    for name in ("a.py", "b.md", "c.txt"):
        (home / "site" / name).write_text("text of " + name)
    (home / "llmtools.toml").write_text('[extract]\ninclude = ["*.py", "*.md"]\nquiet = true\n')
    done = run_llm("extract", "site", cwd=home)
    assert done.stdout.count(b"\n") == 2 and done.stderr == b""
    done = run_llm("extract", "site", cwd=home, env={"LLMTOOLS_QUIET": "no"})
    assert b"2 documents" in done.stderr


def test_all_mistakes_are_in_one_report_with_the_nearest_names(home: Path) -> None:
    user(home, "[pack]\nsed = 1\n[filtr]\nx = 1\n")
    (home / "llmtools.toml").write_text(
        "[pack]\nstrategy = 5\nseq_len = true\nshow-config = true\n"
    )
    done = run_llm(
        *("pack", "a", "--tokeniser", "x", "--text-key"),
        cwd=home,
        env=environment(home, {"LLMTOOLS_FORCE": "1"}),
        check=False,
    )
    assert_user_error(
        done,
        2,
        *("9 mistakes", "llm pack --help", "'--tokeniser'; did you mean '--tokenizer'?"),
        *("'--text-key' requires an argument", "no command 'filtr'; did you mean 'filter'?"),
        *("no setting 'sed'", "llmtools.toml [pack]: invalid value for '--strategy'"),
        *("seq-len is True, not a number or a string", "[pack]: invalid value for"),
        "[pack]: --show-config works on the command line alone",
        "LLMTOOLS_FORCE: --force works on the command line alone",
    )


@pytest.mark.parametrize("text", ["[dedup", "dedup = 5", "\x00", "[dedup]\nseed = {}"])
def test_a_malformed_file_is_named(home: Path, text: str) -> None:
    (home / "llmtools.toml").write_text(text)
    done = run_llm("dedup", "none.jsonl", cwd=home, check=False)
    assert_user_error(done, 2, "llmtools.toml")


def test_help_is_shown_whatever_else_is_wrong(home: Path) -> None:
    (home / "llmtools.toml").write_text("[dedup")
    assert b"Examples:" in run_llm("dedup", "--bogus", "--help", cwd=home).stdout


def test_a_verb_is_suggested() -> None:
    done = run_llm("tokenizer", "trian", check=False)
    assert_user_error(done, 2, "trian", "train")
