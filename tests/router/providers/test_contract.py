"""What holds for every provider, through its real SDK against a local server."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import logging
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from router.errors import MissingExtraError, ProviderError
from router.providers.base import Answer, Chunk, Prompt, Provider
from router.providers.sdk import SdkProvider
from tests.router.providers.setups import KEY, QUESTION, SETUPS, Setup
from tests.wire.openai_server import tool_call
from tests.wire.server import FakeServer, hang, raw, status, unreachable

WAYS = ["complete", "acomplete", "stream", "astream"]


@pytest.fixture(scope="module", params=SETUPS, ids=lambda setup: setup.id)
def setup(request: pytest.FixtureRequest) -> Setup:
    found: Setup = request.param
    return found


@pytest.fixture(scope="module")
def running(setup: Setup) -> Iterator[FakeServer]:
    with setup.server() as server:
        yield server


@pytest.fixture
def server(running: FakeServer) -> Iterator[FakeServer]:
    yield running
    running.reset()


@pytest.fixture
def provider(setup: Setup, server: FakeServer) -> Iterator[SdkProvider]:
    made = setup.provider(server.url)
    yield made
    made.close()


def call(
    provider: SdkProvider, way: str, model: str, prompt: Prompt, timeout_s: float | None = None
) -> Answer:
    """The answer, whichever way it is asked for; what was streamed has to add up to it."""
    if way == "complete":
        return provider.complete(model, prompt, timeout_s=timeout_s)
    if way == "stream":
        return whole(list(provider.stream(model, prompt, timeout_s=timeout_s)))

    async def run() -> Answer:
        try:
            if way == "acomplete":
                return await provider.acomplete(model, prompt, timeout_s=timeout_s)
            return whole([c async for c in provider.astream(model, prompt, timeout_s=timeout_s)])
        finally:
            await provider.aclose()

    return asyncio.run(run())


def whole(chunks: list[Chunk]) -> Answer:
    answer = chunks[-1].answer
    assert answer is not None and chunks[-1].text == ""
    assert [chunk.answer for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert "".join(chunk.text for chunk in chunks) == answer.text
    return answer


def failing(
    provider: SdkProvider, way: str, model: str, timeout_s: float | None = None
) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call(provider, way, model, QUESTION, timeout_s)
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(provider)
    assert KEY not in shown and "Louvre" not in str(error) and "Where is Paris" not in shown
    # Nor does the SDK's exception, whose request holds the key, hang on ours.
    assert error.__cause__ is None and error.__context__ is None
    assert provider.id in str(error) and model in str(error)
    return error


@pytest.mark.parametrize("way", WAYS)
def test_an_answer(setup: Setup, server: FakeServer, provider: SdkProvider, way: str) -> None:
    server.reply(setup.answer("In Paris, of course."))
    answer = call(provider, way, setup.model, QUESTION)
    assert answer.text == "In Paris, of course."
    assert answer.usage == setup.usage
    assert answer.finish_reason == "stop"
    assert answer.tool_calls == ()
    assert answer.model and answer.provider_request_id
    assert (answer.raw is None) == ("stream" in way)
    assert "Paris" not in repr(answer)
    assert len(server.requests) == 1
    assert KEY in " ".join(server.last.headers.values())


def test_it_keeps_the_protocol(setup: Setup, provider: SdkProvider) -> None:
    assert isinstance(provider, Provider)
    assert provider.id == setup.id
    assert provider.cache_policy(setup.model, QUESTION.cache) is not None


@pytest.mark.parametrize("way", WAYS)
def test_tool_calls(setup: Setup, server: FakeServer, provider: SdkProvider, way: str) -> None:
    arguments = [json.dumps({"city": "Paris"}), json.dumps({"city": "Lyon", "days": 2})]
    calls = [tool_call("weather", text, f"call_{i}") for i, text in enumerate(arguments)]
    server.reply(setup.answer(None, tool_calls=calls, finish_reason="tool_calls"))
    answer = call(provider, way, setup.model, QUESTION)
    assert answer.text == "" and answer.finish_reason == "tool_calls"
    assert [made["function"]["name"] for made in answer.tool_calls] == ["weather"] * 2
    assert [json.loads(made["function"]["arguments"]) for made in answer.tool_calls] == [
        json.loads(text) for text in arguments
    ]
    assert [made["id"] for made in answer.tool_calls] == ["call_0", "call_1"]
    assert {made["type"] for made in answer.tool_calls} == {"function"}


@pytest.mark.parametrize(
    ("theirs", "ours"), [("length", "length"), ("content_filter", "content_filter")]
)
@pytest.mark.parametrize("way", ["complete", "stream"])
def test_finish_reasons(
    setup: Setup, server: FakeServer, provider: SdkProvider, way: str, theirs: str, ours: str
) -> None:
    server.reply(setup.answer("Par", finish_reason=theirs))
    assert call(provider, way, setup.model, QUESTION).finish_reason == ours


@pytest.mark.parametrize("way", WAYS)
def test_missing_usage_is_unknown(
    setup: Setup, server: FakeServer, provider: SdkProvider, way: str
) -> None:
    server.reply(setup.answer("Paris.", usage=None))
    answer = call(provider, way, setup.model, QUESTION)
    assert answer.text == "Paris." and answer.usage is None


@pytest.mark.parametrize("way", ["complete", "stream"])
def test_malformed_usage_is_unknown(
    setup: Setup, server: FakeServer, provider: SdkProvider, way: str
) -> None:
    for usage in setup.bad_usages:
        server.reply(setup.answer("Paris.", usage=usage))
        answer = call(provider, way, setup.model, QUESTION)
        assert (answer.text, answer.usage) == ("Paris.", None), usage


@pytest.mark.parametrize("way", ["complete", "acomplete"])
@pytest.mark.parametrize(
    "body",
    [b'{"id": "x", "cho', b"", b"[]", b'"text"', b"{}", b"<html>proxy</html>", b"\xff\xfe"],
    ids=repr,
)
def test_an_answer_that_cannot_be_read(
    setup: Setup, server: FakeServer, provider: SdkProvider, way: str, body: bytes
) -> None:
    server.reply(raw(body))
    error = failing(provider, way, setup.model)
    assert (error.kind, error.billed) == ("malformed", True)


def test_an_answer_that_is_no_json(setup: Setup, server: FakeServer, provider: SdkProvider) -> None:
    server.reply(raw(b"<html>busy</html>", "text/html"))
    assert failing(provider, "complete", setup.model).kind == "malformed"


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_of_something_else(
    setup: Setup, server: FakeServer, provider: SdkProvider, way: str
) -> None:
    server.reply(dataclasses.replace(setup.answer(), events=[b"data: {nonsense\n\n"]))
    error = failing(provider, way, setup.model)
    assert error.kind in ("malformed", "cut") and error.billed


STATUSES: list[tuple[int, str]] = [
    *((code, "refused") for code in (400, 404, 413, 422)),
    *((code, "auth") for code in (401, 403)),
    *((code, "timeout") for code in (408, 504, 524)),
    (429, "rate-limit"),
    *((code, "outage") for code in (500, 502, 503, 529)),
]


@pytest.mark.parametrize("way", WAYS)
def test_statuses(setup: Setup, server: FakeServer, provider: SdkProvider, way: str) -> None:
    for code, kind in STATUSES if way == "complete" else STATUSES[::5]:
        server.reply(status(code, setup.error(code)))
        error = failing(provider, way, setup.model)
        # What ran out of time at the provider may have been worked on, and charged.
        assert (error.kind, error.billed) == (kind, kind == "timeout"), code
        assert str(code) in str(error)
    # Once each: retrying is for the caller.
    assert len(server.requests) == len(STATUSES if way == "complete" else STATUSES[::5])


@pytest.mark.parametrize(
    ("headers", "least_s", "most_s"),
    [
        ({"retry-after": "7"}, 7, 7),
        ({"retry-after": "0.25"}, 0.25, 0.25),
        ({"retry-after": "Fri, 01 Jan 2999 00:00:00 GMT"}, 1e9, 1e11),
        ({"retry-after": "Fri, 01 Jan 1999 00:00:00 GMT"}, 0, 0),
        ({"retry-after": "9", "retry-after-ms": "1500"}, 1.5, 1.5),
    ],
)
def test_when_to_come_back(
    setup: Setup,
    server: FakeServer,
    provider: SdkProvider,
    headers: dict[str, str],
    least_s: float,
    most_s: float,
) -> None:
    server.reply(status(429, setup.error(429), headers))
    error = failing(provider, "complete", setup.model)
    assert error.retry_after_s is not None and least_s <= error.retry_after_s <= most_s


@pytest.mark.parametrize("value", ["soon", "nan", "inf", ""])
def test_no_time_to_come_back(
    setup: Setup, server: FakeServer, provider: SdkProvider, value: str
) -> None:
    server.reply(status(503, setup.error(503), {"retry-after": value}))
    assert failing(provider, "complete", setup.model).retry_after_s is None


@pytest.mark.parametrize("way", WAYS)
def test_options_that_the_sdk_does_not_take(
    setup: Setup, server: FakeServer, provider: SdkProvider, way: str
) -> None:
    prompt = dataclasses.replace(QUESTION, options={"no_such_option": 1})
    with pytest.raises(ProviderError) as caught:
        call(provider, way, setup.model, prompt)
    assert (caught.value.kind, caught.value.billed) == ("refused", False)
    assert server.requests == []


@pytest.mark.parametrize("way", WAYS)
def test_no_answer_in_time(
    setup: Setup, server: FakeServer, provider: SdkProvider, way: str
) -> None:
    server.reply(hang())
    error = failing(provider, way, setup.model, timeout_s=0.2)
    assert (error.kind, error.billed) == ("timeout", True)
    assert len(server.requests) == 1


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_silence_in_the_middle(
    setup: Setup, server: FakeServer, provider: SdkProvider, way: str
) -> None:
    server.reply(dataclasses.replace(setup.answer("In Paris."), cut_after=3, hangs=True))
    error = failing(provider, way, setup.model, timeout_s=0.3)
    assert (error.kind, error.billed) == ("timeout", True)


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("breaks", [False, True])
def test_a_stream_that_is_cut(
    setup: Setup, server: FakeServer, provider: SdkProvider, way: str, breaks: bool
) -> None:
    server.reply(dataclasses.replace(setup.answer("In Paris."), cut_after=3, breaks=breaks))
    error = failing(provider, way, setup.model)
    assert (error.kind, error.billed) == ("cut", True)


def test_what_came_before_the_cut_is_passed_on(
    setup: Setup, server: FakeServer, provider: SdkProvider
) -> None:
    server.reply(dataclasses.replace(setup.answer("In Paris, of course."), cut_after=4))
    got: list[str] = []
    with pytest.raises(ProviderError, match="ended in the middle"):
        got.extend(chunk.text for chunk in provider.stream(setup.model, QUESTION))
    assert "".join(got) and "In Paris, of course.".startswith("".join(got))


def test_an_answer_that_breaks(setup: Setup, server: FakeServer, provider: SdkProvider) -> None:
    server.reply(dataclasses.replace(setup.answer("In Paris."), breaks=True))
    error = failing(provider, "complete", setup.model)
    assert (error.kind, error.billed) == ("outage", True)


@pytest.mark.parametrize("way", WAYS)
def test_nobody_listens(setup: Setup, way: str) -> None:
    with unreachable() as url:
        provider = setup.provider(url)
        error = failing(provider, way, setup.model, timeout_s=5)
        provider.close()
    assert (error.kind, error.billed) == ("outage", False)


def test_a_stream_may_be_left(setup: Setup, server: FakeServer, provider: SdkProvider) -> None:
    stream = provider.stream(setup.model, QUESTION)
    assert next(stream).text
    stream.close()  # type: ignore[attr-defined]
    assert provider.complete(setup.model, QUESTION).text == "Paris."


def test_the_key_from_the_environment(
    setup: Setup, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setup.key_variable, KEY)
    provider = setup.make(base_url=server.url)
    provider.complete(setup.model, QUESTION)
    assert KEY in " ".join(server.last.headers.values())
    provider.close()


def test_no_key(setup: Setup, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(setup.key_variable, raising=False)
    provider = setup.make(base_url=server.url)
    with pytest.raises(ProviderError, match="key") as caught:
        provider.complete(setup.model, QUESTION)
    assert caught.value.kind == "auth" and caught.value.__context__ is None
    assert server.requests == []
    provider.close()


def test_the_key_is_in_no_log(
    setup: Setup, server: FakeServer, provider: SdkProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    provider.complete(setup.model, QUESTION)
    server.reply(status(401, setup.error(401)))
    failing(provider, "stream", setup.model)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("router")]
    assert KEY not in "".join(ours)


def test_an_sdk_that_is_missing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("router.providers.sdk.import_module", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'cps-router\["):
        setup.provider("http://127.0.0.1:1").complete(setup.model, QUESTION)


def test_shared_between_threads(setup: Setup, server: FakeServer) -> None:
    provider = setup.provider(server.url)
    barrier = threading.Barrier(8)

    def ask(_: int) -> str:
        barrier.wait()
        return provider.complete(setup.model, QUESTION).text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == ["Paris."] * 8
    client = provider._client
    assert client is provider._sync_client()
    provider.close()


def test_one_provider_in_several_event_loops(
    setup: Setup, server: FakeServer, provider: SdkProvider
) -> None:
    for _ in range(2):
        assert call(provider, "acomplete", setup.model, QUESTION).text == "Paris."
    gc.collect()
    assert len(provider._async_clients) == 0


def test_many_at_once(setup: Setup, server: FakeServer, provider: SdkProvider) -> None:
    async def run() -> list[Answer]:
        answers = await asyncio.gather(
            *(provider.acomplete(setup.model, QUESTION) for _ in range(8))
        )
        await provider.aclose()
        return answers

    assert [answer.text for answer in asyncio.run(run())] == ["Paris."] * 8


def test_used_again_after_close(setup: Setup, server: FakeServer, provider: SdkProvider) -> None:
    provider.complete(setup.model, QUESTION)
    provider.close()
    provider.close()
    assert provider.complete(setup.model, QUESTION).text == "Paris."


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"why": {"type": "string"}, "city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def _reversed(value: Any) -> Any:
    """The same value with every object filled in the other order, but for a schema's properties."""
    if isinstance(value, dict):
        return {
            key: inner if key == "properties" else _reversed(inner)
            for key, inner in reversed(value.items())
        }
    return value


def test_the_prefix_keeps_its_bytes(
    setup: Setup, server: FakeServer, provider: SdkProvider
) -> None:
    """Two calls with the same tools and system, filled in another order, and another question."""
    system = "Answer in one word. " * 400
    for question, tool in [("first?", TOOL), ("second?", _reversed(TOOL))]:
        provider.complete(
            setup.model,
            Prompt(
                messages=(
                    {"role": "system", "content": system},
                    {"role": "user", "content": question},
                ),
                tools=(tool,),
                max_output_tokens=50,
            ),
        )
    first, second = server.requests[-2].body, server.last.body
    assert b"first?" in first and first.replace(b"first?", b"second?") == second
    # The order in which a model fills in its arguments is the caller's.
    assert second.index(b'"why"') < second.index(b'"city"')
