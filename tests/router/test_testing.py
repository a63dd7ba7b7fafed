"""The public fake provider: its script, its clock-less latency, its cache and its streams."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InputError, ProviderError
from router.providers.base import Answer, CacheMarks, Chunk, Prompt, Provider
from router.providers.caching import CachePolicy
from router.testing import Cut, FakeProvider, count_tokens


def asking(text: str, **options: Any) -> Prompt:
    return Prompt(({"role": "user", "content": text},), **options)


def test_it_is_a_provider() -> None:
    assert isinstance(FakeProvider(), Provider)


def test_scripts_are_texts_answers_functions_errors_and_lists_of_them() -> None:
    provider = FakeProvider(
        {
            "text": "one two",
            "answer": Answer("as it is"),
            "echo": lambda prompt: prompt.messages[0]["content"].upper(),
            "list": ["first", ProviderError("busy", kind="rate-limit", retry_after_s=3.0), "last"],
            "nasty": ValueError("x"),
        }
    )
    text = provider.complete("text", asking("Hello, world!"))
    assert text.usage is not None
    assert (text.text, text.usage.input_tokens, text.usage.output_tokens) == ("one two", 8, 2)
    assert provider.complete("answer", asking("?")).usage is None
    assert provider.complete("echo", asking("abc")).text == "ABC"
    assert provider.complete("list", asking("?")).text == "first"
    with pytest.raises(ProviderError, match="busy") as caught:
        provider.complete("list", asking("?"))
    assert (caught.value.kind, caught.value.retry_after_s) == ("rate-limit", 3.0)
    assert [provider.complete("list", asking("?")).text for _ in range(2)] == ["last", "last"]
    with pytest.raises(ValueError, match="x"):
        provider.complete("nasty", asking("?"))
    with pytest.raises(InputError, match="'other'"):
        provider.complete("other", asking("?"))
    assert [call.model for call in provider.calls][:3] == ["text", "answer", "echo"]


def test_latency_is_slept_and_a_time_limit_is_kept() -> None:
    slept: list[float] = []
    provider = FakeProvider("ok", latency_s=5.0, sleep=slept.append)
    assert provider.complete("m", asking("?"), timeout_s=6.0).text == "ok"
    with pytest.raises(ProviderError) as caught:
        provider.complete("m", asking("?"), timeout_s=2.0)
    assert (caught.value.kind, caught.value.billed) == ("timeout", True)
    assert slept == [5.0, 2.0]


def test_an_answer_ends_at_its_longest_length() -> None:
    answer = FakeProvider("one two three").complete("m", asking("?", max_output_tokens=2))
    assert (answer.text, answer.finish_reason) == ("one two", "length")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 2


def test_the_cache_keeps_long_prefixes_for_its_time() -> None:
    now = [0.0]
    policy = CachePolicy(min_tokens=20, ttl_s=60.0, step_tokens=10, writes_reported=True)
    provider = FakeProvider("ok", cache=policy, clock=lambda: now[0])
    assert provider.cache_policy("m", CacheMarks()) == policy
    history = " ".join(f"w{n}" for n in range(45))

    def usage(text: str, model: str = "m") -> tuple[int, int]:
        found = provider.complete(model, asking(text)).usage
        assert found is not None
        return found.cached_input_tokens, found.cache_write_tokens

    assert usage(history) == (0, 40)
    assert usage(history + " and more") == (40, 10)
    assert usage(history, model="other") == (0, 40)
    assert usage("short") == (0, 0)
    now[0] += 59.0  # a hit at the last moment refreshes it
    assert usage(history)[0] == 40
    now[0] += 59.0
    assert usage(history)[0] == 40
    now[0] += 61.0
    assert usage(history) == (0, 40)


def test_a_cache_that_needs_marks_gets_none_without_them() -> None:
    policy = CachePolicy(min_tokens=5, ttl_s=60.0, automatic=False)
    provider = FakeProvider("ok", cache=policy)
    text = " ".join(["word"] * 50)
    for _ in range(2):
        answer = provider.complete("m", asking(text, cache=CacheMarks(enabled=False)))
        assert answer.usage is not None
        assert answer.usage.cached_input_tokens == 0


def test_streams_come_in_pieces_and_can_be_cut() -> None:
    provider = FakeProvider({"whole": "one two  three\n", "cut": Cut("one two three", 2)})
    chunks = list(provider.stream("whole", asking("?")))
    assert [chunk.text for chunk in chunks] == ["one", " two", "  three", "\n", ""]
    answer = chunks[-1].answer
    assert answer is not None
    assert answer.text == "one two  three\n"
    seen: list[Chunk] = []
    with pytest.raises(ProviderError) as caught:
        seen.extend(provider.stream("cut", asking("?")))
    assert caught.value.kind == "cut"
    assert provider.open_streams == 0
    stream = provider.stream("whole", asking("?"))
    next(stream)
    assert provider.open_streams == 1
    stream.close()  # type: ignore[attr-defined]
    assert provider.open_streams == 0


def test_async_calls_do_the_same() -> None:
    async def run() -> tuple[str, list[str]]:
        slept: list[float] = []

        async def asleep(seconds: float) -> None:
            slept.append(seconds)

        provider = FakeProvider("a b", latency_s=1.0, asleep=asleep)
        answer = await provider.acomplete("m", asking("?"))
        texts = [chunk.text async for chunk in provider.astream("m", asking("?"))]
        assert slept == [1.0, 1.0]
        return answer.text, texts

    assert asyncio.run(run()) == ("a b", ["a", " b", ""])


@given(st.text(max_size=200))
def test_tokens_are_never_more_than_bytes(text: str) -> None:
    assert count_tokens(text) <= len(text.encode("utf-8", "surrogatepass"))
