"""Where Anthropic's cache is told that a prefix ends: at most four places in a request.

Writing has a premium of a quarter (for an hour: double), so a mark is set only where a later
request will read: at the end of the tools and of the system prompt, which all conversations share;
and in a conversation at its end, from which the next turn goes on, and at the end of the turn
before, which the last request wrote. A single question is in no later prompt. Tools and system
prompt before one are marked as far as they are used often enough (`router.providers.reuse`); in a
conversation its end is written, and they with it, so that their own marks cost nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from router.providers.base import Prompt
from router.providers.caching import min_cacheable_tokens
from router.providers.reuse import Reuse
from router.providers.shaping import estimated_prompt_tokens

MAX_MARKS = 4
# Thinking, for example, cannot be marked; nor can an empty text.
_MARKABLE = ("text", "image", "document", "tool_use", "tool_result")

Block = dict[str, Any]


def set_marks(
    model: str,
    tools: list[Block],
    system: list[Block],
    messages: list[Block],
    prompt: Prompt,
    reuse: Reuse | None = None,
) -> None:
    """Mark the blocks in place; the user's own marks stay, and count.

    ``reuse`` remembers how often shared beginnings are used; without it all of them are marked.
    """
    order = list(_in_order(tools, system, messages))
    user_marks = [position for position, block in enumerate(order) if "cache_control" in block]
    top_level = bool(prompt.options.get("cache_control"))
    free = MAX_MARKS - len(user_marks) - top_level
    least = min_cacheable_tokens("anthropic", model) or 0
    tokens = 0
    prefix_tokens = []
    for block in order:
        tokens += estimated_prompt_tokens(block)
        prefix_tokens.append(tokens)
    n_shared = len(tools) + len(system)
    # What is marked behind the shared beginning is written with all that comes before.
    pays = (
        top_level
        or _is_conversation(messages)
        or any(position >= n_shared - 1 for position in user_marks)
    )
    if reuse is None:
        pays = True
    elif n_shared and prefix_tokens[n_shared - 1] >= least:
        pays = reuse.pays(_key(model, tools, system), prompt.cache.ttl, anyway=pays)
    is_shared = {id(block) for block in (*tools, *system)}
    positions = {id(block): position for position, block in enumerate(order)}
    for block in _candidates(tools, system, messages, top_level=top_level):
        position = positions[id(block)]
        if free <= 0:
            return
        if "cache_control" in block or prefix_tokens[position] < least:
            continue
        if id(block) in is_shared and not pays:
            continue
        block["cache_control"] = _mark(order, user_marks, position, prompt.cache.ttl)
        free -= 1


def _in_order(tools: list[Block], system: list[Block], messages: list[Block]) -> Iterator[Block]:
    """The blocks as the cache sees them: tools, then system, then messages."""
    yield from tools
    yield from system
    for message in messages:
        yield from message["content"]


def _candidates(
    tools: list[Block], system: list[Block], messages: list[Block], *, top_level: bool
) -> Iterator[Block]:
    """Blocks worth a mark, the most valuable first."""
    if system:
        yield from _last(system)
    if _is_conversation(messages):
        if not top_level:  # which marks the last block by itself
            yield from _last(messages[-1]["content"])
        before = [message for message in messages[:-1] if message["role"] == "user"]
        if before:
            yield from _last(before[-1]["content"])
    if tools:
        yield tools[-1]


def _is_conversation(messages: list[Block]) -> bool:
    return any(message["role"] == "assistant" for message in messages[:-1])


def _key(model: str, tools: list[Block], system: list[Block]) -> str:
    data = json.dumps([model, tools, system], default=repr).encode()
    return blake2b(data, digest_size=16).hexdigest()


def _last(blocks: list[Block]) -> list[Block]:
    """The last block that can be marked, if any."""
    markable = [
        block
        for block in blocks
        if block.get("type") in _MARKABLE
        and not (block["type"] == "text" and not block.get("text"))
    ]
    return markable[-1:]


def _mark(order: list[Block], user_marks: list[int], position: int, ttl: str) -> dict[str, str]:
    """A mark with the life asked for, or the one that the user's marks leave: longer ones first."""

    def lives(marks: list[int]) -> set[str]:
        return {order[at]["cache_control"].get("ttl", "5m") for at in marks}

    if "1h" in lives([at for at in user_marks if at > position]):
        ttl = "1h"
    elif "5m" in lives([at for at in user_marks if at < position]):
        ttl = "5m"
    return {"type": "ephemeral"} if ttl == "5m" else {"type": "ephemeral", "ttl": ttl}
