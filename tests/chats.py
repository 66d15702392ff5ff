"""Conversations of every kind, and the chat templates of the llama.cpp source archive."""

from __future__ import annotations

from typing import Any

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city <now>.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "type": "function",
    "id": "abcdef123",
    "function": {"name": "get_weather", "arguments": {"city": "Oslo", "unit": "celsius"}},
}
RESULT = {"role": "tool", "tool_call_id": "abcdef123", "name": "get_weather", "content": "4 rainy"}

# name: (messages, tools, documents)
CHATS: dict[str, tuple[list[dict[str, Any]], Any, Any]] = {
    "one turn": ([{"role": "user", "content": "Capital of France?"}], None, None),
    "answered": (
        [
            {"role": "user", "content": "Capital of France?"},
            {"role": "assistant", "content": "Paris it is."},
        ],
        None,
        None,
    ),
    "system and turns": (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "  Capital of France? "},
            {"role": "assistant", "content": "\n\nParis it is.\n"},
            {"role": "user", "content": "日本の首都は?"},
            {"role": "assistant", "content": "東京です 🗼"},
            {"role": "user", "content": "And Italy?"},
            {"role": "assistant", "content": "Rome"},
        ],
        None,
        None,
    ),
    "short answers": (
        [
            {"role": "user", "content": "yes?"},
            {"role": "assistant", "content": "y"},
            {"role": "user", "content": "yes?"},
            {"role": "assistant", "content": "yes?"},
        ],
        None,
        None,
    ),
    "an empty answer": (
        [
            {"role": "user", "content": "yes?"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "Still there?"},
            {"role": "assistant", "content": "Here."},
        ],
        None,
        None,
    ),
    "thoughts in the text": (
        [
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."},
            {"role": "user", "content": "3 + 3?"},
            {"role": "assistant", "content": "<think>\nThrees.\n</think>\n\nIt is 6."},
        ],
        None,
        None,
    ),
    "reasoning": (
        [
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "reasoning_content": "Two and two.", "content": "It is 4."},
            {"role": "user", "content": "3 + 3?"},
            {"role": "assistant", "reasoning_content": "Threes.", "content": "It is 6."},
        ],
        None,
        None,
    ),
    "tools offered": (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Oslo?"},
            {"role": "assistant", "content": "I cannot say."},
            {"role": "user", "content": "Try."},
        ],
        [WEATHER],
        None,
    ),
    "a tool called": (
        [
            {"role": "user", "content": "Weather in Oslo?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            RESULT,
            {"role": "assistant", "content": "It rains at 4 degrees."},
            {"role": "user", "content": "Thanks."},
            {"role": "assistant", "content": "Welcome."},
        ],
        [WEATHER],
        None,
    ),
    "a null beside a call": (
        [
            {"role": "user", "content": "Weather in Oslo?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            RESULT,
        ],
        [WEATHER],
        None,
    ),
    "documents": (
        [{"role": "user", "content": "What does it say?"}],
        None,
        [{"title": "Note", "text": "It says <hello>."}],
    ),
}
