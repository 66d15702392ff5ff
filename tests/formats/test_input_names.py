"""What names of inputs and outputs stand for, and which are refused or mentioned."""

from __future__ import annotations

import pytest

from llmtools.errors import UsageError
from llmtools.formats.input_names import expand_inputs
from llmtools.formats.output import check_output


def test_data_that_is_not_read_is_mentioned_once(tmp_path, capsys):
    for name in ("a.jsonl", "b.parquet", "c.arrow", "d.csv", "README.md"):
        (tmp_path / name).write_bytes(b"")
    for _ in range(2):
        found = expand_inputs([str(tmp_path)])
        assert found == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.parquet")]
    (line,) = capsys.readouterr().err.splitlines()
    assert "passes over 1 .arrow, 1 .csv" in line


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl.xz"])
def test_an_output_named_like_what_is_never_written_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="writes no"):
        check_output(str(tmp_path / name), force=True)
