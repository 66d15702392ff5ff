"""These run in a process of their own with TRITON_INTERPRET=1; see test_interpreted.py."""

from __future__ import annotations

import os
from pathlib import Path

collect_ignore_glob: list[str] = []
if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = [path.name for path in Path(__file__).parent.glob("test_*.py")]
