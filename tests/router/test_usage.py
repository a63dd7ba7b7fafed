"""Usage: what counts may be, and what a model's cache does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InputError
from router.providers.caching import (
    MINIMUMS,
    CachePolicy,
    cache_policy,
    has_breakpoints,
    min_cacheable_tokens,
)
from router.usage import Usage

NAMES = [field.name for field in dataclasses.fields(Usage)]


def test_fresh_tokens_are_neither_read_nor_written() -> None:
    usage = Usage(2500, 300, cached_input_tokens=2000, cache_write_tokens=100)
    assert usage.fresh_input_tokens == 400


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [-1, 1.0, True, "3", None, float("nan")])
def test_what_is_no_count(name: str, bad: Any) -> None:
    counts: dict[str, Any] = {"input_tokens": 10, "output_tokens": 10, name: bad}
    with pytest.raises(InputError, match=f"expected {name} to be a whole number"):
        Usage(**counts)


@pytest.mark.parametrize(
    ("parts", "fitting"),
    [
        ({"cached_input_tokens": 11}, {"cached_input_tokens": 10}),
        ({"cache_write_tokens": 11}, {"cache_write_tokens": 10}),
        (
            {"cached_input_tokens": 6, "cache_write_tokens": 5},
            {"cached_input_tokens": 6, "cache_write_tokens": 4},
        ),
        (
            {"cache_write_tokens": 5, "cache_write_1h_tokens": 6},
            {"cache_write_tokens": 5, "cache_write_1h_tokens": 5},
        ),
        ({"reasoning_tokens": 11}, {"reasoning_tokens": 10}),
    ],
)
def test_parts_are_within_their_wholes(parts: dict[str, int], fitting: dict[str, int]) -> None:
    with pytest.raises(InputError, match="parts of a usage within their wholes"):
        Usage(10, 10, **parts)
    Usage(10, 10, **fitting)


@given(st.lists(st.integers(-2, 20), min_size=6, max_size=6))
def test_a_usage_adds_up(counts: list[int]) -> None:
    try:
        usage = Usage(*counts)
    except InputError:
        return
    assert usage.fresh_input_tokens >= 0
    assert (
        usage.fresh_input_tokens + usage.cached_input_tokens + usage.cache_write_tokens
        == usage.input_tokens
    )


# What a cache does.


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("anthropic", "claude-haiku-4-5-20251001", 4096),
        ("anthropic", "claude-sonnet-4-6", 2048),
        ("anthropic", "claude-sonnet-4-5-20250929", 1024),
        ("anthropic", "claude-opus-4-1", 1024),
        ("anthropic", "claude-sonnet-5", 1024),
        ("anthropic", "claude-sonnet-5-5", 4096),
        ("anthropic", "claude-of-tomorrow", 4096),
        ("openai", "gpt-5-nano", 1024),
        ("deepseek", "deepseek-v4-flash", 64),
        ("google", "gemini-2.5-flash", 2048),
        ("google", "gemini-3.1-pro-preview", 4096),
        ("google", "gemini-of-tomorrow", 4096),
        ("groq", "llama", None),
    ],
)
def test_minimum_lengths(provider: str, model: str, expected: int | None) -> None:
    assert min_cacheable_tokens(provider, model) == expected
    policy = cache_policy(provider, model)
    assert (None if policy is None else policy.min_tokens) == expected


def test_an_unknown_model_is_taken_for_the_most_cautious() -> None:
    for row in MINIMUMS:
        unknown = min_cacheable_tokens(row.provider, "unknown")
        assert unknown is not None and unknown >= row.tokens
        assert not cache_policy("google", "unknown").confirmed  # type: ignore[union-attr]


def test_what_is_kept_of_a_prefix() -> None:
    policy = CachePolicy(min_tokens=1024, ttl_s=300, step_tokens=128)
    assert [policy.cacheable_tokens(n) for n in (0, 1023, 1024, 1151, 1152)] == [
        *(0, 0, 1024, 1024, 1152)
    ]


def test_anthropics_cache() -> None:
    five, hour = (cache_policy("anthropic", "claude-haiku-4-5", ttl) for ttl in ("5m", "1h"))  # type: ignore[arg-type]
    assert five is not None and hour is not None
    assert (five.ttl_s, hour.ttl_s) == (300, 3600)
    assert not five.automatic and five.refreshed_by_hits and five.writes_reported


def test_openais_cache() -> None:
    old, new, explicit = (
        cache_policy("openai", "gpt-5-nano"),
        cache_policy("openai", "gpt-5.6"),
        cache_policy("openai", "gpt-5.6", explicit=True),
    )
    assert old is not None and new is not None and explicit is not None
    assert (old.ttl_s, old.step_tokens, old.automatic, old.writes_reported) == (
        300,
        128,
        True,
        False,
    )
    # From gpt-5.6 on at least half an hour, to the token, and a write is reported and paid.
    assert (new.ttl_s, new.step_tokens, new.automatic, new.writes_reported) == (1800, 1, True, True)
    assert not explicit.automatic


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        *((model, True) for model in ("gpt-5.6", "gpt-5.10-mini", "gpt-6-luna", "gpt-10")),
        *((model, False) for model in ("gpt-5", "gpt-5.5-pro", "gpt-4o", "o3", "gpt-oss-120b")),
    ],
)
def test_who_has_breakpoints(model: str, expected: bool) -> None:
    assert has_breakpoints(model) is expected


def test_deepseeks_cache() -> None:
    policy = cache_policy("deepseek", "deepseek-v4-flash")
    assert policy is not None
    assert (policy.ttl_s, policy.step_tokens, policy.automatic) == (3600, 64, True)


def test_googles_caches() -> None:
    implicit = cache_policy("google", "gemini-2.5-flash")
    explicit = cache_policy("google", "gemini-2.5-flash", "1h", explicit=True)
    assert implicit is not None and explicit is not None
    assert implicit.automatic and not explicit.automatic
    assert explicit.ttl_s == 3600 and not explicit.refreshed_by_hits
    shorter = cache_policy("google", "gemini-2.5-flash", "5m", explicit=True)
    assert shorter is not None and shorter.ttl_s == 300
