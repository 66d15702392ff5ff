"""Imports point down only; this test holds the arrows of docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from llmtools.cli import COMMANDS

SOURCE = Path(__file__).parent.parent / "src" / "llmtools"

# From the top down; a module may import rows below its own.
ROWS = [
    {"cli", "__main__"},
    {"commands"},
    {"align", "evals", "server", "retrieval", "interpret", "plan"},
    {"engine", "train"},
    {"tokenizer", "data", "shards", "ops", "model", "quant", "adapters"},
    {"triton_kernels"},
    {"formats"},
    {"errors", "terminal", "config", "signals", "instructions", "jit"},
    {"machine_code"},
]
SIDEWAYS = {
    ("model", "ops"),
    ("quant", "model"),
    ("quant", "ops"),
    ("adapters", "model"),
    ("data", "tokenizer"),
    ("data", "shards"),
    ("train", "engine"),
    ("plan", "align"),
    ("config", "errors"),
    ("__main__", "cli"),
    ("terminal", "errors"),
    ("jit", "terminal"),
    ("instructions", "jit"),
    # The dispatcher loads the command that was asked for, and commands read its table.
    ("commands", "cli"),
}
LEVEL = {name: level for level, row in enumerate(ROWS) for name in row}


def part_of(module: str) -> str | None:
    """'llmtools.formats.gguf' -> 'formats'; None for the package itself."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else None


def is_shared_by_commands(module: str) -> bool:
    """Modules beside the commands that are no command themselves."""
    package, _, name = module.rpartition(".")
    commands = {row.module for row in COMMANDS.values()}
    return package == "llmtools.commands" and name not in commands


def imports(path: Path) -> list[tuple[str, int]]:
    """Every llmtools module that a file imports anywhere in it, with the line."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            if node.module == "llmtools":
                found += [(f"llmtools.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((node.module, node.lineno))
    return [(name, line) for name, line in found if name.split(".")[0] == "llmtools"]


def is_allowed(importer: str, imported: str) -> bool:
    if importer == imported:
        return importer != "commands"
    if imported == "triton_kernels":
        return importer == "ops"
    return LEVEL[imported] > LEVEL[importer] or (importer, imported) in SIDEWAYS


def test_imports_point_down_only():
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE)
        importer = relative.parts[0].removesuffix(".py")
        if importer == "__init__":
            continue
        assert importer in LEVEL, f"{relative} belongs to no layer"
        for module, line in imports(path):
            imported = part_of(module)
            if imported is None or imported == "__version__":
                continue
            if is_shared_by_commands(module):
                continue
            if not is_allowed(importer, imported):
                wrong.append(f"{relative}:{line}: {importer} imports {module}")
    assert wrong == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("formats", "model"),
        ("engine", "server"),
        ("ops", "model"),
        ("commands", "commands"),
        ("model", "triton_kernels"),
        ("tokenizer", "data"),
    ],
)
def test_an_arrow_sideways_or_up_is_refused(importer, imported):
    assert not is_allowed(importer, imported)


def test_no_top_level_module_is_named_llm():
    assert not (SOURCE.parent / "llm").exists()
    assert not (SOURCE.parent / "llm.py").exists()
