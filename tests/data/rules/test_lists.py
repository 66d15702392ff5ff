"""Files of entries, one a line, that rules are given."""

from __future__ import annotations

import bz2
import gzip

import pytest

from llmtools.data.rules.url import read_entries
from llmtools.errors import InputError


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_lists_may_be_compressed(suffix, pack, tmp_path) -> None:
    path = tmp_path / f"list.txt{suffix}"
    path.write_bytes(pack("\n# note\r\n évil.example \r\nother".encode()))
    assert list(read_entries(str(path))) == ["évil.example", "other"]


def test_a_list_that_is_not_utf_8_names_the_line(tmp_path) -> None:
    (tmp_path / "list.txt").write_bytes(b"fine\n\xff\n")
    with pytest.raises(InputError, match=r"list.txt:2: not UTF-8"):
        list(read_entries(str(tmp_path / "list.txt")))
