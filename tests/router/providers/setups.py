"""The providers as the contract's tests see them: a server, a provider on it, what it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from router.providers.base import Prompt
from router.providers.sdk import SdkProvider
from router.usage import Usage
from tests.wire import anthropic_server, google_server, openai_server
from tests.wire.server import FakeServer, Reply

KEY = "sk-secret-0123456789abcdef"


@dataclass(frozen=True)
class Setup:
    """One provider, its wire format, and usages to report."""

    id: str
    model: str
    server: Callable[[], FakeServer]
    make: Callable[..., SdkProvider]
    answer: Callable[..., Reply]
    usage: Usage  # of answer()
    bad_usages: tuple[object, ...]
    error: Callable[[int], dict[str, Any]]  # the body of an error
    key_variable: str = ""

    def provider(self, url: str, **options: Any) -> SdkProvider:
        return self.make(KEY, base_url=url, **options)


def _openai(*args: Any, **options: Any) -> SdkProvider:
    from router.providers.openai import OpenAIProvider

    return OpenAIProvider(*args, **options)


def _anthropic(*args: Any, **options: Any) -> SdkProvider:
    from router.providers.anthropic import AnthropicProvider

    return AnthropicProvider(*args, **options)


def _google(*args: Any, **options: Any) -> SdkProvider:
    from router.providers.google import GoogleProvider

    return GoogleProvider(*args, **options)


def _deepseek(*args: Any, **options: Any) -> SdkProvider:
    from router.providers.deepseek import DeepSeekProvider

    return DeepSeekProvider(*args, **options)


_DEEPSEEK_USAGE = {
    "prompt_tokens": 2500,
    "completion_tokens": 300,
    "total_tokens": 2800,
    "prompt_cache_hit_tokens": 1984,
    "prompt_cache_miss_tokens": 516,
    "completion_tokens_details": {"reasoning_tokens": 120},
}


def _deepseek_answer(text: str | None = "Paris.", **options: Any) -> Reply:
    return openai_server.answer(
        text, **{"usage": _DEEPSEEK_USAGE, "model": "deepseek-v4-flash", **options}
    )


def _openai_error(code: int) -> dict[str, Any]:
    return {"error": {"message": f"not with {KEY}: Where is Paris?", "type": "x", "code": code}}


OPENAI = Setup(
    id="openai",
    model="gpt-5-nano",
    server=openai_server.OpenAIServer,
    make=_openai,
    answer=openai_server.answer,
    usage=Usage(2500, 300, 2000, 100, 0, 120),
    bad_usages=(
        "many",
        {},
        {"prompt_tokens": "2500", "completion_tokens": 300},
        {"prompt_tokens": 2500.0, "completion_tokens": 300},
        {"prompt_tokens": -1, "completion_tokens": 300},
        {"prompt_tokens": 2500, "completion_tokens": None},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {**openai_server.USAGE, "prompt_tokens_details": {"cached_tokens": 2501}},
        {**openai_server.USAGE, "prompt_tokens_details": "none"},
    ),
    error=_openai_error,
    key_variable="OPENAI_API_KEY",
)
DEEPSEEK = Setup(
    id="deepseek",
    model="deepseek-v4-flash",
    server=openai_server.OpenAIServer,
    make=_deepseek,
    answer=_deepseek_answer,
    usage=Usage(2500, 300, 1984, 0, 0, 120),
    bad_usages=(
        {**_DEEPSEEK_USAGE, "prompt_cache_hit_tokens": "1984"},
        {**_DEEPSEEK_USAGE, "prompt_cache_hit_tokens": 2501},
        {**_DEEPSEEK_USAGE, "prompt_cache_miss_tokens": 1},
    ),
    error=_openai_error,
    key_variable="DEEPSEEK_API_KEY",
)

ANTHROPIC = Setup(
    id="anthropic",
    model="claude-haiku-4-5",
    server=anthropic_server.AnthropicServer,
    make=_anthropic,
    answer=anthropic_server.answer,
    usage=Usage(2500, 300, 2000, 200, 50, 120),
    bad_usages=(
        "many",
        {},
        {"input_tokens": "some", "output_tokens": 300},
        {"input_tokens": 300, "output_tokens": 300.5},
        {**anthropic_server.USAGE, "output_tokens": -1},
        {**anthropic_server.USAGE, "cache_read_input_tokens": "some"},
        {**anthropic_server.USAGE, "cache_creation": {"ephemeral_1h_input_tokens": 201}},
        {"input_tokens": 0, "output_tokens": 0},
    ),
    error=lambda code: {
        "type": "error",
        "error": {"type": "x", "message": f"{code} not with {KEY}: Where is Paris?"},
    },
    key_variable="ANTHROPIC_API_KEY",
)

GOOGLE = Setup(
    id="google",
    model="gemini-2.5-flash",
    server=google_server.GoogleServer,
    make=_google,
    answer=google_server.answer,
    usage=Usage(2500, 300, 2000, 0, 0, 120),
    bad_usages=(
        {"candidatesTokenCount": 5},
        {"promptTokenCount": 2500},
        {**google_server.USAGE, "promptTokenCount": -1},
        {**google_server.USAGE, "cachedContentTokenCount": 2501},
        {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0},
    ),
    error=lambda code: {
        "error": {"code": code, "message": f"not with {KEY}: Where is Paris?", "status": "X"}
    },
    key_variable="GOOGLE_API_KEY",
)

SETUPS = [OPENAI, DEEPSEEK, ANTHROPIC, GOOGLE]

QUESTION = Prompt(
    messages=(
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Where is the Louvre?"},
    ),
    max_output_tokens=50,
    temperature=0.5,
)
