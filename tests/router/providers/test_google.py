"""Google: what is sent, explicit caches from creation to deletion, what the tokens mean."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given

from router.errors import ProviderError
from router.providers import make_provider
from router.providers.base import Answer, CacheMarks, Prompt
from router.providers.google import GoogleProvider, usage_of
from router.providers.google_caches import GoogleCaches
from router.providers.google_request import generate_request
from router.usage import Usage
from tests.router.providers.setups import KEY, QUESTION
from tests.router.providers.strategies import reports
from tests.wire.google_server import USAGE, GoogleServer, answer, blocked
from tests.wire.openai_server import tool_call
from tests.wire.server import status

MODEL = "gemini-2.5-flash"  # caches from 2,048 tokens
LONG = "You answer questions about museums. " * 300  # about 3,600 tokens
MARK = {"cache_control": {"type": "ephemeral"}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def running() -> Iterator[GoogleServer]:
    with GoogleServer() as server:
        yield server


@pytest.fixture
def server(running: GoogleServer) -> Iterator[GoogleServer]:
    yield running
    running.reset()


@pytest.fixture
def provider(server: GoogleServer) -> Iterator[GoogleProvider]:
    made = GoogleProvider(KEY, base_url=server.url)
    yield made
    made.close()


class Clock:
    """A clock that only we move."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(provider: GoogleProvider) -> Clock:
    made = Clock()
    provider._caches = GoogleCaches(max_caches=2, clock=made)
    return made


def conversation(*contents: Any, **marks: Any) -> Prompt:
    roles = ("system", "user", "assistant", "user", "assistant", "user")
    return Prompt(
        messages=tuple(
            {"role": role, "content": content}
            for role, content in zip(roles, contents, strict=False)
        ),
        cache=CacheMarks(**{"explicit": True, **marks}),
    )


def test_the_request(server: GoogleServer, provider: GoogleProvider) -> None:
    provider.complete(MODEL, QUESTION)
    assert server.last.path == f"/v1/models/{MODEL}:generateContent"
    assert server.last.json == {
        "contents": [{"role": "user", "parts": [{"text": "Where is the Louvre?"}]}],
        "systemInstruction": {"parts": [{"text": "Answer in one word."}]},
        "generationConfig": {"maxOutputTokens": 50, "temperature": 0.5},
    }
    assert server.last.headers["x-goog-api-key"] == KEY


def test_tools_images_and_options(server: GoogleServer, provider: GoogleProvider) -> None:
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]
    prompt = Prompt(
        ({"role": "user", "content": content},), tools=(TOOL,), options={"temperature": 0.9}
    )
    provider.complete(MODEL, prompt)
    body = server.last.json
    assert body["contents"][0]["parts"] == [
        {"text": "What is this?"},
        # The SDK leaves these names as they were given; Google's JSON takes both spellings.
        {"inlineData": {"mime_type": "image/png", "data": "QUJD"}},
        {"fileData": {"file_uri": "https://example.org/a.png"}},
    ]
    declared = {"name": "weather", "parameters_json_schema": {"type": "object"}}
    assert body["tools"] == [{"functionDeclarations": [declared]}]
    assert body["generationConfig"] == {"temperature": 0.9}


def test_tool_calls_go_back_with_their_signatures(
    server: GoogleServer, provider: GoogleProvider
) -> None:
    signature = base64.b64encode(b"\xfb\xff\xfethoughts").decode()
    calls = [tool_call("weather", '{"city": "Paris"}', ""), tool_call("now", "{}", "")]
    server.reply(answer(None, tool_calls=calls, signature=signature))
    got = provider.complete("gemini-3.1-pro-preview", QUESTION)
    # Gemini names no ids; other providers need them.
    assert len({call["id"] for call in got.tool_calls}) == 2
    results = [
        {"role": "tool", "tool_call_id": got.tool_calls[0]["id"], "content": '{"sky": "blue"}'},
        {"role": "tool", "tool_call_id": got.tool_calls[1]["id"], "content": "noon"},
    ]
    asked = {"role": "assistant", "content": None, "tool_calls": list(got.tool_calls)}
    messages = (*QUESTION.messages, asked, *results)
    provider.complete("gemini-3.1-pro-preview", Prompt(messages))
    _, model, tool = server.last.json["contents"]
    assert model["role"] == "model"
    assert model["parts"][0]["functionCall"] == {"name": "weather", "args": {"city": "Paris"}}
    sent = model["parts"][0]["thoughtSignature"]
    assert base64.urlsafe_b64decode(sent) == base64.b64decode(signature)
    responses = [part["functionResponse"] for part in tool["parts"]]
    assert responses == [
        {"name": "weather", "response": {"sky": "blue"}},
        {"name": "now", "response": {"result": "noon"}},
    ]
    # A call that another model made has the word that Google has for it, as it is.
    assert model["parts"][1]["thoughtSignature"] == "skip_thought_signature_validator"
    provider.complete(MODEL, Prompt(messages))
    assert "thoughtSignature" not in server.last.json["contents"][1]["parts"][1]


