"""Which queries of a pool are labelled, in what order, and which of them stand for the traffic.

The random part comes first. It is a prefix, of a length fixed beforehand, of an order that depends
on nothing but texts and seed, over all queries that no earlier round drew, those that an earlier
round *chose* included: drawn now, they count as random from now on, and cost nothing. So whether a
query is in the random part says nothing about what was predicted for it, in any round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from router.errors import InputError, OutcomeError
from router.outcomes import Outcome, read_jsonl
from router.prices import PriceBook
from router.tiers import TierSet
from training.features import embed_queries
from training.label_choice import Believed, choose_by_value, random_order
from training.label_input import LabelQuery
from training.split import query_hash

if TYPE_CHECKING:
    from router.routing import Router

FloatArray = npt.NDArray[np.float64]
Sampling = Literal["random", "chosen"]
Say = Callable[[str], object]

# So much of the labelling money buys queries drawn at random, where the others are chosen.
RANDOM_SHARE = 0.3
# A usual call, of which the ratio of batch to standard prices is taken.
_USUAL_TOKENS = 1000.0, 300.0


@dataclass(frozen=True)
class Labelled:
    """Outcomes of earlier rounds: all rows; texts that every tier is known of; those drawn."""

    outcomes: list[Outcome] = field(default_factory=list)
    complete: frozenset[int] = frozenset()
    drawn: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Selection:
    """Queries to run in this order, what each is (by text), and what running them should cost.

    ``drawn_again`` are texts labelled earlier as chosen that the random part has drawn.
    ``expected_usd`` is None where no artifact tells.
    """

    queries: list[LabelQuery]
    sampling: dict[int, Sampling]
    drawn_again: frozenset[int] = frozenset()
    expected_usd: float | None = None


def read_labelled(path: str | Path | None, tiers: TierSet) -> Labelled:
    """Outcomes of earlier rounds (JSON lines).

    Raises:
        InputError: a row is no outcome; an earlier round wrote good ones only.
    """
    if path is None:
        return Labelled()
    outcomes: list[Outcome] = []
    known: dict[int, set[int]] = {}
    drawn: set[int] = set()
    for line, outcome in read_jsonl(path):
        if isinstance(outcome, OutcomeError):
            raise InputError(
                f"expected outcomes of earlier labelling in {path}, got a bad row in line {line} "
                f"({outcome.reason}): correct or remove it."
            )
        outcomes.append(outcome)
        tier = tiers.find(outcome.tier, outcome.model)
        if tier is not None:
            known.setdefault(query_hash(outcome.query), set()).add(tier)
            if outcome.sampling != "chosen":
                drawn.add(query_hash(outcome.query))
    complete = frozenset(text for text, found in known.items() if len(found) == len(tiers))
    return Labelled(outcomes, complete, frozenset(drawn) & complete)


def select_random(
    pool: Sequence[LabelQuery], labelled: Labelled, *, n: int | None, seed: int
) -> Selection:
    """Queries in random order: ``n`` of them that are not drawn yet, by default all."""
    open_ = [query for query in pool if query.query_hash not in labelled.drawn]
    order = random_order(np.array([query.query_hash for query in open_], np.uint64), seed)
    part = [open_[place] for place in (order if n is None else order[:n])]
    again = {query.query_hash for query in part} & labelled.complete
    queries = [query for query in part if query.query_hash not in again]
    sampling: dict[int, Sampling] = {query.query_hash: "random" for query in queries}
    return Selection(queries, sampling, frozenset(again))


def select_by_value(
    pool: Sequence[LabelQuery],
    labelled: Labelled,
    router: Router,
    tiers: TierSet,
    *,
    n: int | None = None,
    max_usd: float | None = None,
    random_share: float = RANDOM_SHARE,
    seed: int = 0,
    batch: bool = False,
    price_book: PriceBook | None = None,
    on_progress: Say = lambda _: None,
) -> Selection:
    """The random share first, then the queries that are worth most per dollar of labelling.

    ``n`` queries in all, or as many as ``max_usd`` is expected to pay. Queries of the test split
    are never chosen.

    Raises:
        InputError: the artifact has other tiers, or sets no value on a success.
    """
    if not 0.0 < random_share <= 1.0:
        raise InputError(
            f"expected a random share above 0 and at most 1, got {random_share:g}: without a part "
            "drawn at random nothing could be certified; give for example 0.3."
        )
    if n is None and max_usd is None:
        raise InputError("expected n or max_usd to choose by, got neither: give one of them.")
    on_progress(f"predicting: {len(pool):,} queries")
    believed = believe(pool, router, tiers, batch=batch, price_book=price_book)
    if not len(believed):
        return Selection([], {})
    mean_usd = float(believed.label_usd.mean())
    money = np.inf if max_usd is None else max_usd
    # Fixed by averages, before any query is looked at.
    by_money = np.inf if max_usd is None else random_share * money / max(mean_usd, 1e-12)
    by_number = np.inf if n is None else random_share * n
    drawn = select_random(
        pool, labelled, n=int(min(np.ceil(min(by_money, by_number)), len(pool))), seed=seed
    )
    place = {query.query_hash: index for index, query in enumerate(pool)}
    taken = {place[text] for text in drawn.sampling}
    spent = float(believed.label_usd[sorted(taken)].sum()) if taken else 0.0
    test = {index for index, query in enumerate(pool) if query.split == "test"}
    known = {place[text] for text in labelled.complete if text in place}
    elsewhere = [
        o.query for o in _one_a_text(labelled.outcomes) if query_hash(o.query) not in place
    ]
    chosen = choose_by_value(
        believed,
        taken=np.array(sorted(taken | known), np.int64),
        closed=np.array(sorted(test), np.int64),
        labelled=embed_queries(router.predictor.embedder, elsewhere) if elsewhere else None,
        max_usd=max(money - spent, 0.0),
        max_queries=None if n is None else max(n - len(drawn.queries), 0),
        seed=seed,
        on_progress=lambda done: on_progress(f"choosing: {done:,} queries"),
    )
    queries = [*drawn.queries, *(pool[index] for index in chosen)]
    sampling = drawn.sampling | {pool[index].query_hash: "chosen" for index in chosen}
    expected = spent + float(believed.label_usd[chosen].sum())
    return replace(drawn, queries=queries, sampling=sampling, expected_usd=expected)


def believe(
    pool: Sequence[LabelQuery],
    router: Router,
    tiers: TierSet,
    *,
    batch: bool = False,
    price_book: PriceBook | None = None,
) -> Believed:
    """What an artifact predicts for a pool, and what labelling it should cost.

    Raises:
        InputError: the artifact has other tiers, or sets no value on a success.
    """
    if set(router.tiers.names) != set(tiers.names):
        raise InputError(
            f"expected an artifact of the tiers {', '.join(tiers.names)}, got one of "
            f"{', '.join(router.tiers.names)}: choose at random, or train one on these tiers."
        )
    value_usd = router.policy.success_value_usd
    if not 0.0 < value_usd < float("inf"):
        raise InputError(
            "expected an artifact whose policy sets a value on a success, got one that sets none: "
            "choose at random."
        )
    texts = [query.query for query in pool]
    predicted = router.predict(texts)
    columns = [router.tiers.index(name) for name in tiers.names]
    cost = predicted.cost_usd[:, columns]
    book = PriceBook() if price_book is None else price_book
    share = np.array([_batch_share(tiers, book, t) if batch else 1.0 for t in range(len(tiers))])
    return Believed(
        embed_queries(router.predictor.embedder, texts),
        predicted.p_success[:, columns],
        cost,
        value_usd,
        cost @ share,
        np.array([float(query.n_times) for query in pool]),
    )


def _batch_share(tiers: TierSet, book: PriceBook, tier: int) -> float:
    """What a batch costs of the standard price; 1 where nobody knows."""
    batch, standard = book.find(tiers[tier], batch=True), book.find(tiers[tier])
    if batch is None or standard is None:
        return 1.0
    usual = standard.cost_usd(*_USUAL_TOKENS)
    return batch.cost_usd(*_USUAL_TOKENS) / usual if usual > 0 else 1.0


def _one_a_text(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return list({query_hash(outcome.query): outcome for outcome in outcomes}.values())
