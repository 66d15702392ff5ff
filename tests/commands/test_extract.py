from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support import assert_user_error, run_llm


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    files = {
        "b.py": b"print('b')\n",
        "a/z.md": "# é\r\n".encode(),
        "a-c.txt": b"\xef\xbb\xbfbyte order mark",
        "a/deep/er/x.unknown": b"x",
        "Makefile": b"all:\n",
        "binary.bin": b"\x00\x01",
        "latin1.txt": b"caf\xe9",
        "empty.txt": b" \n",
        "large.txt": b"y" * 3000,
        ".git/config": b"hidden",
        ".env": b"hidden",
        "node_modules/m.js": b"m()",
    }
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "loop").symlink_to(root)
    (root / "link.py").symlink_to(root / "b.py")
    (root / "dangling").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe")
    return root


def documents(*args: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run_llm("extract", *args).stdout.splitlines()]


def test_a_tree_becomes_documents_sorted_by_path(tree: Path) -> None:
    found = documents(tree, "--max-bytes", "2000", "--exclude", "node_modules")
    assert found == [
        {
            "id": "Makefile",
            "text": "all:\n",
            "metadata": {"path": "Makefile", "language": "make", "bytes": 5},
        },
        {
            "id": "a-c.txt",
            "text": "byte order mark",
            "metadata": {"path": "a-c.txt", "language": "text", "bytes": 18},
        },
        {
            "id": "a/deep/er/x.unknown",
            "text": "x",
            "metadata": {"path": "a/deep/er/x.unknown", "bytes": 1},
        },
        {
            "id": "a/z.md",
            "text": "# é\r\n",
            "metadata": {"path": "a/z.md", "language": "markdown", "bytes": 6},
        },
        {
            "id": "b.py",
            "text": "print('b')\n",
            "metadata": {"path": "b.py", "language": "python", "bytes": 11},
        },
    ]


def test_what_is_skipped_is_counted_by_reason(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    flags = ["--max-bytes", "2000", "--exclude", "node_modules", "-o", str(out), "--json"]
    report = json.loads(run_llm("extract", tree, *flags).stdout)
    assert report == {
        "documents": 5,
        "bytes": 41,
        "skipped": {
            "symbolic link": 3,
            "hidden": 2,
            "excluded": 1,
            "binary (NUL byte)": 1,
            "empty": 1,
            "larger than --max-bytes": 1,
            "not UTF-8": 1,
            "not a regular file": 1,
        },
    }
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_bytes())
    assert manifest["counts"] == report
    assert manifest["inputs"][0]["files"] == 5


def test_globs_choose_by_name_or_by_path(tree: Path) -> None:
    def ids(*flags: str) -> list[str]:
        return [d["id"] for d in documents(tree, *flags)]

    assert ids("--include", "*.py", "--include", "*.md") == ["a/z.md", "b.py"]
    assert ids("--include", "a/*") == ["a/deep/er/x.unknown", "a/z.md"]
    assert ids("--include", "a/*", "--exclude", "a/deep/") == ["a/z.md"]


def test_several_arguments_do_not_share_ids(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.py").write_bytes(b"other")
    done = run_llm("extract", "tree", "./other/", "tree/a/z.md", cwd=tmp_path)
    ids = [json.loads(line)["id"] for line in done.stdout.splitlines()]
    assert ids[-2:] == ["other/b.py", "tree/a/z.md"]
    assert "tree/b.py" in ids
    assert [d["id"] for d in documents(tree / "b.py")] == ["b.py"]
    done = run_llm("extract", "tree/*.py", cwd=tmp_path)
    ids = [json.loads(line)["id"] for line in done.stdout.splitlines()]
    assert ids == ["tree/b.py", "tree/link.py"]


def test_output_inside_the_tree_is_not_read(tree: Path) -> None:
    run_llm("extract", tree, "--include", "*.py", "-o", tree / "out.py")
    assert (tree / "out.py").read_bytes().count(b"\n") == 1


def test_an_empty_result_is_an_error_that_counts_reasons(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = run_llm("extract", tree, "--include", "*.bin", "-o", out, check=False)
    assert_user_error(done, 3, str(tree), "no text file", "binary (NUL byte): 1")
    assert not out.exists()


def test_arguments_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert_user_error(run_llm("extract", tmp_path / "no", check=False), 3, "no such file")
    assert_user_error(run_llm("extract", "-", check=False), 2, "stdin")
    assert_user_error(run_llm("extract", check=False), 2, "PATH")
    existing = tmp_path / "out.jsonl"
    existing.write_bytes(b"mine")
    done = run_llm("extract", tmp_path, "-o", existing, check=False)
    assert_user_error(done, 2, "out.jsonl", "-f")


def test_a_file_name_that_is_not_utf8_does_not_stop_the_walk(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "names")
    os.mkdir(folder)
    with open(folder + b"/bad\xff.txt", "wb") as file:
        file.write(b"text")
    assert documents(os.fsdecode(folder))[0]["id"] == "bad\ufffd.txt"


def test_the_three_data_commands_make_a_pipe(tree: Path) -> None:
    (tree / "copy.py").write_bytes((tree / "b.py").read_bytes())
    extracted = run_llm("extract", tree).stdout
    kept = run_llm("filter", "--min-doc-words", "1", stdin=extracted).stdout
    unique = run_llm("dedup", stdin=kept).stdout
    assert b'"copy.py"' in kept and b'"copy.py"' not in unique
