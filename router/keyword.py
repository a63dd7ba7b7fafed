"""The keyword heuristic that a learned router replaces: same ``route``, one line to change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from router.decision import Decision
from router.errors import InputError
from router.shadow import AnyRouter, check_shadow, with_shadow, with_shadows
from router.stored_query import Query, StoredQuery
from router.text import check_sequence

HIGH_TERMS: tuple[str, ...] = (
    "analyze",
    "compare",
    "debug",
    "refactor",
    "architect",
    "design",
    "optimize",
    "explain why",
    "trade-off",
    "reason",
)
LOW_TERMS: tuple[str, ...] = (
    "classify",
    "extract",
    "format",
    "convert",
    "translate",
    "summarize briefly",
    "yes or no",
    "list the",
    "parse",
)


class KeywordRouter:
    """Routes by words found in the query.

    The query is lower-cased, and the terms of the ``high`` and the ``low`` list that occur in it
    as substrings are counted, each once ("information" contains "format": that is how such
    heuristics work). Then

    - the last tier if high >= 2, or if it has more than 200 words and high >= 1;
    - else the first tier if low >= 1 and it has fewer than 50 words;
    - else the middle tier.

    ``tiers`` names the tiers for easy, ordinary and hard queries; names may repeat. ``models``
    maps a tier to the model in the decision (default: the tier's name).

    >>> KeywordRouter().route("Translate to French: good morning").tier
    'nano'
    >>> KeywordRouter().route("Compare both and explain why one is faster").tier
    'frontier'
    """

    def __init__(
        self,
        high: Iterable[str] = HIGH_TERMS,
        low: Iterable[str] = LOW_TERMS,
        tiers: Sequence[str] = ("nano", "mid", "frontier"),
        *,
        models: Mapping[str, str] | None = None,
        min_high: int = 2,
        min_high_long: int = 1,
        long_words: int = 200,
        min_low: int = 1,
        short_words: int = 50,
    ) -> None:
        if isinstance(high, str) or isinstance(low, str):
            raise InputError(
                "expected lists of terms for high and low, got a single text: put it in a list."
            )
        if isinstance(tiers, str) or len(tiers) != 3:
            raise InputError(
                "expected three tier names (for easy, ordinary and hard queries), got "
                f"{tiers!r}: repeat a name, or use KeywordRouter.for_tiers for another number."
            )
        # Each term counts once, also where the list or a change of case repeats it.
        self.high = tuple(dict.fromkeys(term.lower() for term in high if term))
        self.low = tuple(dict.fromkeys(term.lower() for term in low if term))
        self.tiers = tuple(tiers)
        self.models = dict(models or {})
        self.min_high, self.min_high_long = min_high, min_high_long
        self.min_low = min_low
        self.long_words, self.short_words = long_words, short_words

    @property
    def _rule(self) -> tuple[object, ...]:
        counts = (self.min_high, self.min_high_long, self.long_words, self.min_low)
        return frozenset(self.high), frozenset(self.low), *counts, self.short_words

    @classmethod
    def for_tiers(
        cls, names_cheapest_first: Sequence[str], *, models: Mapping[str, str] | None = None
    ) -> KeywordRouter:
        """The heuristic over any number of tiers: the cheapest, the middle and the dearest.

        Of an even number the dearer of the two middle ones takes ordinary queries, since the
        heuristic knows nothing of them that would make them easy.

        >>> KeywordRouter.for_tiers(["small", "large"]).tiers
        ('small', 'large', 'large')
        """
        names = list(names_cheapest_first)
        if not names:
            raise InputError("expected at least one tier name, got none: name the tiers.")
        return cls(tiers=(names[0], names[len(names) // 2], names[-1]), models=models)

    def tier_of(self, query: Query) -> str:
        """The tier's name for one query.

        Of a stored query it is known for the default terms and numbers. Raises InputError where
        ``query`` is no text, or stored while these are others.
        """
        if not isinstance(query, str):
            if isinstance(query, StoredQuery):
                return self._tier_of_stored(query)
            raise InputError(
                f"expected the query as text, got {type(query).__name__}: pass a string."
            )
        easy, ordinary, hard = self.tiers
        text = query.lower()
        high = sum(term in text for term in self.high)
        if high >= self.min_high:
            return hard
        words = len(text.split())
        if words > self.long_words and high >= self.min_high_long:
            return hard
        if words < self.short_words and sum(term in text for term in self.low) >= self.min_low:
            return easy
        return ordinary

    def _tier_of_stored(self, query: StoredQuery) -> str:
        if self._rule != _default_rule():
            raise InputError(
                "expected queries with their text for a keyword heuristic with terms or numbers "
                "of its own, got queries that are stored without it: use the default ones."
            )
        return self.tiers[query.keyword_place]

    def route(
        self, query: str, *, request_id: str | None = None, shadow: AnyRouter | None = None
    ) -> Decision:
        """The decision for one query; ``p_success`` and ``cost_usd`` are None for every tier.

        ``shadow`` is another router; what it would have done is in the decision's ``shadow``.
        """
        if shadow is not None:
            check_shadow(shadow)
        tier = self.tier_of(query)
        decision = Decision(
            tier=tier,
            model=self.models.get(tier, tier),
            p_success=dict.fromkeys(self.tiers),
            cost_usd=dict.fromkeys(self.tiers),
            propensity=1.0,
            reason="policy",
            artifact_id="keyword",
            certified=False,
            request_id=request_id,
        )
        return decision if shadow is None else with_shadow(decision, shadow, query, request_id)

    def route_many(
        self,
        queries: Sequence[str],
        request_ids: Sequence[str | None] | None = None,
        *,
        shadow: AnyRouter | None = None,
    ) -> list[Decision]:
        """Decisions in the order of the queries. Raises InputError where the lengths differ."""
        if shadow is not None:
            check_shadow(shadow)
        check_sequence(queries)
        if request_ids is None:
            request_ids = [None] * len(queries)
        check_sequence(request_ids)
        if len(request_ids) != len(queries):
            raise InputError(
                f"expected one request id per query, got {len(request_ids)} for {len(queries)}: "
                "pass as many ids as queries, or none."
            )
        decisions = [
            self.route(query, request_id=request_id)
            for query, request_id in zip(queries, request_ids, strict=True)
        ]
        return (
            decisions if shadow is None else with_shadows(decisions, shadow, queries, request_ids)
        )


@cache
def _default_rule() -> tuple[object, ...]:
    return KeywordRouter()._rule
