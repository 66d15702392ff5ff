"""Conversations in every known layout, and which of their tokens are learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtools.align.conversations import Conversation, read_conversations
from llmtools.align.sft import ConversationRows, encode_conversations, with_template
from llmtools.errors import InputError
from llmtools.tokenizer.chat import CHATML
from toy_tokenizer import toy_tokenizer

PARIS = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
]


def read(path: Path, records: object) -> list[list[dict[str, str]]]:
    path.write_text(json.dumps(records))
    return [conversation.messages for conversation in read_conversations([str(path)])]


def encode(messages: list[list[dict[str, str]]], max_length: int = 500, on_too_long: str = "cut"):
    conversations = [
        Conversation(messages=one, where=f"chat.jsonl:{at}") for at, one in enumerate(messages, 1)
    ]
    tokenizer = with_template(toy_tokenizer())
    return encode_conversations(
        conversations, tokenizer, max_length=max_length, on_too_long=on_too_long
    )


def test_every_layout_gives_the_same_messages(tmp_path):
    question, answer = PARIS[0]["content"], PARIS[1]["content"]
    layouts = [
        {"messages": PARIS, "id": 1},
        {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]},
        {"instruction": question, "input": "", "output": answer},
        {"instruction": question, "output": answer},
    ]
    assert read(tmp_path / "all.json", layouts) == [PARIS] * 4
    with_input = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief."}
    assert read(tmp_path / "one.json", with_input) == [
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Add.\n1 2"},
            {"role": "assistant", "content": "3"},
        ]
    ]


@pytest.mark.parametrize(
    ("record", "mentions"),
    [
        ({"text": "a", "id": 1}, ["bad.json:1", "'text', 'id'", "messages"]),
        ({"messages": "hello"}, ["bad.json:1", "'messages'", "array"]),
        ({"messages": []}, ["bad.json:1", "without messages"]),
        ({"messages": [{"role": "user", "content": ["a"]}]}, ["content of type None", "reasoning"]),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, ["'image'", "text"]),
        ({"messages": [{"role": "user", "content": None}]}, ["'content'", "missing"]),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}, ["tool_calls[0]"]),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, ["a tool", "not JSON"]),
        ({"messages": [{"content": "a"}]}, ["'role'", "missing"]),
        ({"conversations": [{"from": "robot", "value": "a"}]}, ["'robot'", "human"]),
        ({"instruction": "a", "output": 3}, ["'output'", "int"]),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, ["history"]),
        ({"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, ["tools[0]", "name"]),
        ({"messages": [{"role": "user", "content": "a"}], "tools": "["}, ["tools", "not JSON"]),
        ({"messages": [{"role": "user", "content": "a"}], "tools": 3}, ["tools", "int"]),
    ],
)
def test_a_record_that_is_no_conversation_is_named_with_its_fields(tmp_path, record, mentions):
    with pytest.raises(InputError) as refusal:
        read(tmp_path / "bad.json", record)
    assert all(mention in str(refusal.value) for mention in mentions), refusal.value


FUNCTION = {"name": "weather", "description": "d", "parameters": {"type": "object"}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
CALLED = [
    {"role": "user", "content": "Oslo?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "It rains."},
]


def test_tools_and_calls_of_every_layout_are_the_same_messages(tmp_path):
    text = json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})
    spoken = [("human", "Oslo?"), ("function_call", text), ("observation", "rain"),
              ("gpt", "It rains.")]  # fmt: skip
    string_call = {"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    parts = [{"type": "tool_call", "value": text}]
    layouts = [
        {"messages": CALLED, "tools": [{"type": "function", "function": FUNCTION}]},
        {"conversations": [{"from": f, "value": v} for f, v in spoken],
         "tools": json.dumps([FUNCTION])},
        {"messages": [CALLED[0], {"role": "assistant", "content": None,
                                  "tool_calls": [string_call]}, *CALLED[2:]], "tools": [FUNCTION]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Oslo?"}]},
                      {"role": "assistant", "content": parts}, *CALLED[2:]], "tools": [FUNCTION]},
    ]  # fmt: skip
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(layouts))
    found = list(read_conversations([str(path)]))
    assert [one.messages for one in found] == [CALLED] * 4
    assert [one.tools for one in found] == [[{"type": "function", "function": FUNCTION}]] * 4
    assert read(tmp_path / "none.json", [{"messages": PARIS, "tools": "[]"}]) == [PARIS]
    thought = [
        PARIS[0],
        {
            "role": "assistant",
            "content": [{"type": "reasoning", "value": "F."}, {"type": "text", "value": "Paris."}],
        },
    ]
    assert read(tmp_path / "thought.json", [{"messages": thought}])[0][1] == (
        {**PARIS[1], "reasoning_content": "F."}
    )


TOOLS_TEMPLATE = (
    "{{ tools | tojson }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_calls_are_learned_and_tools_and_their_results_are_not():
    tokenizer = toy_tokenizer().with_chat_template(TOOLS_TEMPLATE)
    conversation = Conversation(messages=CALLED, where="a:1", tools=[{"function": FUNCTION}])
    rows, _ = encode_conversations([conversation], tokenizer, max_length=999, on_too_long="cut")
    row = rows.row(0)
    assert FUNCTION["description"] in tokenizer.decode(row.input_ids.tolist())
    learned = tokenizer.decode([int(label) for label in row.labels if label != -100])
    assert learned == json.dumps(CALL["function"]) + "<|im_end|>It rains.<|im_end|>"
    with pytest.raises(InputError, match=r"a:1: .*has no tools"):
        encode_conversations(
            [conversation], with_template(toy_tokenizer()), max_length=9, on_too_long="cut"
        )


def test_public_data_with_tools_is_read(shared_data):
    tokenizer = toy_tokenizer().with_chat_template(TOOLS_TEMPLATE)
    for name, count in {
        "glaive_toolcall_en_demo.json": 300,
        "reason_tool_use_demo_50.jsonl": 50,
    }.items():
        path = shared_data / "train/llamafactory" / name
        conversations = list(read_conversations([str(path)]))
        assert len(conversations) == count and any(one.tools for one in conversations)
        assert any(m.get("tool_calls") for one in conversations for m in one.messages)
        encoded, _ = encode_conversations(
            conversations[:10], tokenizer, max_length=9999, on_too_long="cut"
        )
        assert encoded.num_rows == 10


def test_the_labels_are_the_assistants_tokens_with_the_end_of_each_turn():
    two_turns = [*PARIS, {"role": "user", "content": "And Italy?"}, PARIS[1]]
    rows, counts = encode([two_turns])
    row, tokenizer = rows.row(0), toy_tokenizer()
    learned = [int(label) for label in row.labels if label != -100]
    assert tokenizer.decode(learned) == "Paris.<|im_end|>" * 2
    assert counts["targets"] == len(learned) and counts["tokens"] == len(row.input_ids) + 1
    # A label is the token that follows: the first one is predicted from the prompt's last token.
    first = next(at for at, label in enumerate(row.labels) if label != -100)
    prompt = tokenizer.decode(row.input_ids[: first + 1].tolist())
    assert prompt == CHATML_PROMPT


CHATML_PROMPT = (
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
)


def test_a_conversation_without_an_answer_is_an_error_that_names_it():
    with pytest.raises(InputError, match=r"chat\.jsonl:2: no token to learn.*roles: user\)"):
        encode([PARIS, PARIS[:1]])


def test_long_conversations_are_cut_or_left_out_and_counted():
    long = [PARIS[0], {"role": "assistant", "content": "Paris. " * 30}]
    rows, counts = encode([PARIS, long], max_length=60)
    assert counts["cut"] == 1 and [len(one.input_ids) for one in rows.conversations][1] == 60
    rows, counts = encode([PARIS, long], max_length=60, on_too_long="skip")
    assert (counts["skipped"], rows.num_rows) == (1, 1)
    with pytest.raises(InputError, match=r"chat\.jsonl:1: no answer is left.*--on-too-long skip"):
        encode([PARIS], max_length=10)


def test_a_split_shares_no_row_and_loses_none():
    rows, _ = encode([[PARIS[0], {"role": "assistant", "content": str(n)}] for n in range(20)])
    train, val = rows.split(0.25, seed=1)
    assert (train.num_rows, val.num_rows) == (15, 5)

    def contents(part: ConversationRows) -> set[bytes]:
        return {one.input_ids.tobytes() for one in part.conversations}

    assert contents(train) | contents(val) == contents(rows)
    assert not contents(train) & contents(val)
    assert contents(rows.split(0.25, seed=1)[1]) == contents(val)
    assert contents(rows.split(0.25, seed=2)[1]) != contents(val)
    assert rows.split(0.001, seed=1)[1].num_rows == 1


def test_chatml_stands_in_where_the_vocabulary_has_its_tokens():
    assert with_template(toy_tokenizer()).chat_template == CHATML
    from llmtools.tokenizer.train import train_tokenizer

    plain = train_tokenizer(["some text"] * 3, 300, special_tokens=["<|endoftext|>"])
    with pytest.raises(InputError, match=r"no chat template, and no <\|im_start\|>"):
        with_template(plain)
    own = toy_tokenizer().with_chat_template("{{ messages[0].content }}")
    assert with_template(own) is own


def test_public_data_in_all_three_layouts_is_read(shared_data):
    files = {
        "train/fastchat/dummy_conversation.json": 500,
        "train/llamafactory/alpaca_en_demo.json": 999,
        "train/llamafactory/identity.json": 91,
    }
    for name, count in files.items():
        conversations = list(read_conversations([str(shared_data / name)]))
        assert len(conversations) == count
        encoded, _ = encode_conversations(
            conversations[:20], with_template(toy_tokenizer()), max_length=4096, on_too_long="cut"
        )
        assert encoded.num_rows == 20
