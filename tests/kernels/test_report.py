"""docs/kernels.md has every kernel that there is, and the bounds that follow from their sizes."""

from __future__ import annotations

from compiled import TARGETS
from launches import CASES, MATRIX
from report import PAGE, WORK, bounds, source_digest


def test_the_page_is_of_these_kernels() -> None:
    page = PAGE.read_text("utf-8")
    assert bounds() in page and source_digest() in page, "run make kernels"
    for target in TARGETS:
        part = page.partition(f"### {target}\n")[2].partition("##")[0]
        names = [line.split(" | ")[0].removeprefix("| ") for line in part.splitlines()[3:] if line]
        assert list(dict.fromkeys(names)) == list(CASES), f"{target}: run make kernels"


def test_the_page_has_the_other_configurations_and_all_pass() -> None:
    part = PAGE.read_text("utf-8").partition("### Other configurations\n")[2].partition("##")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines()[3:] if line]
    assert [row[0] for row in rows] == list(MATRIX), "run make kernels"
    assert {status for row in rows for status in row[1:]} == {"passes", "not supported"}


def test_every_case_has_its_work() -> None:
    assert set(WORK) == set(CASES)
