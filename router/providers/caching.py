"""What each provider's prompt cache does: from what length, for how long, at whose request.

Prices of reading and writing are in the price book; this is the rest, in one dated table. The
minimum lengths are the providers' documented ones where these could be had, and otherwise
third-party documentation's: ``confirmed`` says which. Where a model is in no row, its provider's
most cautious row is taken: a cache that is said to be cold and is warm costs nothing, while one
that is said to be warm and is cold sends a session to the wrong tier.
"""

from __future__ import annotations

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

    def cacheable_tokens(self, prefix_tokens: int) -> int:
        """How many tokens of a prefix can be kept: 0 where it is too short.

        >>> CachePolicy(min_tokens=1024, ttl_s=300, step_tokens=128).cacheable_tokens(1200)
        1152
        """
        if prefix_tokens < self.min_tokens:
            return 0
        return prefix_tokens - prefix_tokens % self.step_tokens


# Provider, beginning of the model's id (the longest that fits counts), minimum length in tokens.
# The row without a model is the provider's most cautious one.
_MIN_TOKENS: tuple[tuple[str, str, int], ...] = (
    ("anthropic", "", 4096),
    ("anthropic", "claude-opus-4-5", 4096),
    ("anthropic", "claude-opus-4-6", 4096),
    ("anthropic", "claude-haiku-4-5", 4096),
    ("anthropic", "claude-sonnet-4-6", 2048),
    ("anthropic", "claude-sonnet-4-5", 1024),
    ("openai", "", 1024),
    ("deepseek", "", 64),
    ("google", "", 4096),
    ("google", "gemini-2.5-flash", 1024),
    ("google", "gemini-3-flash", 1024),
)


def min_cacheable_tokens(provider: str, model: str) -> int | None:
    """The length from which a prefix is cached; None for a provider that we know no cache of.

    >>> min_cacheable_tokens("anthropic", "claude-sonnet-4-6")
    2048
    """
    fitting = [row for row in _MIN_TOKENS if row[0] == provider and model.startswith(row[1])]
    return max(fitting, key=lambda row: len(row[1]))[2] if fitting else None


def cache_policy(
    provider: str, model: str, ttl: Literal["5m", "1h"] = "5m", *, explicit: bool = False
) -> CachePolicy | None:
    """The rules of a model's prompt cache; None for a provider that we know no cache of.

    >>> cache_policy("anthropic", "claude-haiku-4-5", "1h").ttl_s
    3600.0
    """
    least = min_cacheable_tokens(provider, model)
    if least is None:
        return None
    if provider == "anthropic":
        return CachePolicy(
            least,
            _HOUR_S if ttl == "1h" else 5 * _MINUTE_S,
            automatic=False,
            writes_reported=True,
        )
    if provider == "google" and explicit:
        return CachePolicy(least, _HOUR_S, automatic=False, refreshed_by_hits=False)
    # Kept for 5 to 10 minutes without use; the shorter is the cautious one.
    step = 128 if provider == "openai" else 64 if provider == "deepseek" else 1
    return CachePolicy(least, 5 * _MINUTE_S, step)
