"""What each provider's prompt cache does: from what length, for how long, at whose request.

Prices of reading and writing are in the price book; this is the rest, in one dated table. The
minimum lengths are the providers' documented ones where these could be had, and otherwise
third-party documentation's: ``confirmed`` says which. Where a model is in no row, its provider's
most cautious row is taken: a cache that is said to be cold and is warm costs nothing, while one
that is said to be warm and is cold sends a session to the wrong tier.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Literal

CHECKED = date(2026, 11, 24)

_MINUTE_S = 60.0
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """A prompt cache's rules.

    A prefix of at least ``min_tokens`` is kept for ``ttl_s`` seconds, counted from the last hit
    where ``refreshed_by_hits``, in steps of ``step_tokens``. ``automatic`` caches need no marks;
    ``writes_reported`` says whether a usage tells what was written.
    """

    min_tokens: int
    ttl_s: float
    step_tokens: int = 1
    automatic: bool = True
    refreshed_by_hits: bool = True
    writes_reported: bool = False
    confirmed: bool = False

    @property
    def writes_long_lived(self) -> bool:
        """Whether what is written is charged at the price of an hour's life."""
        return self.writes_reported and self.ttl_s >= _HOUR_S

    def cacheable_tokens(self, prefix_tokens: int) -> int:
        """How many tokens of a prefix can be kept: 0 where it is too short.

        >>> CachePolicy(min_tokens=1024, ttl_s=300, step_tokens=128).cacheable_tokens(1200)
        1152
        """
        if prefix_tokens < self.min_tokens:
            return 0
        return prefix_tokens - prefix_tokens % self.step_tokens


# OpenAI's models from this one on have breakpoints, a cache that lives at least half an hour, and a
# price for writing to it.
_EXPLICIT_FROM = (5, 6)


@dataclass(frozen=True, slots=True)
class _Minimum:
    """A minimum length; ``model`` is the beginning of an id, and the longest that fits counts."""

    provider: str
    model: str
    tokens: int
    confirmed: bool = False


# The row without a model is the provider's most cautious one.
MINIMUMS: tuple[_Minimum, ...] = (
    _Minimum("anthropic", "", 4096),
    # Of the fifth generation only third-party pages tell: they say 512 for Opus 5.
    _Minimum("anthropic", "claude-opus-5", 1024),
    _Minimum("anthropic", "claude-sonnet-5", 1024),
    _Minimum("anthropic", "claude-opus-5-5", 4096),
    _Minimum("anthropic", "claude-sonnet-5-5", 4096),
    _Minimum("anthropic", "claude-opus-4-8", 1024),
    _Minimum("anthropic", "claude-opus-4-7", 2048),
    _Minimum("anthropic", "claude-opus-4-5", 4096),
    _Minimum("anthropic", "claude-opus-4-6", 4096),
    _Minimum("anthropic", "claude-haiku-4-5", 4096),
    # Documented as 1,024; a user's measurement found no hit below 2,048.
    _Minimum("anthropic", "claude-sonnet-4-6", 2048),
    _Minimum("anthropic", "claude-sonnet-4-5", 1024),
    _Minimum("anthropic", "claude-opus-4-1", 1024),
    _Minimum("openai", "", 1024, confirmed=True),
    _Minimum("deepseek", "", 64, confirmed=True),
    # Google's own table: all of Gemini 3 and later need 4,096; what 3 Flash once needed (1,024) is
    # no longer listed.
    _Minimum("google", "", 4096),
    _Minimum("google", "gemini-3.", 4096, confirmed=True),
    _Minimum("google", "gemini-2.5-flash", 2048, confirmed=True),
    _Minimum("google", "gemini-2.5-pro", 2048, confirmed=True),
)


def min_cacheable_tokens(provider: str, model: str) -> int | None:
    """The length from which a prefix is cached; None for a provider that we know no cache of.

    >>> min_cacheable_tokens("anthropic", "claude-sonnet-4-6")
    2048
    """
    row = _minimum(provider, model)
    return None if row is None else row.tokens


def _minimum(provider: str, model: str) -> _Minimum | None:
    fitting = [row for row in MINIMUMS if row.provider == provider and model.startswith(row.model)]
    return max(fitting, key=lambda row: len(row.model)) if fitting else None


def has_breakpoints(model: str) -> bool:
    """Whether a model of OpenAI takes explicit cache breakpoints: those from gpt-5.6 on.

    >>> [has_breakpoints(model) for model in ("gpt-5.6-mini", "gpt-6-luna", "gpt-5-nano")]
    [True, True, False]
    """
    version = re.match(r"gpt-(\d+)(?:\.(\d+))?", model)
    return version is not None and (int(version[1]), int(version[2] or 0)) >= _EXPLICIT_FROM


def cache_policy(
    provider: str, model: str, ttl: Literal["5m", "1h"] = "5m", *, explicit: bool = False
) -> CachePolicy | None:
    """The rules of a model's prompt cache; None for a provider that we know no cache of.

    >>> cache_policy("anthropic", "claude-haiku-4-5", "1h").ttl_s
    3600.0
    """
    row = _minimum(provider, model)
    if row is None:
        return None
    least, confirmed = row.tokens, row.confirmed
    chosen_s = _HOUR_S if ttl == "1h" else 5 * _MINUTE_S
    if provider == "anthropic":
        return CachePolicy(
            least, chosen_s, automatic=False, writes_reported=True, confirmed=confirmed
        )
    if provider == "google" and explicit:
        # Refreshed by us, and not at every hit: the life that a hit leaves is not the whole one.
        return CachePolicy(
            least, chosen_s, automatic=False, refreshed_by_hits=False, confirmed=confirmed
        )
    if provider == "openai" and has_breakpoints(model):
        return CachePolicy(
            least,
            30 * _MINUTE_S,
            automatic=not explicit,
            writes_reported=True,
            confirmed=confirmed,
        )
    if provider == "deepseek":
        # Documented as "hours to days"; on disk, in units of 64 tokens.
        return CachePolicy(least, _HOUR_S, step_tokens=64, confirmed=confirmed)
    # Kept for 5 to 10 minutes without use; the shorter is the cautious one.
    step = 128 if provider == "openai" else 1
    return CachePolicy(least, 5 * _MINUTE_S, step, confirmed=confirmed)