@pytest.mark.parametrize("way", ["complete", "stream"])
def test_a_blocked_prompt(server: GoogleServer, provider: GoogleProvider, way: str) -> None:
    server.reply(blocked())
    got = ask(provider, way, QUESTION)
    assert (got.text, got.finish_reason, got.usage) == ("", "content_filter", Usage(10, 0))


@pytest.mark.parametrize("way", ["complete", "stream"])
def test_thoughts_are_no_text(server: GoogleServer, provider: GoogleProvider, way: str) -> None:
    server.reply(answer("Paris.", thought="The Louvre..."))
    assert ask(provider, way, QUESTION).text == "Paris."


def test_a_usage_that_the_sdk_cannot_read(server: GoogleServer, provider: GoogleProvider) -> None:
    # The SDK checks types itself, and gives nothing of such a response.
    server.reply(answer("Paris.", usage={"promptTokenCount": "many"}))
    with pytest.raises(ProviderError) as caught:
        provider.complete(MODEL, QUESTION)
    assert (caught.value.kind, caught.value.billed) == ("malformed", True)


def test_when_to_come_back_is_in_the_body(server: GoogleServer, provider: GoogleProvider) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]
    server.reply(status(429, {"error": {"code": 429, "details": details}}))
    with pytest.raises(ProviderError) as caught:
        provider.complete(MODEL, QUESTION)
    assert caught.value.retry_after_s == 34.5


def ask(provider: GoogleProvider, way: str, prompt: Prompt, model: str = MODEL) -> Answer:
    if way == "complete":
        return provider.complete(model, prompt)
    if way == "stream":
        last = list(provider.stream(model, prompt))[-1].answer
        assert last is not None
        return last

    async def run() -> Answer:
        client = provider._async_client()
        try:
            if way == "acomplete":
                return await provider.acomplete(model, prompt)
            chunks = [chunk async for chunk in provider.astream(model, prompt)]
            assert chunks[-1].answer is not None
            return chunks[-1].answer
        finally:
            # Only the client: the caches are to stay.
            provider._async_clients.clear()
            await provider._close_async(client)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(QUESTION.messages, options={"no_such_option": 1}),
        Prompt(QUESTION.messages, options={"temperature": "hot"}),
        Prompt(({"role": "user", "content": [{"type": "no_such_part", "no_such_part": 1}]},)),
    ],
)
def test_what_the_sdk_does_not_take(
    server: GoogleServer, provider: GoogleProvider, prompt: Prompt
) -> None:
    for way in WAYS:
        with pytest.raises(ProviderError) as caught:
            ask(provider, way, prompt)
        assert (caught.value.kind, caught.value.billed) == ("refused", False)
    assert server.requests == []


# Explicit caches.

WAYS = ["complete", "acomplete", "stream", "astream"]


@pytest.mark.parametrize("way", WAYS)
def test_a_cache_is_created_once_and_used(
    server: GoogleServer, provider: GoogleProvider, way: str
) -> None:
    for question in ("first?", "second?"):
        assert ask(provider, way, conversation(LONG, question)).text == "Paris."
    assert server.cache_calls == [("POST", "")]
    (cache,) = server.caches.values()
    assert cache["model"] == f"models/{MODEL}" and cache["ttl"] == "300s"
    assert cache["systemInstruction"] == {"parts": [{"text": LONG}]}
    for body, question in zip(server.generated, ("first?", "second?"), strict=True):
        assert body["cachedContent"] == "cachedContents/c" + str(server._n_created)
        # What the cache holds is not said again: the API refuses that.
        assert body["contents"] == [{"role": "user", "parts": [{"text": question}]}]
        assert "systemInstruction" not in body


