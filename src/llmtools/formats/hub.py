"""Models of the Hugging Face hub: `hf:ORG/NAME[@REVISION]`, downloaded only when named so.

Files come to huggingface_hub's own cache, so that other tools share them. Pickled weights are never
fetched. With --offline (or HF_HUB_OFFLINE=1) only what is in the cache is used.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from llmtools import terminal
from llmtools.errors import InputError, ResourceError, UsageError

PREFIX = "hf:"
OFFLINE = "HF_HUB_OFFLINE"
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
PATTERNS = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.gguf"]


def is_hub_name(path: str | Path) -> bool:
    """Whether a MODEL argument names one of the hub."""
    return str(path).startswith(PREFIX)


def fetch(path: str | Path) -> Path:
    """The local directory of a hub model, downloaded where it is not in the cache.

    raises: UsageError for a malformed name, InputError where the hub has no such model, and
    ResourceError where it cannot be reached, or --offline forbids to.
    """
    match = _NAME.fullmatch(str(path))
    if match is None:
        raise UsageError(f"{path}: a model of the hub is named hf:ORG/NAME or hf:ORG/NAME@REVISION")
    name, revision = match[1], match[2]
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    is_offline = os.environ.get(OFFLINE, "0") not in ("", "0")
    if not is_offline:
        terminal.note(f"{path}: asking the Hugging Face hub")
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=PATTERNS, local_files_only=is_offline
            )
        )
    except LocalEntryNotFoundError as fault:
        if is_offline:
            raise ResourceError(
                f"{path} is not in the cache, and --offline (or {OFFLINE}) forbids to download it"
            ) from fault
        raise ResourceError(f"{path}: the hub cannot be reached: {fault}") from fault
    except RepositoryNotFoundError as fault:
        raise InputError(f"{path}: the hub has no such model, or not for you") from fault
    except OSError as fault:
        raise ResourceError(f"{path}: cannot download: {fault}") from fault
