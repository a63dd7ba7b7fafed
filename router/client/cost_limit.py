"""A limit on what one request may cost: an upper bound on each attempt, before it is made.

The bound of an attempt is (input tokens, at most) x (the dearest price they could have) + (longest
output) x (price of output) + the fee per request. A token of any tokenizer that we know stands for
at least one byte of UTF-8, so that the bytes of everything that is sent bound the tokens of the
text; what chat formats add is bounded by generous constants. The dearest price is the largest of
fresh, cached and written input, over all steps for long prompts that the bound reaches.

It holds as far as the provider keeps `max_output_tokens` and charges by its published prices.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from router.errors import InputError
from router.providers.base import Message, Prompt
from router.tier_price import PriceStep, TierPrice

# What chat formats add, in tokens, with room to spare: per request, message and tool, and once
# where there are tools (Anthropic's system prompt for tools takes some 500).
TOKENS_PER_REQUEST = 64
TOKENS_PER_MESSAGE = 32
TOKENS_PER_TOOL = 64
TOKENS_FOR_TOOLS = 1024
# Providers write a tool's schema anew, maybe indented.
_TOOL_FACTOR = 2
# Where the caller gives no longest output, it is what the limit pays for, within these.
MIN_OUTPUT_TOKENS = 256
MAX_OUTPUT_TOKENS = 4096

_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
# What else there may be in a part can stand for a file, whatever the part's type says.
_PART_TEXTS = frozenset({"type", "text", "refusal", "thinking", "signature"})
_PART_KEYS = _PART_TEXTS | {"cache_control", "prompt_cache_breakpoint"}
# Of what goes to the SDK as it is, that which can change nothing about the bound but the bytes that
# it is written with. What else there may be could ask for more answers, or for a dearer service.
_HARMLESS_OPTIONS = frozenset(
    {
        *("top_p", "top_k", "seed", "stop", "stop_sequences", "user", "metadata", "tool_choice"),
        *("response_format", "parallel_tool_calls", "presence_penalty", "frequency_penalty"),
        *("logit_bias", "reasoning_effort", "verbosity", "temperature"),
    }
)
_MESSAGE_KEYS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal"})
# Sums of floats are off by less, relative to the limit.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Bound:
    """What an attempt can cost at most, and the longest output for which that holds."""

    usd: float
    max_output_tokens: int


def check_limit(max_cost_usd: float | None) -> None:
    """Raises InputError where a limit is no amount of at least 0 dollars."""
    if max_cost_usd is None:
        return
    is_number = isinstance(max_cost_usd, int | float) and not isinstance(max_cost_usd, bool)
    if not is_number or not 0 <= max_cost_usd < float("inf"):
        raise InputError(
            f"expected max_cost_usd as an amount of at least 0 dollars, got {max_cost_usd!r}: give "
            "for example 0.01, or None for no limit."
        )


def input_tokens_at_most(prompt: Prompt, given: int | None = None) -> int:
    """How many tokens the input can have; ``given`` is the caller's word, which counts where given.

    Raises:
        InputError: a part is no text, or an option or tool could cost something that no bound
            covers.

    >>> input_tokens_at_most(Prompt(({"role": "user", "content": "Hello"},))) >= 2
    True
    """
    odd = next((key for key in prompt.options if key not in _HARMLESS_OPTIONS), None)
    if odd is not None:
        raise InputError(
            f"expected options that leave a request's cost bounded, got {odd!r}: leave it out, or "
            "do without max_cost_usd."
        )
    if prompt.cache.enabled and prompt.cache.explicit:
        raise InputError(
            "expected no explicit cache where max_cost_usd is given, got one asked for, whose "
            "creation and storage may be charged apart: leave it out, or do without "
            "max_cost_usd."
        )
    if any(tool.get("type", "function") != "function" for tool in prompt.tools):
        raise InputError(
            "expected function tools where max_cost_usd is given, got another kind, whose use "
            "may be charged apart: leave it out, or do without max_cost_usd."
        )
    if given is not None:
        if type(given) is not int or given < 0:
            raise InputError(
                f"expected input_tokens_at_most as a whole number of at least 0, got {given!r}: "
                "give a count of tokens."
            )
        return given
    if not all(_is_text(message) for message in prompt.messages):
        raise InputError(
            "expected messages of text where max_cost_usd is given, got a part of another kind, "
            "whose tokens cannot be bounded from here: give input_tokens_at_most."
        )
    total = TOKENS_PER_REQUEST + _n_bytes(prompt.options)
    total += sum(TOKENS_PER_MESSAGE + _n_bytes(message) for message in prompt.messages)
    if prompt.tools:
        total += TOKENS_FOR_TOOLS
        total += sum(TOKENS_PER_TOOL + _TOOL_FACTOR * _n_bytes(tool) for tool in prompt.tools)
    return total


def bound_of(
    price: TierPrice,
    n_input_tokens: int,
    max_output_tokens: int | None,
    left_usd: float,
    *,
    for_an_hour: bool = False,
) -> Bound | None:
    """The bound of an attempt that fits ``left_usd``; None where none does.

    ``max_output_tokens`` None asks for the longest output that fits, from 256 to 4,096 tokens.
    ``for_an_hour``: the prompt may be written to the cache for an hour, which is dearer; where
    nobody knows that price there is no bound.

    >>> bound_of(TierPrice(1.0, 0.1, 1.25, 4.0), 1000, None, 0.01)
    Bound(usd=0.009998, max_output_tokens=2187)
    """
    rows: list[TierPrice | PriceStep] = [price]
    rows += (step for step in price.steps if n_input_tokens > step.above_input_tokens)
    dearest = max(
        max(row.input_usd_per_mtok, row.cached_input_usd_per_mtok, row.cache_write_usd_per_mtok)
        for row in rows
    )
    for row in rows if for_an_hour else ():
        if row.cache_write_1h_usd_per_mtok is None:
            return None
        dearest = max(dearest, row.cache_write_1h_usd_per_mtok)
    output = max(row.output_usd_per_mtok for row in rows)
    before = n_input_tokens * dearest / 1e6 + price.request_usd
    if max_output_tokens is None:
        most = float(MAX_OUTPUT_TOKENS)
        if output > 0:
            # A little less, so that rounding does not refuse what just fits.
            most = (left_usd - before) / output * (1e6 * (1.0 - _ROUNDING))
        max_output_tokens = int(max(min(most, MAX_OUTPUT_TOKENS), MIN_OUTPUT_TOKENS))
    usd = before + max_output_tokens * output / 1e6
    return Bound(usd, max_output_tokens) if usd <= left_usd else None


def left_of(max_cost_usd: float, spent_usd: float) -> float:
    """What is left of a limit, a hair less, so that rounding never leads beyond it."""
    return max_cost_usd * (1.0 - _ROUNDING) - spent_usd


def lives_an_hour(prompt: Prompt) -> bool:
    """Whether something of it may be written to a cache for an hour, by any mark of the caller's.

    Raises:
        InputError: a mark's time to live is none whose price we know.
    """
    lives = set(_lives((prompt.messages, prompt.tools, prompt.options))) | {prompt.cache.ttl}
    if not lives <= {"5m", "1h"}:
        raise InputError(
            'expected cache marks with a ttl of "5m" or "1h" where max_cost_usd is given, got '
            "another, whose price is not known: correct the mark, or do without max_cost_usd."
        )
    return "1h" in lives


def _lives(value: Any) -> Iterator[str]:
    """The times to live in all cache marks, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "cache_control" and isinstance(inner, Mapping) and "ttl" in inner:
                yield str(inner["ttl"])
            yield from _lives(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _lives(inner)


def _is_text(message: Message) -> bool:
    if not message.keys() <= _MESSAGE_KEYS:
        return False
    content = message.get("content")
    return content is None or isinstance(content, str) or all(map(_is_text_part, content))


def _is_text_part(part: Mapping[str, Any]) -> bool:
    return (
        part.get("type") in _TEXT_PARTS
        and part.keys() <= _PART_KEYS
        and all(isinstance(part[key], str) for key in part.keys() & _PART_TEXTS)
    )


def _n_bytes(value: Any) -> int:
    """UTF-8 bytes of all that is written in a value, keys and marks included."""
    if isinstance(value, str):
        if value.isascii():
            return len(value)
        # Some tokenizers normalise first, which can make a text longer.
        forms = (value, unicodedata.normalize("NFKC", value))
        return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)
    if isinstance(value, Mapping):
        return sum(6 + _n_bytes(key) + _n_bytes(item) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return sum(2 + _n_bytes(item) for item in value)
    return len(repr(value))