def test_tools_are_in_the_cache(server: GoogleServer, provider: GoogleProvider) -> None:
    prompt = conversation(LONG, "q")
    provider.complete(MODEL, Prompt(prompt.messages, (TOOL,), cache=prompt.cache))
    (cache,) = server.caches.values()
    assert cache["tools"][0]["functionDeclarations"][0]["name"] == "weather"
    assert "tools" not in server.last.json


@pytest.mark.parametrize(
    "prompt",
    [
        conversation("short", "q"),
        conversation(LONG, "q", explicit=False),
        conversation(LONG, "q", enabled=False),
        conversation("short", LONG),  # its last turn is not its beginning
        Prompt(
            conversation(LONG, "q").messages,
            cache=CacheMarks(explicit=True),
            options={"tool_config": {"function_calling_config": {"mode": "NONE"}}},
        ),
    ],
)
def test_no_cache(server: GoogleServer, provider: GoogleProvider, prompt: Prompt) -> None:
    provider.complete(MODEL, prompt)
    assert server.cache_calls == []


def test_the_longest_prefix_that_lives(server: GoogleServer, provider: GoogleProvider) -> None:
    # Too short a system prompt, but a conversation that is long enough.
    provider.complete(MODEL, conversation("short", LONG, "a1", "q2"))
    (cache,) = server.caches.values()
    assert [content["role"] for content in cache["contents"]] == ["user", "model"]
    provider.complete(MODEL, conversation("short", LONG, "a1", "q2", "a2", "q3"))
    assert server.cache_calls == [("POST", "")]
    assert [c["parts"][0]["text"] for c in server.last.json["contents"]] == ["q2", "a2", "q3"]
    # Another conversation has nothing of it.
    provider.complete(MODEL, conversation("short", LONG + "!", "a1", "q2"))
    assert server.cache_calls == [("POST", "")] * 2


def test_the_user_says_where_the_stable_part_ends(
    server: GoogleServer, provider: GoogleProvider
) -> None:
    document = [{"type": "text", "text": LONG, **MARK}]
    prompt = conversation("short", document, "Understood.", "q")
    provider.complete(MODEL, prompt)
    (cache,) = server.caches.values()
    assert [content["role"] for content in cache["contents"]] == ["user"]
    assert len(server.last.json["contents"]) == 2


def test_another_model_has_another_cache(server: GoogleServer, provider: GoogleProvider) -> None:
    for model in (MODEL, "gemini-2.5-pro"):
        provider.complete(model, conversation(LONG, "q"))
    assert [cache["model"] for cache in server.caches.values()] == [
        f"models/{MODEL}",
        "models/gemini-2.5-pro",
    ]


@pytest.mark.parametrize("way", ["complete", "acomplete"])
def test_a_cache_is_kept_alive(
    server: GoogleServer, provider: GoogleProvider, clock: Clock, way: str
) -> None:
    for at_s in (0, 1000, 1900, 3000):
        clock.now_s = at_s
        ask(provider, way, conversation(LONG, "q", ttl="1h"))
    # Once, when half of its hour was over; then it is new again.
    name = next(iter(server.caches)).removeprefix("cachedContents")
    assert server.cache_calls == [("POST", ""), ("PATCH", name)]
    (patch,) = [received for received in server.requests if received.method == "PATCH"]
    assert patch.json == {"ttl": "3600s"}
    clock.now_s = 1900 + 3599
    ask(provider, way, conversation(LONG, "q", ttl="1h"))
    assert server.cache_calls[2:] == [("PATCH", name)]


def test_an_expired_cache_is_replaced(
    server: GoogleServer, provider: GoogleProvider, clock: Clock
) -> None:
    provider.complete(MODEL, conversation(LONG, "q"))
    clock.now_s += 301
    provider.complete(MODEL, conversation(LONG, "q"))
    assert server.cache_calls == [("POST", "")] * 2


