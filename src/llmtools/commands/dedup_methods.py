"""What `llm dedup --method` needs beside MinHash: which flags a method heeds, and its call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from llmtools.commands.common import byte_size, report
from llmtools.errors import UsageError

if TYPE_CHECKING:
    from llmtools.data.dedup import DedupSettings
    from llmtools.data.equal_texts import EqualTextSettings
    from llmtools.data.semantic import SemanticSettings
    from llmtools.data.simhash import SimHashSettings
    from llmtools.data.trim import SpanFinder

Method = Literal[
    "minhash", "exact", "line", "paragraph", "sentence", "simhash", "substring", "semantic"
]
Normal = Literal["ccnet", "lower", "none"]

_MINHASH = ("minhash",)
_CLUSTERS = ("minhash", "simhash", "semantic")
_WHOLE = (*_CLUSTERS, "exact")
_SEGMENTS = ("line", "paragraph", "sentence")
_SHORTEN = (*_SEGMENTS, "substring")
# Methods that can run through a function of their own instead of clustering documents.
STREAMED = ("exact", *_SHORTEN)

# Which methods heed a flag; flags that are not here are heeded by all.
_HEEDED_BY: dict[str, tuple[str, ...]] = {
    "keep": _WHOLE,
    "verify_jaccard": _CLUSTERS,
    "cluster_ids": _WHOLE,
    "index": _MINHASH,
    "create_index": _MINHASH,
    "explain": _MINHASH,
    "preset": _MINHASH,
    "dialect": _MINHASH,
    "n_grams": ("minhash", "simhash"),
    "char_n_grams": _MINHASH,
    "num_buckets": _MINHASH,
    "hashes_per_bucket": _MINHASH,
    "seed": ("minhash", "semantic"),
    "memory": _MINHASH,
    "phase": _MINHASH,
    "max_distance": ("simhash",),
    "vectors": ("semantic",),
    "similarity": ("semantic",),
    "num_clusters": ("semantic",),
    "min_bytes": ("substring",),
    "normalize": _SEGMENTS,
    "num_sentences": ("sentence",),
    "min_chars": _SHORTEN,
    "min_doc_words": _SHORTEN,
    "min_doc_sentences": _SHORTEN,
    "annotate": _SHORTEN,
    "zstd_level": STREAMED,
}


def check_flags(run: Callable[..., None], given: Mapping[str, Any]) -> None:
    """Raises UsageError for a flag of the command `run` that its method does not heed."""
    method = given["method"]
    parameters = inspect.signature(run).parameters
    for name, methods in _HEEDED_BY.items():
        if method not in methods and given[name] not in (parameters[name].default, []):
            raise UsageError(
                f"--{name.replace('_', '-')} has no effect with --method {method};"
                f" it is for {', '.join(methods)}"
            )
    if method == "semantic" and given["vectors"] is None:
        raise UsageError("--method semantic compares vectors; name their file with --vectors")


def is_streamed(given: Mapping[str, Any]) -> bool:
    """Whether `run_streamed` does it; `exact` clusters where not the first copy as it is stays."""
    if given["method"] == "exact":
        return bool(given["keep"] == "first" and not given["cluster_ids"])
    return given["method"] in STREAMED


def run_streamed(names: list[str], given: Mapping[str, Any]) -> None:
    """--method exact, line, paragraph, sentence or substring, and its report."""
    keys = {name: given[name] for name in ("text_key", "id_key")}
    places = {name: given[name] for name in ("rejects", "on_error", "zstd_level", "force")}
    if given["method"] == "exact":
        from llmtools.data.exact import dedup_exact

        counts = dedup_exact(names, given["output"], **keys, **places)
        said = f"dropped {counts['dropped_exact']:,} exact copies"
    else:
        from llmtools.data.trim import TrimSettings, dedup_inside

        # source of the usual limits: datatrove's SentDedupConfig
        usual_words, usual_sentences = (50, 3) if given["method"] == "sentence" else (0, 0)
        words, sentences = given["min_doc_words"], given["min_doc_sentences"]
        settings = TrimSettings(
            method=given["method"],
            min_chars=given["min_chars"],
            min_words=usual_words if words is None else words,
            min_sentences=usual_sentences if sentences is None else sentences,
            annotate=given["annotate"],
            **keys,
        )
        counts = dedup_inside(names, given["output"], _finder(given), settings, **places)
        said = (
            f"{counts['documents_shortened']:,} shortened, {counts['documents_dropped']:,} dropped,"
            f" {counts['characters_removed']:,} of {counts['characters_in']:,} characters"
            f" {'marked' if given['annotate'] else 'removed'}"
        )
    report(
        counts,
        f"dedup: {counts['documents_kept']:,} of {counts['documents_in']:,} documents kept, {said}",
    )


def _finder(given: Mapping[str, Any]) -> SpanFinder:
    if given["method"] == "substring":
        from llmtools.data.substring import SubstringFinder, SubstringSettings

        return SubstringFinder(SubstringSettings(min_bytes=given["min_bytes"]))
    from llmtools.data.segments import SegmentFinder, SegmentSettings

    return SegmentFinder(
        SegmentSettings(
            unit=given["method"],
            normal=given["normalize"],
            num_sentences=given["num_sentences"],
        )
    )


def settings_from(given: Mapping[str, Any]) -> DedupSettings:
    """The settings of all methods that compare whole documents, of the command's own values."""
    from llmtools.data.dedup import DedupSettings
    from llmtools.data.minhash import PRESETS, MinHashSettings

    names = ("n_grams", "char_n_grams", "num_buckets", "hashes_per_bucket")
    sizes = {name: given[name] for name in names if given[name] is not None}
    return DedupSettings(
        minhash=MinHashSettings(
            **PRESETS.get(given["preset"], {}) | sizes,
            dialect=given["dialect"],
            seed=given["seed"],
        ),
        instead=_instead_of_minhash(given),
        keep=given["keep"],
        verify_jaccard=given["verify_jaccard"],
        cluster_ids=given["cluster_ids"],
        memory=None if given["memory"] is None else byte_size("--memory", given["memory"]),
        text_key=given["text_key"],
        id_key=given["id_key"],
    )


def _instead_of_minhash(
    given: Mapping[str, Any],
) -> SimHashSettings | SemanticSettings | EqualTextSettings | None:
    """What --method simhash, semantic and exact compare documents by."""
    if given["method"] == "exact":
        from llmtools.data.equal_texts import EqualTextSettings

        return EqualTextSettings()
    if given["method"] == "simhash":
        from llmtools.data.simhash import SimHashSettings

        n_grams = 3 if given["n_grams"] is None else given["n_grams"]
        return SimHashSettings(n_grams=n_grams, max_distance=given["max_distance"])
    if given["method"] == "semantic":
        from llmtools.data.semantic import SemanticSettings

        return SemanticSettings(
            path=given["vectors"],
            similarity=given["similarity"],
            num_clusters=given["num_clusters"],
            seed=given["seed"],
        )
    return None
