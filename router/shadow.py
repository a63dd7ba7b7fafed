"""Shadow mode: what another router would have done, recorded beside what was done.

The shadow predicts on its own; it calls no model, and whatever happens to it, the decision that it
stands beside is the one that would have been made without it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from router.decision import Decision, Shadow
from router.errors import InputError

_LOG = logging.getLogger(__name__)


class AnyRouter(Protocol):
    """What a shadow must be able to do; ``Router`` and ``KeywordRouter`` both can."""

    def route(self, query: str, *, request_id: str | None = None) -> Decision:
        """Where this query should go."""
        ...

    def route_many(
        self, queries: Sequence[str], request_ids: Sequence[str | None] | None = None
    ) -> list[Decision]:
        """Decisions in the order of the queries."""
        ...


def check_shadow(shadow: object) -> None:
    """Raises InputError where ``shadow`` is no router."""
    if not (callable(getattr(shadow, "route", None)) and hasattr(shadow, "route_many")):
        raise InputError(
            f"expected a router as shadow, got {type(shadow).__name__}: load it first, for "
            "example with Router.load."
        )


def with_shadow(
    decision: Decision,
    shadow: AnyRouter,
    query: str,
    request_id: str | None,
    options: Mapping[str, Any] | None = None,
) -> Decision:
    """The decision with what the shadow would have done; ``options`` are more arguments for it."""
    other = _ask(shadow, query, request_id, options or {})
    _log([other])
    return replace(decision, shadow=other)


def with_shadows(
    decisions: Sequence[Decision],
    shadow: AnyRouter,
    queries: Sequence[str],
    request_ids: Sequence[str | None],
) -> list[Decision]:
    """As ``with_shadow``, for many."""
    try:
        others = [Shadow.of(other) for other in shadow.route_many(queries, request_ids)]
    except Exception:  # one request that it cannot take is no reason to lose the others
        others = []
    if len(others) != len(decisions):
        pairs = zip(queries, request_ids, strict=True)
        others = [_ask(shadow, query, request_id, {}) for query, request_id in pairs]
    _log(others)
    return [replace(d, shadow=other) for d, other in zip(decisions, others, strict=True)]


def _ask(
    shadow: AnyRouter, query: str, request_id: str | None, options: Mapping[str, Any]
) -> Shadow:
    try:
        return Shadow.of(shadow.route(query, request_id=request_id, **options))
    except Exception as error:  # the request that is served must not fail with its shadow
        # The type alone: a message may carry the text of the query.
        return Shadow(error=type(error).__name__)


def _log(others: Sequence[Shadow]) -> None:
    for error, n in Counter(other.error for other in others if other.error).items():
        _LOG.warning("the shadow router failed on %d of %d requests: %s", n, len(others), error)
