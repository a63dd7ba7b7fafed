"""Anthropic: what is sent, where the cache is marked, what the tokens mean."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import ProviderError
from router.providers import make_provider
from router.providers.anthropic import AnthropicProvider, usage_of
from router.providers.anthropic_request import messages_request
from router.providers.base import CacheMarks, Prompt
from router.usage import Usage
from tests.router.providers.setups import KEY, QUESTION
from tests.router.providers.strategies import reports
from tests.wire.anthropic_server import USAGE, AnthropicServer, answer, error_event, event
from tests.wire.openai_server import tool_call

MODEL = "claude-haiku-4-5"  # caches from 4,096 tokens
LONG = "You answer questions about museums. " * 500  # about 6,000 tokens
MARK = {"type": "ephemeral"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def running() -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        yield server


@pytest.fixture
def server(running: AnthropicServer) -> Iterator[AnthropicServer]:
    yield running
    running.reset()


@pytest.fixture
def provider(server: AnthropicServer) -> Iterator[AnthropicProvider]:
    made = AnthropicProvider(KEY, base_url=server.url)
    yield made
    made.close()


def conversation(*contents: Any, tools: Sequence[Any] = (), **marks: Any) -> Prompt:
    roles = ("system", "user", "assistant", "user", "assistant", "user")
    return Prompt(
        messages=tuple(
            {"role": role, "content": content}
            for role, content in zip(roles, contents, strict=False)
        ),
        tools=tuple(tools),
        cache=CacheMarks(**marks),
    )


def marks(request: dict[str, Any]) -> list[tuple[str, Any]]:
    """Where the marks are: "tools", "system", or the number of the turn; and their lives."""
    places: list[tuple[str, Any]] = [
        *(("tools", tool) for tool in request.get("tools", ())),
        *(("system", block) for block in request.get("system", ())),
        *(
            (str(turn), block)
            for turn, message in enumerate(request["messages"])
            for block in message["content"]
        ),
    ]
    return [
        (place, block["cache_control"].get("ttl", "5m"))
        for place, block in places
        if "cache_control" in block
    ]


def test_the_request(server: AnthropicServer, provider: AnthropicProvider) -> None:
    provider.complete(MODEL, QUESTION)
    assert server.last.path == "/v1/messages"
    # Without the temperature, which the API takes no more.
    assert server.last.json == {
        "model": MODEL,
        "system": [{"type": "text", "text": "Answer in one word."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Where is the Louvre?"}]}
        ],
        "max_tokens": 50,
        "stream": False,
    }


def test_the_limit_of_the_output_has_a_default(server: AnthropicServer) -> None:
    prompt = Prompt(QUESTION.messages)
    assert messages_request(MODEL, prompt)["max_tokens"] == 4096
    provider = AnthropicProvider(KEY, base_url=server.url, default_max_output_tokens=99)
    # A limit so high that the SDK would rather stream is the caller's to choose.
    for given_tokens, expected in [(None, 99), (500_000, 500_000)]:
        provider.complete(MODEL, Prompt(QUESTION.messages, max_output_tokens=given_tokens))
        assert server.last.json["max_tokens"] == expected
    provider.close()


def test_system_messages_wherever_they_stand_are_one_system_prompt() -> None:
    messages = (
        {"role": "system", "content": "One."},
        {"role": "user", "content": "hi"},
        {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
    )
    request = messages_request(MODEL, Prompt(messages))
    assert [block["text"] for block in request["system"]] == ["One.", "Two."]
    assert [message["role"] for message in request["messages"]] == ["user"]


def test_tool_calls_and_their_results() -> None:
    calls = [
        tool_call("weather", '{"city": "Paris"}', "call_1"),
        tool_call("weather", "{not json", "call_2"),
        tool_call("now", "", "call_3"),
    ]
    messages: tuple[dict[str, Any], ...] = (
        {"role": "user", "content": "And the weather?"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "call_2", "content": "no such city"},
        {"role": "user", "content": "Thanks."},
    )
    user, assistant, results, thanks = messages_request(MODEL, Prompt(messages))["messages"]
    assert assistant["content"] == [
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}},
        # What a weaker model wrote is shown, not lost.
        {
            "type": "tool_use",
            "id": "call_2",
            "name": "weather",
            "input": {"arguments": "{not json"},
        },
        {"type": "tool_use", "id": "call_3", "name": "now", "input": {}},
    ]
    assert [block["tool_use_id"] for block in results["content"]] == ["call_1", "call_2"]
    assert results["content"][0]["content"] == [{"type": "text", "text": "sunny"}]
    assert (user["role"], results["role"], thanks["role"]) == ("user", "user", "user")


def test_images_and_own_blocks() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
    ]
    blocks = messages_request(MODEL, Prompt(({"role": "user", "content": content},)))["messages"]
    assert blocks[0]["content"] == [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"},
        },
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        content[2],
    ]


@pytest.mark.parametrize("way", ["complete", "stream"])
def test_thinking_is_no_text(
    server: AnthropicServer, provider: AnthropicProvider, way: str
) -> None:
    server.reply(answer("Paris.", thinking="The Louvre is in Paris."))
    if way == "complete":
        got = provider.complete(MODEL, QUESTION)
    else:
        last = list(provider.stream(MODEL, QUESTION))[-1].answer
        assert last is not None
        got = last
    assert got.text == "Paris." and got.usage is not None and got.usage.reasoning_tokens == 120


def test_a_tool_call_without_arguments(
    server: AnthropicServer, provider: AnthropicProvider
) -> None:
    server.reply(*[answer(None, tool_calls=[tool_call("now", "{}")])] * 2)
    whole = provider.complete(MODEL, QUESTION)
    streamed = list(provider.stream(MODEL, QUESTION))[-1].answer
    assert streamed is not None
    assert whole.tool_calls == streamed.tool_calls == (tool_call("now", "{}"),)


@pytest.mark.parametrize(
    ("theirs", "kind"),
    [
        ("overloaded_error", "outage"),
        ("api_error", "outage"),
        ("rate_limit_error", "rate-limit"),
        ("something_new", "cut"),
    ],
)
def test_an_error_in_the_middle_of_a_stream(
    server: AnthropicServer, provider: AnthropicProvider, theirs: str, kind: str
) -> None:
    reply = answer("In Paris.")
    reply.events[3:] = [error_event(theirs, f"{KEY} Where is the Louvre?")]
    server.reply(reply)
    with pytest.raises(ProviderError) as caught:
        list(provider.stream(MODEL, QUESTION))
    assert (caught.value.kind, caught.value.billed) == (kind, True)
    assert KEY not in str(caught.value) and "Louvre" not in str(caught.value)


def test_a_stream_without_its_last_report(
    server: AnthropicServer, provider: AnthropicProvider
) -> None:
    # The start says one token of output: taken for the whole, it would be far too cheap.
    reply = answer("In Paris.")
    reply.events[-2] = event("message_delta", {"delta": {"stop_reason": "end_turn"}})
    server.reply(reply)
    got = list(provider.stream(MODEL, QUESTION))[-1].answer
    assert got is not None and got.text == "In Paris." and got.usage is None


# The cache.


def test_marks_of_a_single_question() -> None:
    request = messages_request(MODEL, conversation(LONG, "q", tools=[TOOL]))
    # The tools alone are too short, and the question will not come again.
    assert marks(request) == [("system", "5m")]
    assert request["system"][-1]["cache_control"] == MARK


def test_marks_of_a_conversation() -> None:
    big_tool = copy.deepcopy(TOOL)
    big_tool["function"]["description"] = LONG  # type: ignore[index]
    prompt = conversation(LONG, "q1", "a1", "q2", "a2", "q3", tools=[TOOL, big_tool], ttl="1h")
    request = messages_request(MODEL, prompt)
    assert marks(request) == [("tools", "1h"), ("system", "1h"), ("2", "1h"), ("4", "1h")]
    assert "cache_control" not in request["tools"][0]
    assert request["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}


def test_the_next_turn_reads_what_this_one_writes() -> None:
    turns = [LONG, "q1", "a1", "q2", "a2", "q3"]
    before = marks(messages_request(MODEL, conversation(*turns[:4])))
    after = marks(messages_request(MODEL, conversation(*turns)))
    assert before[-1] == ("2", "5m") and ("2", "5m") in after


def test_a_loop_of_tool_calls_is_a_conversation() -> None:
    messages: tuple[dict[str, Any], ...] = (
        {"role": "user", "content": LONG},
        {"role": "assistant", "tool_calls": [tool_call("weather", "{}", "1")]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    )
    request = messages_request(MODEL, Prompt(messages))
    assert marks(request) == [("0", "5m"), ("2", "5m")]
    assert request["messages"][2]["content"][-1]["type"] == "tool_result"


@pytest.mark.parametrize(
    "prompt",
    [
        conversation("short", "q", "a", "q", tools=[TOOL]),
        conversation(LONG, "q", "a", "q", tools=[TOOL], enabled=False),
        conversation(),
        Prompt(({"role": "user", "content": LONG},)),
    ],
)
def test_no_marks(prompt: Prompt) -> None:
    assert marks(messages_request(MODEL, prompt)) == []


def test_the_minimum_is_the_models() -> None:
    prompt = conversation("You answer questions. " * 200, "q")  # about 1,400 tokens
    assert marks(messages_request("claude-sonnet-4-5", prompt)) == [("system", "5m")]
    assert marks(messages_request(MODEL, prompt)) == []


def text(content: str, **extra: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content, **extra}]


def test_the_users_marks_stay_and_count() -> None:
    own = [{"type": "text", "text": str(n), "cache_control": MARK} for n in range(3)]
    request = messages_request(MODEL, conversation(LONG, own, "a", "q", tools=[TOOL]))
    assert marks(request) == [("system", "5m"), ("0", "5m"), ("0", "5m"), ("0", "5m")]
    # Without ours, too.
    request = messages_request(MODEL, conversation("short", own, enabled=False))
    assert marks(request) == [("0", "5m")] * 3


def test_marks_on_whole_messages_and_tools() -> None:
    prompt = Prompt(
        messages=(
            {"role": "system", "content": "s", "cache_control": MARK},
            {"role": "user", "content": "u", "cache_control": MARK},
        ),
        tools=({**TOOL, "cache_control": MARK},),
    )
    assert marks(messages_request(MODEL, prompt)) == [
        ("tools", "5m"),
        ("system", "5m"),
        ("0", "5m"),
    ]


def test_longer_lives_come_before_shorter_ones() -> None:
    # The API refuses an hour after five minutes.
    early = conversation(text(LONG, cache_control=MARK), "q", "a", "q", ttl="1h")
    assert marks(messages_request(MODEL, early)) == [("system", "5m"), ("0", "5m"), ("2", "5m")]
    hour = {"type": "ephemeral", "ttl": "1h"}
    late = conversation(LONG, "q", "a", text("q", cache_control=hour), ttl="5m")
    assert marks(messages_request(MODEL, late)) == [("system", "1h"), ("0", "1h"), ("2", "1h")]


def test_the_automatic_mark_counts() -> None:
    prompt = conversation(LONG, "q", "a", "q")
    prompt = Prompt(prompt.messages, options={"cache_control": MARK})
    assert marks(messages_request(MODEL, prompt)) == [("system", "5m"), ("0", "5m")]


MARKABLE = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.integers(0, 2)),
    max_size=8,
)


@given(turns=MARKABLE, ttl=st.sampled_from(["5m", "1h"]), has_tools=st.booleans())
def test_never_more_than_four_marks(turns: Any, ttl: Any, has_tools: bool) -> None:
    budget = 4
    messages = []
    for role, n_marks in turns:
        n_marks = min(n_marks, budget, 1 if role == "tool" else 2)
        budget -= n_marks
        own = [{"type": "text", "text": LONG, "cache_control": MARK}] * n_marks
        messages.append({"role": role, "content": [*own, *text(LONG)], "tool_call_id": "1"})
    prompt = Prompt(tuple(messages), (TOOL,) * has_tools, cache=CacheMarks(ttl=ttl))
    before = copy.deepcopy(prompt.messages)
    found = [life for _, life in marks(messages_request(MODEL, prompt))]
    assert 4 - budget <= len(found) <= 4
    assert found == sorted(found), "1h before 5m"
    assert prompt.messages == before


# Usage.


def test_usage_of_a_message() -> None:
    # Anthropic's input tokens are the fresh ones; ours are all.
    usage = usage_of(USAGE)
    assert usage == Usage(2500, 300, 2000, 200, 50, 120)
    assert usage.fresh_input_tokens == 300
    assert usage_of({"input_tokens": 7, "output_tokens": 0, "cache_creation": None}) == Usage(7, 0)


def test_usage_from_the_breakdown_alone() -> None:
    lives = {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}
    usage = usage_of({"input_tokens": 7, "output_tokens": 1, "cache_creation": lives})
    assert usage == Usage(37, 1, 0, 30, 20)


@pytest.mark.parametrize("bad", ["300", 300.0, -1, True, None])
def test_text_and_fractions_are_no_counts(bad: object) -> None:
    for name in ("input_tokens", "output_tokens"):
        assert usage_of({**USAGE, name: bad}) is None
    if bad is not None:
        assert usage_of({**USAGE, "cache_read_input_tokens": bad}) is None


COUNTS = [
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    *("ephemeral_1h_input_tokens", "ephemeral_5m_input_tokens", "thinking_tokens"),
]


@given(report=reports(COUNTS, ["cache_creation", "output_tokens_details"]))
def test_any_report_is_a_usage_or_unknown(report: Any) -> None:
    usage = usage_of(report)
    assert usage is None or usage.input_tokens > 0
    if usage is not None:
        assert usage.fresh_input_tokens == report["input_tokens"]
        assert usage.output_tokens == report["output_tokens"]


def test_by_its_name() -> None:
    assert repr(make_provider("anthropic", KEY)) == "AnthropicProvider(id='anthropic')"
    assert KEY not in json.dumps(repr(vars(make_provider("anthropic"))))
