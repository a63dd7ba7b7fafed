"""Choosing with an artifact: what is drawn stays a sample of the traffic, and the money is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router.errors import InputError
from router.outcomes import Outcome
from router.routing import Router
from router.tiers import Tier, TierSet
from training.label_input import LabelQuery, pool_of
from training.label_select import (
    Labelled,
    Selection,
    believe,
    select_by_value,
    select_random,
)

HARD = "Prove that the sum over n of 1/n^2 is pi^2/6 by complex analysis, step {}"
EASY = "Translate to French: good morning number {}"


@pytest.fixture(scope="module")
def router() -> Router:
    return Router.load()


@pytest.fixture(scope="module")
def tiers(router: Router) -> TierSet:
    return TierSet([Tier(name, "fake", f"m-{name}") for name in reversed(router.tiers.names)])


def queries(n: int = 60, **facts: Any) -> list[LabelQuery]:
    texts = [(HARD if i % 3 == 0 else EASY).format(i) for i in range(n)]
    return pool_of([{"query": text, **facts} for text in texts]).queries


def drawn(selection: Selection) -> set[str]:
    return {q.query for q in selection.queries if selection.sampling[q.query_hash] == "random"}


def earlier(selection: Selection, tiers: TierSet) -> Labelled:
    """The outcomes that such a selection leads to."""
    outcomes = [
        Outcome(
            query.request_id, query.query, 1.0, tier=name, cost_usd=0.1,
            sampling=selection.sampling[query.query_hash],
        )
        for query in selection.queries
        for name in tiers.names
    ]  # fmt: skip
    complete = frozenset(query.query_hash for query in selection.queries)
    random_ones = {text for text, kind in selection.sampling.items() if kind == "random"}
    return Labelled(outcomes, complete, frozenset(random_ones))


def test_a_share_is_drawn_and_the_rest_chosen(router: Router, tiers: TierSet) -> None:
    pool = queries()
    found = select_by_value(pool, Labelled(), router, tiers, n=20, random_share=0.3)
    kinds = [found.sampling[query.query_hash] for query in found.queries]
    assert kinds == ["random"] * 6 + ["chosen"] * 14
    assert len({query.query for query in found.queries}) == 20
    # The drawn ones are those that a random choice would have drawn first.
    alone = select_random(pool, Labelled(), n=6, seed=0)
    assert drawn(found) == drawn(alone)
    again = select_by_value(pool, Labelled(), router, tiers, n=20, random_share=0.3)
    assert again.queries == found.queries


def test_whether_a_query_is_drawn_never_depends_on_what_was_chosen(
    router: Router, tiers: TierSet
) -> None:
    """In the second round too, over the first one's chosen, which then cost nothing."""
    pool = queries()
    first = select_by_value(pool, Labelled(), router, tiers, n=30, random_share=0.3)
    known = earlier(first, tiers)
    second = select_by_value(pool, known, router, tiers, n=20, random_share=0.5)
    again = {q.query for q in pool if q.query_hash in second.drawn_again}
    # Had the first round only drawn its nine, the second would draw the same ten.
    only_drawn = replace(known, complete=known.drawn)
    unbiased = select_random(pool, only_drawn, n=10, seed=0)
    assert drawn(second) | again == drawn(unbiased)
    assert again and not drawn(second) & again
    assert not {query.query_hash for query in second.queries} & known.complete


def test_the_expected_costs_fit_the_money(router: Router, tiers: TierSet) -> None:
    pool = queries()
    usd = believe(pool, router, tiers).label_usd
    price = dict(zip([query.query_hash for query in pool], usd, strict=True))
    for share in (0.1, 0.5, 1.0):
        money = 0.4 * float(usd.sum())
        found = select_by_value(
            pool, Labelled(), router, tiers, max_usd=money, random_share=share, seed=3
        )
        total = sum(price[query.query_hash] for query in found.queries)
        # The number that is drawn is fixed by averages, and may be a little off.
        assert total <= money * 1.2
        assert found.expected_usd == pytest.approx(total)
        n_drawn = sum(kind == "random" for kind in found.sampling.values())
        assert n_drawn == min(int(np.ceil(share * money / usd.mean())), 60)


def test_beliefs_stand_in_the_order_of_the_tiers_file(router: Router, tiers: TierSet) -> None:
    pool = queries(6)
    found = believe(pool, router, tiers)
    plain = router.predict([query.query for query in pool])
    assert found.cost_usd == pytest.approx(plain.cost_usd[:, ::-1])
    assert found.label_usd == pytest.approx(plain.cost_usd.sum(axis=1))
    prices: dict[str, Any] = {
        "input_price_usd_per_mtok": 2.0,
        "output_price_usd_per_mtok": 8.0,
        "batch_input_price_usd_per_mtok": 1.0,
        "batch_output_price_usd_per_mtok": 4.0,
    }
    halved = TierSet([Tier(name, "fake", name, **prices) for name in router.tiers.names])
    cheaper = believe(pool, router, halved, batch=True)
    assert cheaper.label_usd == pytest.approx(plain.cost_usd.sum(axis=1) / 2)


def test_test_rows_are_drawn_at_most(router: Router, tiers: TierSet) -> None:
    pool = queries(30, split="test")
    found = select_by_value(pool, Labelled(), router, tiers, n=20)
    assert set(found.sampling.values()) == {"random"}


def test_what_cannot_be_chosen_with_is_refused(router: Router, tiers: TierSet) -> None:
    pool = queries(6)
    other = TierSet([Tier("a", "fake", "a"), Tier("b", "fake", "b")])
    with pytest.raises(InputError, match="expected an artifact of the tiers a, b"):
        select_by_value(pool, Labelled(), router, other, n=3)
    with pytest.raises(InputError, match="random share above 0"):
        select_by_value(pool, Labelled(), router, tiers, n=3, random_share=0.0)
    with pytest.raises(InputError, match="n or max_usd"):
        select_by_value(pool, Labelled(), router, tiers)
    assert select_by_value([], Labelled(), router, tiers, n=3).queries == []