@pytest.mark.parametrize("way", WAYS)
def test_a_cache_that_vanished(server: GoogleServer, provider: GoogleProvider, way: str) -> None:
    ask(provider, way, conversation(LONG, "q"))
    server.caches.clear()
    assert ask(provider, way, conversation(LONG, "again?")).text == "Paris."
    # With it, then without it; the next call makes a new one.
    with_it, without = server.generated[-2:]
    assert "cachedContent" in with_it and "cachedContent" not in without
    assert without["systemInstruction"] == {"parts": [{"text": LONG}]}
    ask(provider, way, conversation(LONG, "q"))
    assert server.cache_calls.count(("POST", "")) == 2


def test_a_cache_that_vanished_before_its_refresh(
    server: GoogleServer, provider: GoogleProvider, clock: Clock
) -> None:
    provider.complete(MODEL, conversation(LONG, "q"))
    server.caches.clear()
    clock.now_s += 200
    provider.complete(MODEL, conversation(LONG, "q"))
    assert "cachedContent" not in server.last.json


def test_another_failure_is_not_the_caches(server: GoogleServer, provider: GoogleProvider) -> None:
    provider.complete(MODEL, conversation(LONG, "q"))
    server.reply(status(503, {}))
    with pytest.raises(ProviderError) as caught:
        provider.complete(MODEL, conversation(LONG, "q"))
    assert caught.value.kind == "outage" and len(server.generated) == 2
    assert provider.complete(MODEL, conversation(LONG, "q")).text == "Paris."
    assert server.cache_calls == [("POST", "")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (400, "* GenerateContentRequest.contents[0].parts[0].data: required oneof field 'data'"),
        (400, "CachedContent can not be used with GenerateContent request setting tools."),
        (400, "The model of the request and of cached content has to be the same."),
        (400, "API key expired. Please renew the API key."),
        (403, "The caller does not have permission"),
        (403, "You do not have permission to access the File abc or it may not exist."),
        (404, "models/gemini-9 is not found for API version v1beta"),
        (400, None),
    ],
)
def test_a_fault_of_the_request_costs_no_cache(
    server: GoogleServer, provider: GoogleProvider, way: str, code: int, message: str | None
) -> None:
    provider.complete(MODEL, conversation(LONG, "q"))
    server.reply(status(code, {"error": {"code": code, "message": message}}))
    with pytest.raises(ProviderError) as caught:
        ask(provider, way, conversation(LONG, "q"))
    assert caught.value.kind in ("refused", "auth") and len(server.generated) == 2
    assert ask(provider, way, conversation(LONG, "q")).text == "Paris."
    assert "cachedContent" in server.last.json and server.cache_calls == [("POST", "")]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (403, "CachedContent not found (or permission denied)"),
        (404, "Cached content cachedContents/c1 not found."),
        (404, "Not found: cached content metadata for 7 does not exist"),
        (400, "Cache content 7243 is expired."),
        (400, "The cached content 7243 has expired"),
    ],
)
def test_a_cache_that_is_gone_in_other_words(
    server: GoogleServer, provider: GoogleProvider, code: int, message: str
) -> None:
    provider.complete(MODEL, conversation(LONG, "q"))
    server.reply(status(code, {"error": {"code": code, "message": message}}))
    assert provider.complete(MODEL, conversation(LONG, "q")).text == "Paris."
    assert "cachedContent" not in server.last.json
    provider.complete(MODEL, conversation(LONG, "q"))
    assert server.cache_calls.count(("POST", "")) == 2


def test_a_refresh_that_is_not_allowed_costs_no_cache(
    server: GoogleServer, provider: GoogleProvider, clock: Clock
) -> None:
    provider.complete(MODEL, conversation(LONG, "q"))
    clock.now_s += 200
    server.refuse_updates = 403
    provider.complete(MODEL, conversation(LONG, "q"))
    assert "cachedContent" in server.last.json


@pytest.mark.parametrize(("code", "n_tries"), [(400, 1), (429, 2), (500, 2)])
def test_a_cache_that_is_refused(
    server: GoogleServer, provider: GoogleProvider, code: int, n_tries: int
) -> None:
    server.refuse_caches = code
    for _ in range(2):
        assert provider.complete(MODEL, conversation(LONG, "q")).text == "Paris."
    # What the API does not cache is not offered again; what it had no time for is.
    assert len(server.cache_calls) == n_tries


