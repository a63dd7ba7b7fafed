"""OpenAI and DeepSeek: what is sent, what marks the cache, what the tokens mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given

from router.errors import InputError
from router.providers import deepseek, make_provider, openai
from router.providers.base import CacheMarks, Prompt
from router.providers.openai_request import breakpoint_messages
from router.usage import Usage
from tests.router.providers.setups import KEY, QUESTION
from tests.router.providers.strategies import reports
from tests.wire.openai_server import USAGE, OpenAIServer, answer, tool_call

LONG = "You answer questions about museums. " * 300
COUNTS = [
    *("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens"),
    *("reasoning_tokens", "prompt_cache_hit_tokens", "prompt_cache_miss_tokens"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def server(running: OpenAIServer) -> Iterator[OpenAIServer]:
    yield running
    running.reset()


def sent(server: OpenAIServer, prompt: Prompt, model: str = "gpt-5-nano", **options: Any) -> Any:
    """The body that the server gets."""
    provider = openai.OpenAIProvider(KEY, base_url=server.url, **options)
    provider.complete(model, prompt)
    provider.close()
    return server.last.json


def conversation(*contents: Any, **marks: Any) -> Prompt:
    roles = ("system", "user", "assistant", "user", "assistant", "user")
    return Prompt(
        messages=tuple(
            {"role": role, "content": content}
            for role, content in zip(roles, contents, strict=False)
        ),
        cache=CacheMarks(**marks),
    )


def test_the_request(server: OpenAIServer) -> None:
    body = sent(server, QUESTION)
    assert body == {
        "model": "gpt-5-nano",
        "messages": list(QUESTION.messages),
        "max_completion_tokens": 50,
        "temperature": 0.5,
        "stream": False,
    }
    assert server.last.path == "/chat/completions"


def test_options_have_the_last_word(server: OpenAIServer) -> None:
    prompt = Prompt(
        ({"role": "user", "content": "hi"},),
        temperature=0.1,
        options={"temperature": 0.9, "reasoning_effort": "low"},
    )
    body = sent(server, prompt)
    assert (body["temperature"], body["reasoning_effort"]) == (0.9, "low")


def test_parts_and_tool_calls_pass_without_the_marks_of_others(server: OpenAIServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {**tool_call("weather", "{}"), "extra_content": {"google": {"thought_signature": "x"}}}
    mark = {"cache_control": {"type": "ephemeral"}}
    messages: tuple[dict[str, Any], ...] = (
        {"role": "developer", "content": "Be brief.", **mark},
        {"role": "user", "content": [{"type": "text", "text": "Where?", **mark}, image]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    )
    tool = {"type": "function", "function": {"name": "weather", **mark}, **mark}
    body = sent(server, Prompt(messages, tools=(tool,)))
    assert body["messages"] == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Where?"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [tool_call("weather", "{}")]},
        messages[3],
    ]
    assert body["tools"] == [{"type": "function", "function": {"name": "weather"}}]


def test_a_stream_asks_for_its_usage(server: OpenAIServer) -> None:
    provider = openai.OpenAIProvider(KEY, base_url=server.url)
    list(provider.stream("gpt-5-nano", QUESTION))
    provider.close()
    assert server.last.json["stream_options"] == {"include_usage": True}


def test_a_refusal_is_a_filtered_answer(server: OpenAIServer) -> None:
    provider = openai.OpenAIProvider(KEY, base_url=server.url)
    server.reply(*[answer(None, refusal="I cannot help with that.")] * 2)
    plain = provider.complete("gpt-5-nano", QUESTION)
    streamed = list(provider.stream("gpt-5-nano", QUESTION))[-1].answer
    provider.close()
    assert streamed is not None
    for got in (plain, streamed):
        assert (got.text, got.finish_reason) == ("I cannot help with that.", "content_filter")


@pytest.mark.parametrize(
    "messages",
    [({"role": "robot", "content": "x"},), ({"role": "user", "content": 3},), ({"content": "x"},)],
)
def test_what_is_not_in_the_chat_form(server: OpenAIServer, messages: Any) -> None:
    with pytest.raises(InputError, match="message 0"):
        sent(server, Prompt(messages))
    with pytest.raises(InputError, match="tool 0"):
        sent(server, Prompt(QUESTION.messages, tools=({"name": "weather"},)))
    assert server.requests == []


# The cache.


def test_the_cache_key(server: OpenAIServer) -> None:
    assert sent(server, conversation("s", "u", key="tenant"))["prompt_cache_key"] == "tenant"
    assert "prompt_cache_key" not in sent(server, conversation("s", "u", key="x", enabled=False))


def marked(body: Any) -> list[int]:
    return [
        index
        for index, message in enumerate(body["messages"])
        if isinstance(message["content"], list)
        and any("prompt_cache_breakpoint" in part for part in message["content"])
    ]


@pytest.mark.parametrize("model", ["gpt-5.6", "gpt-5.10-mini", "gpt-6-luna"])
def test_breakpoints(server: OpenAIServer, model: str) -> None:
    body = sent(server, conversation(LONG, "q", "a", "q", explicit=True), model)
    assert body["prompt_cache_options"] == {"mode": "explicit", "ttl": "30m"}
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": LONG, "prompt_cache_breakpoint": {"mode": "explicit"}}
    ]
    assert marked(body) == [0, 1, 3]
    # A single question is in no later prompt.
    assert marked(sent(server, conversation(LONG, "q", explicit=True), model)) == [0]


@pytest.mark.parametrize(
    ("model", "marks"),
    [
        ("gpt-5-nano", {"explicit": True}),
        ("gpt-5.4", {"explicit": True}),
        ("gpt-6-luna", {"explicit": False}),
        ("gpt-6-luna", {"explicit": True, "enabled": False}),
    ],
)
def test_no_breakpoints(server: OpenAIServer, model: str, marks: dict[str, Any]) -> None:
    body = sent(server, conversation(LONG, "q", "a", "q", **marks), model)
    assert marked(body) == [] and "prompt_cache_options" not in body


def test_too_short_for_a_breakpoint(server: OpenAIServer) -> None:
    # Mode "explicit" without one writes nothing, and so pays for no write.
    body = sent(server, conversation("short", "q", "a", "q", explicit=True), "gpt-6-luna")
    assert marked(body) == [] and body["prompt_cache_options"]["mode"] == "explicit"
    # The system prompt is too short, what follows it is not.
    body = sent(server, conversation("short", LONG, "a", "q", explicit=True), "gpt-6-luna")
    assert marked(body) == [1, 3]


def test_the_users_own_breakpoints_count(server: OpenAIServer) -> None:
    parts = [
        {"type": "text", "text": str(number), "cache_control": {"type": "ephemeral"}}
        for number in range(3)
    ]
    body = sent(server, conversation(LONG, parts, "a", "q", explicit=True), "gpt-6-luna")
    everywhere = [
        part for message in body["messages"] for part in message["content"] if "text" in part
    ]
    assert sum("prompt_cache_breakpoint" in part for part in everywhere) == 4
    assert "cache_control" not in str(body)
    assert marked(body) == [0, 1]


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("u", []),
        ("su", [0]),
        ("ssu", [1]),
        ("suau", [0, 3, 1]),
        ("suauau", [0, 5, 3]),
        ("uau", [2, 0]),
        ("suatat", [0, 5, 3]),
        ("sua", [0]),
        ("", []),
    ],
)
def test_where_a_prefix_ends(roles: str, expected: list[int]) -> None:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    assert breakpoint_messages([{"role": names[r], "content": "x"} for r in roles]) == expected


def test_the_callers_prompt_is_not_changed(server: OpenAIServer) -> None:
    parts = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]
    prompt = conversation(LONG, parts, "a", "q", explicit=True)
    before = repr([dict(message) for message in prompt.messages])
    sent(server, prompt, "gpt-6-luna")
    assert repr([dict(message) for message in prompt.messages]) == before


# Other servers.


def test_deepseek_at_its_address() -> None:
    assert deepseek.DeepSeekProvider()._base_url == "https://api.deepseek.com"


def test_another_server_of_the_same_language(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "openais-own")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-gateway: openais-own")
    monkeypatch.setenv("MY_SERVER_API_KEY", KEY)
    provider = make_provider("my-server", base_url=server.url)
    provider.complete("llama", Prompt(QUESTION.messages, max_output_tokens=5))
    provider.close()  # type: ignore[attr-defined]
    assert provider.id == "my-server"
    assert server.last.json["max_tokens"] == 5
    assert server.last.headers["authorization"] == f"Bearer {KEY}"
    # Nothing of OpenAI's account goes to somebody else.
    assert "openais-own" not in str(server.last.headers)


def test_an_unknown_provider() -> None:
    with pytest.raises(InputError, match="base_url"):
        make_provider("nobody")
    for provider_id in ("openai", "deepseek"):
        assert make_provider(provider_id).id == provider_id


# Usage.


def test_usage_of_a_completion() -> None:
    assert openai.usage_of(USAGE) == Usage(2500, 300, 2000, 100, 0, 120)
    bare = {"prompt_tokens": 5, "completion_tokens": 0, "prompt_tokens_details": None}
    assert openai.usage_of(bare) == Usage(5, 0)


@pytest.mark.parametrize(
    ("report", "cached"),
    [
        ({"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}, 64),
        ({"prompt_cache_hit_tokens": 64}, 64),
        ({"prompt_cache_miss_tokens": 36}, 64),
        ({"prompt_tokens_details": {"cached_tokens": 64}}, 64),
        ({}, 0),
    ],
)
def test_deepseek_counts_hits(report: dict[str, Any], cached: int) -> None:
    usage = deepseek.usage_of({"prompt_tokens": 100, "completion_tokens": 5, **report})
    assert usage == Usage(100, 5, cached)


@pytest.mark.parametrize("usage_of", [openai.usage_of, deepseek.usage_of])
@given(report=reports(COUNTS, ["prompt_tokens_details", "completion_tokens_details"]))
def test_any_report_is_a_usage_or_unknown(usage_of: Any, report: Any) -> None:
    usage = usage_of(report)
    assert usage is None or (isinstance(usage, Usage) and usage.input_tokens > 0)
    if usage is not None:
        assert usage.input_tokens == report["prompt_tokens"]
        assert usage.output_tokens == report["completion_tokens"]
