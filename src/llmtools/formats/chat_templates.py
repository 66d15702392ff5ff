"""The chat templates of a model directory, by name.

A model has one for everything, or several: `default`, and `tool_use` for conversations with tools.
Several are a list in tokenizer_config.json, or files in a directory of their own, as transformers
reads and writes them (utils/hub.py, CHAT_TEMPLATE_DIR).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmtools.errors import InputError

TEMPLATE_FILE = "chat_template.jinja"
NAMED_FOLDER = "additional_chat_templates"
CONFIG_FILE = "tokenizer_config.json"
DEFAULT, TOOL_USE = "default", "tool_use"
MAX_FILE_BYTES = 1 << 24


def chat_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """What files say, else what `config`, the contents of tokenizer_config.json, says.

    Raises InputError for what is no text.
    """
    files = {DEFAULT: directory / TEMPLATE_FILE}
    files |= {file.stem: file for file in sorted((directory / NAMED_FOLDER).glob("*.jinja"))}
    found = {name: _read(file) for name, file in files.items() if file.is_file()}
    if found:
        return found
    given = config.get("chat_template")
    if given is None:
        return {}
    if not isinstance(given, list):
        given = [{"name": DEFAULT, "template": given}]
    for item in given:
        name, text = (item.get("name"), item.get("template")) if isinstance(item, dict) else (0, 0)
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(
                f"{directory / CONFIG_FILE}: chat_template is not a string, nor a list of"
                ' {"name", "template"}'
            )
        found[name] = text
    return found


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{file}: {file.stat().st_size} bytes (limit {MAX_FILE_BYTES})")
        return file.read_bytes().decode("utf-8")
    except OSError as fault:
        raise InputError(f"{file}: {fault.strerror or fault}") from fault
    except UnicodeDecodeError as fault:
        raise InputError(f"{file}: not UTF-8 at byte {fault.start}") from fault
