"""`llm doctor`: what this installation has and lacks."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from llmtools import __version__, terminal
from llmtools.commands.common import command, make_app
from llmtools.errors import ResourceError

app = make_app()

DISTRIBUTION = "llmtools-cli"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9.]+))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
# Any `llm` script that mentions this starts our program; other projects install an `llm` too.
_ENTRY_POINT = b"llmtools"


@command(app, "doctor", examples=["llm doctor", "llm doctor --json | jq .devices"])
def doctor() -> None:
    """Check versions, devices, extras and the PATH.

    Exits 4 when something that llm needs is missing or too old.
    """
    required, extras = _packages()
    problems = [
        f"{name} {row['version'] or 'is missing'}"
        + (f" is older than {row['minimum']}" if row["version"] else "")
        for name, row in required.items()
        if not row["ok"]
    ]
    devices, fault = _devices()
    if fault:
        problems.append(fault)
    cache = _cache()
    if not cache["writable"]:
        problems.append(f"the cache directory {cache['path']} cannot be written")
    report = {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": required,
        "devices": devices,
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "extras": extras,
        "llm_on_path": _scripts(),
        "cache": cache,
        "problems": problems,
    }
    if terminal.display().json:
        terminal.emit_json(report)
    else:
        terminal.emit_text(_text(report))
    if problems:
        raise ResourceError(
            f"{'; '.join(problems)} (pip install --upgrade {DISTRIBUTION} installs what is needed)"
        )


def _packages() -> tuple[dict[str, Any], dict[str, Any]]:
    """Required packages, and extras with what each lacks and the line that installs it."""
    required: dict[str, Any] = {}
    extras: dict[str, Any] = {}
    from importlib import metadata

    for text in metadata.requires(DISTRIBUTION) or []:
        requirement, _, marker = text.partition(";")
        match = _REQUIREMENT.match(requirement)
        if match is None or ("sys_platform" in marker and sys.platform not in marker):
            continue
        name, minimum = match.groups()
        version = _installed(name)
        ok = version is not None and _numbers(version) >= _numbers(minimum or "0")
        extra = _EXTRA.search(marker)
        if extra is None:
            required[name] = {"version": version, "minimum": minimum, "ok": ok}
            continue
        install = f"pip install '{DISTRIBUTION}[{extra[1]}]'"
        row = extras.setdefault(extra[1], {"missing": [], "install": install})
        row["missing"] += [name] * (not ok)
    return required, extras


def _installed(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """'2.13.0+cpu' -> (2, 13), the numbers that a minimum is compared with; no trailing zeros."""
    release = re.match(r"[0-9.]*", version)
    parts = [int(part) for part in (release[0] if release else "").split(".") if part]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _devices() -> tuple[list[dict[str, Any]], str | None]:
    """What torch can compute on, and why it cannot be asked."""
    try:
        import torch
    except (ImportError, OSError) as fault:
        return [], f"torch cannot be loaded: {fault}"
    devices: list[dict[str, Any]] = [{"name": "cpu", "threads": torch.get_num_threads()}]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "name": f"cuda:{index}",
                "model": properties.name,
                "memory_bytes": properties.total_memory,
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    return devices, None


def _scripts() -> list[dict[str, Any]]:
    """Every `llm` on PATH in the order a shell finds them, and whether it is this program."""
    found: dict[Path, bool] = {}
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        script = Path(folder or ".") / "llm"
        if script.is_file() and os.access(script, os.X_OK | os.R_OK):
            with open(script, "rb") as file:
                found.setdefault(script.resolve(), _ENTRY_POINT in file.read(4096))
    return [{"path": str(path), "is_llmtools": ours} for path, ours in found.items()]


def _cache() -> dict[str, Any]:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = place = Path(base).absolute() / "llmtools"
    while not place.exists() and place != place.parent:
        place = place.parent
    return {"path": str(cache), "writable": place.is_dir() and os.access(place, os.W_OK | os.X_OK)}


def _text(report: dict[str, Any]) -> str:
    rows = [
        (name, row["version"] or "missing", f">= {row['minimum']}", "ok" if row["ok"] else "BAD")
        for name, row in report["packages"].items()
    ]
    lines = [
        f"llmtools {report['version']}, Python {report['python']}, {report['platform']}",
        "",
        terminal.format_table(("package", "version", "needed", ""), rows),
        "",
        f"cpu: {report['cpus']} cores usable",
    ]
    for device in report["devices"]:
        lines.append(", ".join(f"{key} {value}" for key, value in device.items()))
    for name, row in report["extras"].items():
        lack = f"lacks {', '.join(row['missing'])}: {row['install']}" if row["missing"] else "ok"
        lines.append(f"extra {name}: {lack}")
    for script in report["llm_on_path"]:
        owner = "this program" if script["is_llmtools"] else "ANOTHER PROGRAM"
        lines.append(f"llm on PATH: {script['path']} ({owner})")
    scripts = report["llm_on_path"]
    if not scripts:
        lines.append("llm on PATH: none (python -m llmtools works everywhere)")
    elif not scripts[0]["is_llmtools"]:
        lines.append("`llm` starts another program here; use `llmtools` or python -m llmtools")
    state = "writable" if report["cache"]["writable"] else "NOT WRITABLE"
    lines.append(f"cache: {report['cache']['path']} ({state})")
    return "\n".join(lines) + "\n"
