"""DeepSeek: OpenAI's chat completions at another address, with its own report of the cache.

Its cache works by itself, on disk and for hours; there is nothing to mark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.providers.counts import (
    UnknownCountError,
    count,
    needed,
    part,
    plain,
    usage_or_unknown,
)
from router.providers.openai import OpenAIProvider
from router.usage import Usage


def usage_of(reported: Mapping[str, Any] | None) -> Usage | None:
    """The usage of a completion; None where it is missing or cannot be read.

    The cached tokens are in ``prompt_cache_hit_tokens``, which with the misses makes the prompt.

    >>> report = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 64}
    >>> usage_of(report).cached_input_tokens
    64
    """
    if not isinstance(reported, Mapping):
        return None
    try:
        prompt = needed(reported, "prompt_tokens")
        hit = count(reported, "prompt_cache_hit_tokens")
        miss = count(reported, "prompt_cache_miss_tokens")
        if hit is None:
            hit = count(part(reported, "prompt_tokens_details"), "cached_tokens")
        if hit is None and miss is not None:
            hit = prompt - miss
        if hit is not None and miss is not None and hit + miss != prompt:
            return None
        completion = part(reported, "completion_tokens_details")
        return usage_or_unknown(
            input_tokens=prompt,
            output_tokens=needed(reported, "completion_tokens"),
            cached_input_tokens=hit or 0,
            reasoning_tokens=count(completion, "reasoning_tokens") or 0,
        )
    except UnknownCountError:
        return None


class DeepSeekProvider(OpenAIProvider):
    """DeepSeek through the ``openai`` SDK.

    Args:
        api_key: Else ``DEEPSEEK_API_KEY``.
        base_url: Else ``https://api.deepseek.com``.
        sdk_options: For the SDK's client.
    """

    _default_base_url = "https://api.deepseek.com"

    def __init__(
        self, api_key: str | None = None, *, base_url: str | None = None, **sdk_options: Any
    ) -> None:
        super().__init__(api_key, base_url=base_url, id="deepseek", **sdk_options)

    def _usage(self, reported: object) -> Usage | None:
        return usage_of(plain(reported))
