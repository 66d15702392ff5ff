"""What the OpenAI API's requests and responses look like.

A field is supported, or it is refused by name. Fields that this server lacks are accepted in the
value that asks for nothing (n=1, logprobs=false), because clients send those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llmtools.engine.load import SAMPLING_KEYS
from llmtools.engine.prompt import ChatPrompt, read_chat
from llmtools.engine.request import Completion
from llmtools.errors import LLMToolsError, did_you_mean

# The values of other fields of the API that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1, None),
    "echo": (False, None),
    "frequency_penalty": (0, None),
    "logit_bias": ({}, None),
    "logprobs": (False, None),
    "n": (1, None),
    "presence_penalty": (0, None),
    "response_format": ({"type": "text"}, None),
    "parallel_tool_calls": (True, None),
    "store": (False, None),
    "suffix": (None,),
    "tool_choice": ("auto", None),
    "top_logprobs": (None,),
}
MAX_PROMPTS = 64


class APIError(LLMToolsError):
    """A refusal with an HTTP status, as the OpenAI API words it."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def to_json(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": str(self),
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    include_usage: bool = False


class GenerationFields(_Strict):
    """What both endpoints take. `user` is the client's own note and changes nothing."""

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: value
            for key, value in values.items()
            if not any(value == same and type(value) is type(same) for same in _neutral(key))
        }

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def settings(self) -> dict[str, Any]:
        """What LoadedModel.request takes."""
        return {
            key: getattr(self, key) for key in (*SAMPLING_KEYS, "max_tokens", "stop", "ignore_eos")
        }


def _neutral(key: str) -> tuple[Any, ...]:
    values = NEUTRAL.get(key, ())
    return (*values, *(float(v) for v in values if type(v) is int))


class CompletionFields(GenerationFields):
    """POST /v1/completions. prompt: a text, token ids, or several of either."""

    prompt: str | list[int] | list[str] | list[list[int]]

    def prompts(self) -> list[str | list[int]]:
        """Each prompt by itself."""
        if isinstance(self.prompt, str) or not self.prompt or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class CalledFunction(_Strict):
    """arguments: a JSON object, as text or as it is."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(_Strict):
    """A call that the assistant has made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Function(_Strict):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Strict):
    """A function that the assistant may call; the chat template tells the model of it."""

    type: Literal["function"] = "function"
    function: Function


class ChatMessage(_Strict):
    """One message; parts of content are joined. Only one with tool_calls may lack content."""

    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing")
        return self

    def plain(self) -> dict[str, Any]:
        """The message as chat templates read it."""
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {**self.model_dump(exclude_none=True), "content": text}


class ChatFields(GenerationFields):
    """POST /v1/chat/completions. max_completion_tokens is the newer name of max_tokens.

    The chat template gets tools, documents and chat_template_kwargs; what a model writes to call a
    tool is in the content of its answer, as the model wrote it.
    """

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[Tool] | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False

    @model_validator(mode="after")
    def _one_limit(self) -> ChatFields:
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        return self

    def settings(self) -> dict[str, Any]:
        limit = self.max_tokens if self.max_tokens is not None else self.max_completion_tokens
        return {**super().settings(), "max_tokens": limit}

    def prompt(self) -> ChatPrompt:
        """The conversation; raises InputError for calls whose arguments are not JSON."""
        tools = [tool.model_dump(exclude_none=True) for tool in self.tools or []]
        return read_chat(
            [message.plain() for message in self.messages],
            tools=tools,
            documents=self.documents,
            variables=self.chat_template_kwargs,
            continue_final_message=self.continue_final_message,
        )


F = TypeVar("F", bound=GenerationFields)


def parse_body(fields: type[F], body: bytes) -> F:
    """A request's JSON body; raises APIError 400 naming every field that is wrong."""
    try:
        return fields.model_validate_json(body)
    except ValidationError as fault:
        errors = fault.errors(include_url=False, include_context=False, include_input=False)
        known = [*fields.model_fields, *NEUTRAL]
        messages = dict.fromkeys(_message(error, known) for error in errors)
        first = errors[0]["loc"]
        param = str(first[0]) if first else None
        raise APIError(400, "; ".join(messages), param=param) from fault


def _message(error: Mapping[str, Any], known: Sequence[str]) -> str:
    # Unions add the name of each member they tried, which says nothing to a client.
    place = [str(p) for p in error["loc"] if isinstance(p, int) or str(p).isidentifier()]
    path = ".".join(p for p in place if p not in ("str", "int"))
    if error["type"] == "extra_forbidden":
        name = place[-1]
        if len(place) == 1 and name in NEUTRAL:
            return f"{name} is not supported; leave it out"
        return f"unknown field {path!r}{did_you_mean(name, known) if len(place) == 1 else ''}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def add_usage(completions: Sequence[Completion]) -> dict[str, int]:
    """The token counts of some completions together."""
    total = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    for completion in completions:
        for key, count in completion.usage.items():
            total[key] += count
    return total
