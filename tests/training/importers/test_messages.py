"""Which text of a logged prompt is the query."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import OutcomeError
from training.importers.messages import NO_PROMPT, NO_TEXT, NO_USER_MESSAGE, query_of

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "First?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Second?"},
]
TOOL = {"role": "tool", "content": "42", "tool_call_id": "c"}
ASKS_TOOL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}


@pytest.mark.parametrize(
    ("prompt", "query"),
    [
        (CHAT, "Second?"),
        (json.dumps(CHAT), "Second?"),
        ({"messages": CHAT, "model": "m"}, "Second?"),
        ([CHAT], "Second?"),  # a batch of one, as LangChain logs it
        ([*CHAT, ASKS_TOOL, TOOL], "Second?"),
        # Anthropic puts a tool's result into a message of the user.
        (
            [*CHAT, {"role": "user", "content": [{"type": "tool_result", "content": "42"}]}],
            "Second?",
        ),
        ([{"role": "human", "content": "Hi"}], "Hi"),
        ({"role": "user", "content": "Hi"}, "Hi"),
        # Parts of OpenAI, OpenAI Responses, OpenTelemetry and Gemini.
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is"},
                        {"type": "image_url", "image_url": {"url": "data:..."}},
                        {"type": "text", "text": "this?"},
                    ],
                }
            ],
            "What is\nthis?",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]}, "Hi"),
        ([{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}], "Hi"),
        ([{"role": "user", "parts": [{"text": "Hi"}]}], "Hi"),
        ([{"type": "text", "text": "Hi"}], "Hi"),
        # Prompts that are no chats.
        ("Plain text", "Plain text"),
        ("{not json", "{not json"),
        ({"prompt": "Hi"}, "Hi"),
        ({"question": "Hi", "top_k": 3}, "Hi"),
        ({"topic": "Hi", "k": 3}, "Hi"),
    ],
)
def test_the_query(prompt: object, query: str) -> None:
    assert query_of(prompt) == query


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (None, NO_PROMPT),
        ("", NO_PROMPT),
        ("  ", NO_PROMPT),
        ([], NO_PROMPT),
        ("{}", NO_PROMPT),
        (7, NO_USER_MESSAGE),
        ([{"role": "system", "content": "Be brief."}], NO_USER_MESSAGE),
        ({"a": "one", "b": "two"}, NO_USER_MESSAGE),  # either may be meant
        ([1, 2], NO_USER_MESSAGE),
        (["", " "], NO_USER_MESSAGE),
        # An image alone: an earlier question is not what was asked.
        ([*CHAT, {"role": "user", "content": [{"type": "image_url"}]}], NO_TEXT),
        ([{"role": "user", "content": None}], NO_TEXT),
        ([{"role": "user", "content": {"text": 5}}], NO_TEXT),
    ],
)
def test_where_there_is_none(prompt: object, reason: str) -> None:
    with pytest.raises(OutcomeError) as caught:
        query_of(prompt)
    assert caught.value.reason == reason


def test_nesting_has_an_end() -> None:
    prompt: object = "deep"
    for _ in range(50):
        prompt = {"input": prompt}
    with pytest.raises(OutcomeError, match=NO_USER_MESSAGE):
        query_of(prompt)
    assert query_of("[" * 100_000) == "[" * 100_000  # no JSON, and no crash


keys = st.sampled_from(["role", "content", "parts", "text", "type", "messages", "input", "x"])
words = st.sampled_from(["user", "assistant", "text", "tool_result", "Hi", "", "[]", "{}"])
prompts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


def query_or_reason(prompt: object) -> tuple[str | None, str | None]:
    try:
        return query_of(prompt), None
    except OutcomeError as error:
        return None, error.reason


@given(prompts)
def test_any_prompt_gives_a_query_or_a_reason(prompt: object) -> None:
    query, reason = query_or_reason(prompt)
    assert (query or "").strip() or reason in {NO_PROMPT, NO_TEXT, NO_USER_MESSAGE}
    # Text that holds the prompt is the prompt.
    if isinstance(prompt, list | dict):
        assert query_or_reason(json.dumps(prompt)) == (query, reason)
