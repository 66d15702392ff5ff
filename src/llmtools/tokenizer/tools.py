"""Tools and calls of tools, from the forms that records and clients have to the one templates read.

A tool is {"type": "function", "function": {"name", "description", "parameters"}}. A call is
{"type": "function", "function": {"name", "arguments"}} with its arguments as an object: that is
what templates write out, although clients send it as JSON inside a string.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmtools.errors import InputError


def parse_tools(value: Any) -> list[dict[str, Any]] | None:
    """The tools of a record: a list of functions, or such a list as JSON text; None for none.

    raises: InputError for anything else.
    """
    if isinstance(value, str) and value.strip():
        value = _parsed(value, "tools")
    if not value:
        return None
    if not isinstance(value, list):
        raise InputError(f"tools is {type(value).__name__}, not a list of functions")
    return [_tool(one, number) for number, one in enumerate(value)]


def _tool(value: Any, number: int) -> dict[str, Any]:
    if isinstance(value, Mapping) and "function" not in value and "name" in value:
        value = {"type": "function", "function": value}
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(f"tools[{number}] is no function with a name and parameters")
    if value.get("type", "function") != "function":
        raise InputError(f"tools[{number}]: type {value['type']!r} is not known (function)")
    return {"type": "function", **value}


def parse_calls(value: Any) -> list[dict[str, Any]]:
    """The calls of an assistant's message; raises InputError for what is no list of calls."""
    if not isinstance(value, list):
        raise InputError(f"tool_calls is {type(value).__name__}, not a list of calls")
    return [_call(one, number) for number, one in enumerate(value)]


def _call(value: Any, number: int) -> dict[str, Any]:
    if isinstance(value, Mapping) and "function" not in value and "name" in value:
        value = {"type": "function", "function": value}
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(f"tool_calls[{number}] is no function with a name and arguments")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments or "{}", f"tool_calls[{number}].arguments")
    if not isinstance(arguments, Mapping):
        raise InputError(f"tool_calls[{number}].arguments is not a JSON object")
    return {"type": "function", **value, "function": {**function, "arguments": arguments}}


def parse_call_text(text: str) -> list[dict[str, Any]]:
    """The calls that a record keeps as JSON text: {"name", "arguments"}, or a list of them."""
    value = _parsed(text, "the call of a tool")
    return parse_calls(value if isinstance(value, list) else [value])


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{what}: not JSON: {fault}") from fault