def test_the_number_of_caches_is_bounded(
    server: GoogleServer, provider: GoogleProvider, clock: Clock
) -> None:
    for name in "abc":
        provider.complete(MODEL, conversation(name + LONG, "q"))
    assert server.cache_calls[-1][0] == "DELETE"
    kept = [cache["systemInstruction"]["parts"][0]["text"][0] for cache in server.caches.values()]
    assert kept == ["b", "c"]


def test_caches_are_deleted(server: GoogleServer, provider: GoogleProvider) -> None:
    provider.complete(MODEL, conversation(LONG, "q"))
    provider.complete(MODEL, conversation("!" + LONG, "q"))
    del server.caches[next(iter(server.caches))]  # one is gone already
    assert provider.delete_caches() == 1
    assert server.caches == {} and provider.delete_caches() == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_caches_are_deleted_on_close(server: GoogleServer, asynchronous: bool) -> None:
    provider = GoogleProvider(KEY, base_url=server.url)

    async def run() -> None:
        await provider.acomplete(MODEL, conversation(LONG, "q"))
        assert len(server.caches) == 1
        await provider.aclose()

    if asynchronous:
        asyncio.run(run())
    else:
        provider.complete(MODEL, conversation(LONG, "q"))
        assert len(server.caches) == 1
        provider.close()
    assert server.caches == {}


def test_many_threads_make_one_cache(server: GoogleServer, provider: GoogleProvider) -> None:
    barrier = threading.Barrier(6)

    def call(_: int) -> str:
        barrier.wait()
        return provider.complete(MODEL, conversation(LONG, "q")).text

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(call, range(6))) == ["Paris."] * 6
    assert server.cache_calls == [("POST", "")]


def test_the_users_own_cache(server: GoogleServer, provider: GoogleProvider) -> None:
    server.caches["cachedContents/mine"] = {}
    prompt = Prompt(
        ({"role": "user", "content": "q"},),
        cache=CacheMarks(explicit=True),
        options={"cached_content": "cachedContents/mine"},
    )
    provider.complete(MODEL, prompt)
    assert server.last.json["cachedContent"] == "cachedContents/mine"
    provider.close()
    assert server.cache_calls == []


def test_the_callers_prompt_is_not_changed() -> None:
    prompt = conversation(LONG, [{"type": "text", "text": "x", **MARK}], "a", "q")
    before = repr(prompt.messages)
    shaped = generate_request(MODEL, prompt)
    assert repr(prompt.messages) == before and shaped.marked == 1


# Usage.


def test_usage_of_a_response() -> None:
    expected = Usage(2500, 300, 2000, 0, 0, 120)
    assert usage_of(USAGE) == expected
    snake = {
        "prompt_token_count": 2500,
        "cached_content_token_count": 2000,
        "candidates_token_count": 180,
        "thoughts_token_count": 120,
        "total_token_count": 2800,
        "prompt_tokens_details": None,
    }
    assert usage_of(snake) == expected


def test_what_its_own_tools_read_is_input() -> None:
    report = {"promptTokenCount": 10, "toolUsePromptTokenCount": 5, "candidatesTokenCount": 2}
    assert usage_of(report) == Usage(15, 2)


def test_a_count_that_is_left_out_is_0_only_where_the_total_says_so() -> None:
    report = {"promptTokenCount": 10, "thoughtsTokenCount": 5}
    assert usage_of({**report, "totalTokenCount": 15}) == Usage(10, 5, reasoning_tokens=5)
    assert usage_of({**report, "totalTokenCount": 17}) is None
    assert usage_of(report) is None


COUNTS = [
    *("prompt_token_count", "candidates_token_count", "thoughts_token_count"),
    *("total_token_count", "cached_content_token_count", "tool_use_prompt_token_count"),
    *("promptTokenCount", "candidatesTokenCount"),
]


@given(report=reports(COUNTS))
def test_any_report_is_a_usage_or_unknown(report: Any) -> None:
    usage = usage_of(report)
    assert usage is None or usage.input_tokens > 0


def test_by_its_name() -> None:
    assert repr(make_provider("google", KEY)) == "GoogleProvider(id='google')"
