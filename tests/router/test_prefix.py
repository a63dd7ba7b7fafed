"""The prefix: its keys, its length, and what the lint says of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InputError
from router.prefix import Finding, lint, prefix_keys, prefix_tokens
from router.providers.base import Prompt
from router.tiers import estimated_tokens

LONG = "You answer questions about museums. " * 600
SYSTEM = {"role": "system", "content": LONG}
USER = {"role": "user", "content": "Where is the Louvre?"}


def tool(name: str = "weather", **properties: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": "Says it.",
            "parameters": {"type": "object", "properties": properties or {"city": {}}},
        },
    }


def codes(messages: Any, tools: Any = (), previous: Prompt | None = None) -> list[str]:
    found = lint(messages, tools, provider="openai", model="gpt-5-nano", previous=previous)
    return [finding.code for finding in found]


def test_a_good_prompt() -> None:
    previous = Prompt((SYSTEM, {"role": "user", "content": "Another?"}), (tool(),))
    assert codes([SYSTEM, USER], [tool()], previous) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("It is 2026-11-24T10:15:00Z now.", "timestamp"),
        ("It is 2026-11-24 10:15 now.", "timestamp"),
        ("The clock says 10:15:59.", "timestamp"),
        ("now=1764000000", "timestamp"),
        ("now=1764000000123", "timestamp"),
        ("Today is 2026-11-24.", "date"),
        ("Today is 24.11.2026.", "date"),
        ("Today is 11/24/2026.", "date"),
        ("Today is 24 November 2026.", "date"),
        ("Today is Tuesday, November 24, 2026.", "date"),
        ("Session 123e4567-e89b-42d3-a456-426614174000.", "uuid"),
        ("Session 123E4567-E89B-42D3-A456-426614174000.", "uuid"),
        ("Request id 9f86d081884c7d659a2feaa0c55ad015.", "random-id"),
        ("Trace a8Zk29dQm3Lx7Pq0Rt.", "random-id"),
    ],
)
def test_what_changes_between_requests(text: str, code: str) -> None:
    system = {"role": "system", "content": LONG + text}
    (finding,) = lint([system, USER], provider="openai", model="gpt-5-nano")
    assert finding.code == code
    assert "system message 0" in finding.message
    # Which kind and where, never what it says.
    assert not any(word in finding.message for word in text.split() if any(map(str.isdigit, word)))
    in_a_tool = tool()
    in_a_tool["function"]["description"] = text
    (finding,) = lint(
        [SYSTEM, USER], [tool("other"), in_a_tool], provider="openai", model="gpt-5-nano"
    )
    assert finding.code == code and "tool 1" in finding.message


@pytest.mark.parametrize(
    "text",
    [
        "Answer within 24 hours, at most 1000 words, version 5.10.2.",
        "Call +33 1 40 20 53 17 or 1-800-555-0199.",
        "The ratio is 3:2, see chapter 10:15.",
        "internationalization straightforwardness",
        "Founded in 1793; 8 million visitors in 2024.",
        "https://example.org/a/b",
        "sha256 of nothing",
    ],
)
def test_what_does_not_change(text: str) -> None:
    assert codes([{"role": "system", "content": LONG + text}, USER]) == []


def test_the_last_message_may_change() -> None:
    now = {"role": "user", "content": "It is 2026-11-24T10:15:00Z. Where is the Louvre?"}
    assert codes([SYSTEM, now]) == []


def test_several_kinds_in_several_places() -> None:
    first = {"role": "system", "content": LONG + "2026-11-24"}
    second = {"role": "developer", "content": [{"type": "text", "text": "10:15:59 2026-11-24"}]}
    assert codes([first, second, USER]) == ["date", "timestamp", "date"]


@pytest.mark.parametrize(
    ("provider", "model", "n_characters", "too_short"),
    [
        ("openai", "gpt-5-nano", 3 * 1024, False),
        ("openai", "gpt-5-nano", 3 * 1024 - 3, True),
        ("anthropic", "claude-haiku-4-5", 3 * 4096 - 3, True),
        ("anthropic", "claude-haiku-4-5", 3 * 4096, False),
        ("somebody", "llama", 3, False),
    ],
)
def test_too_short(provider: str, model: str, n_characters: int, too_short: bool) -> None:
    system = {"role": "system", "content": "x" * n_characters}
    found = lint([system, USER], provider=provider, model=model)
    assert [finding.code for finding in found] == ["too-short"] * too_short
    if too_short:
        assert "estimate" in found[0].message and model in found[0].message


def test_a_long_question_is_no_prefix() -> None:
    assert codes([{"role": "user", "content": LONG}]) == ["too-short"]
    assert codes([]) == ["too-short"]
    # As the beginning of a conversation it is.
    turns = [{"role": "user", "content": LONG}, {"role": "assistant", "content": "a"}, USER]
    assert codes(turns) == []


def test_a_system_message_after_the_first_turn() -> None:
    late = {"role": "system", "content": "Be brief."}
    (finding,) = lint([SYSTEM, USER, late], provider="openai", model="gpt-5-nano")
    assert finding.code == "late-system" and "message 2" in finding.message


def reordered_keys(value: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(value.items()))


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        ([tool("a"), tool("b")], [tool("b"), tool("a")], ["tools-reordered"]),
        ([reordered_keys(tool())], [tool()], ["key-order"]),
        ([tool(x={}, y={})], [tool(y={}, x={})], ["key-order"]),
        ([tool("a")], [tool("b")], ["tools-changed"]),
        ([tool("a"), tool("b")], [tool("a")], ["tools-changed"]),
        ([], [tool("a")], ["tools-changed"]),
        ([tool("a")], [], []),
        ([{**tool(), "cache_control": {"type": "ephemeral"}}], [tool()], []),
    ],
)
def test_against_the_previous_tools(now: Any, before: Any, expected: list[str]) -> None:
    assert codes([SYSTEM, USER], now, Prompt((SYSTEM, USER), tuple(before))) == expected


def test_against_the_previous_system_prompt() -> None:
    second = {"role": "system", "content": "Be brief."}
    found = lint(
        [SYSTEM, {"role": "system", "content": "Be long."}, USER],
        provider="openai",
        model="gpt-5-nano",
        previous=Prompt((SYSTEM, second, USER)),
    )
    assert [finding.code for finding in found] == ["system-changed"]
    assert "system message 1" in found[0].message
    assert codes([SYSTEM, USER], previous=Prompt((SYSTEM, second, USER))) == ["system-changed"]


def test_findings_are_values() -> None:
    assert Finding("date", "x") == Finding("date", "x")
    with pytest.raises(AttributeError):
        Finding("date", "x").code = "y"  # type: ignore[misc]


def test_what_is_not_in_the_chat_form() -> None:
    with pytest.raises(InputError, match="message 1"):
        lint([SYSTEM, {"role": "robot"}], provider="openai", model="gpt-5-nano")
    with pytest.raises(InputError, match="message 0"):
        prefix_keys([{"role": "user", "content": 3}])


# Keys and lengths.

MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=4)}
    ),
    max_size=5,
)


@given(messages=MESSAGES)
def test_one_key_for_the_system_and_one_after_each_message(messages: Any) -> None:
    keys, tokens = prefix_keys(messages, [tool()]), prefix_tokens(messages, [tool()])
    n_leading = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    assert len(keys) == len(tokens) == 1 + len(messages) - n_leading
    assert len(set(keys)) == len(keys)
    assert list(tokens) == sorted(tokens)
    assert {len(key) for key in keys} == {16}


@given(messages=MESSAGES, more=MESSAGES)
def test_a_longer_prompt_begins_with_the_keys_of_the_shorter(messages: Any, more: Any) -> None:
    messages = [{"role": "user", "content": "first"}, *messages]
    keys = prefix_keys(messages)
    assert prefix_keys([*messages, *more])[: len(keys)] == keys
    assert prefix_tokens([*messages, *more])[: len(keys)] == prefix_tokens(messages)


@given(messages=MESSAGES, others=MESSAGES)
def test_other_beginnings_have_other_keys(messages: Any, others: Any) -> None:
    keys, other_keys = prefix_keys(messages), prefix_keys(others)
    if messages != others:
        assert keys != other_keys
    for a, b in zip(keys, other_keys, strict=False):
        if a != b:  # once apart, apart for good
            assert not set(keys[keys.index(a) :]) & set(other_keys[other_keys.index(b) :])
            break


def test_what_makes_another_key() -> None:
    keys = prefix_keys([SYSTEM, USER], [tool()])
    assert prefix_keys([SYSTEM, USER], [tool("other")])[0] != keys[0]
    assert prefix_keys([{**SYSTEM, "content": "x"}, USER], [tool()])[0] != keys[0]
    assert prefix_keys([SYSTEM, {**USER, "content": "x"}], [tool()])[0] == keys[0]
    # A schema's properties are filled in their order.
    assert prefix_keys([], [tool(a={}, b={})]) != prefix_keys([], [tool(b={}, a={})])


def test_what_does_not() -> None:
    keys = prefix_keys([SYSTEM, USER], [tool()])
    mark = {"cache_control": {"type": "ephemeral"}}
    part = {"type": "text", "text": USER["content"], **mark}
    marked = [{**SYSTEM, **mark}, {"role": "user", "content": [part]}]
    assert prefix_keys(marked, [{**reordered_keys(tool()), **mark}]) == keys
    before = copy.deepcopy(marked)
    lint(marked, provider="openai", model="gpt-5-nano")
    assert marked == before


def test_lengths_are_estimates_of_the_text() -> None:
    tokens = prefix_tokens([SYSTEM, USER])
    assert abs(tokens[0] - estimated_tokens(LONG)) <= 5
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
    assert prefix_tokens([{"role": "user", "content": [image]}])[-1] < 20
