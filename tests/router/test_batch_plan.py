"""Rows go to tiers at batch prices, within the floor that is tested again at these."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from router.batch import BatchJobs
from router.batch.channels import Channel, channel_of
from router.batch.input import InputRow, Reject, read_rows
from router.batch.plan import RouterPlanner
from router.errors import InputError, TiersError
from router.ledger import Ledger
from router.ledger.report import report
from router.prices import PriceBook
from router.providers.batching import BatchLimits
from router.routing import Router
from router.tier_price import TierPrice
from tests.artifacts import sample_table
from tests.batches import NOON, Batches, Clock, OneByOne


@pytest.fixture(scope="module")
def router(small_artifact: Path) -> Router:
    return Router.load(small_artifact)


@pytest.fixture(scope="module")
def rows() -> list[InputRow]:
    lines = [json.dumps({"query": q}).encode() for q in list(sample_table(200, seed=5).query)]
    found = list(read_rows(lines))
    assert not any(isinstance(row, Reject) for row in found)
    return [row for row in found if isinstance(row, InputRow)]


def channels(router: Router, in_batch: set[str], factor: float = 0.5) -> list[Channel]:
    """Batches for some tiers, at that part of the price."""
    cost = router.predictor.cost
    found = []
    for i, tier in enumerate(router.tiers):
        a, b = float(cost.input_usd_per_mtok[i]), float(cost.output_usd_per_mtok[i])
        standard = TierPrice(a, a, a, b)
        batch = TierPrice(factor * a, factor * a, factor * a, factor * b)
        is_in = tier.name in in_batch
        found.append(
            Channel(
                tier, standard, batch if is_in else None, BatchLimits(10, 1000) if is_in else None
            )
        )
    return found


def test_the_router_is_priced_anew_where_batches_reach(router: Router) -> None:
    names = router.tiers.names
    cost = router.predictor.cost
    planner = RouterPlanner(router, channels(router, {names[0], names[2]}))
    halved = np.array([0.5, 1.0, 0.5])
    assert np.allclose(
        planner.router.predictor.cost.input_usd_per_mtok, halved * cost.input_usd_per_mtok
    )
    assert np.allclose(
        planner.router.predictor.cost.output_usd_per_mtok, halved * cost.output_usd_per_mtok
    )
    assert planner.router.artifact_id != router.artifact_id
    assert RouterPlanner(router, channels(router, set())).router.artifact_id == router.artifact_id


def test_a_tier_that_batches_make_cheap_gets_more_and_the_floor_is_tested_again(
    router: Router, rows: list[InputRow]
) -> None:
    ids = [f"r{row.line}" for row in rows]

    def shares(planner: RouterPlanner) -> Counter[str]:
        plans = planner.plan(rows, ids)
        assert all(plan is not None for plan in plans)
        return Counter(plan.decision.tier for plan in plans if plan is not None)

    before = shares(RouterPlanner(router, channels(router, set())))
    strongest = router.tiers.names[router.policy.strongest]
    assert before[strongest] < len(rows)
    planner = RouterPlanner(router, channels(router, {strongest}, factor=0.001))
    assert shares(planner) == {strongest: len(rows)}
    plan = planner.plan(rows[:1], ids[:1])[0]
    assert plan is not None
    # Certified by the calibration rows that the artifact carries, at these prices.
    assert planner.router.certificate is not None
    assert plan.decision.certified == planner.router.certificate.certified
    assert plan.baseline["tier"] == strongest
    assert set(plan.baseline["usd"]) == {strongest, plan.decision.tier}
    # The baseline is without batch, whatever the decision was made on.
    standard = router.route(rows[0].query, request_id=ids[0]).cost_usd[strongest]
    assert plan.baseline["usd"][strongest] == pytest.approx(standard)


def test_a_pinned_tier_is_kept_and_an_unknown_one_refused(
    router: Router, rows: list[InputRow], tmp_path: Path
) -> None:
    name = router.tiers.names[1]
    planner = RouterPlanner(router, channels(router, set()), name)
    plans = planner.plan(rows[:5], ["a", "b", "c", "d", "e"])
    assert {(p.decision.tier, p.decision.reason) for p in plans if p} == {(name, "pinned")}
    with Ledger(tmp_path / "ledger.db") as ledger:
        with pytest.raises(TiersError, match="expected the name of a tier"):
            BatchJobs(ledger, router=router).submit([], tier="unknown")
        with pytest.raises(InputError, match="expected a provider among"):
            BatchJobs(ledger, router=router).submit([{"query": "x"}])


def test_a_routed_job_is_recorded_with_what_routing_and_batch_saved(
    router: Router, rows: list[InputRow], tmp_path: Path
) -> None:
    clock = Clock()
    providers = {}
    for tier in router.tiers:
        kind = Batches if tier.name != router.tiers.names[0] else OneByOne
        providers[tier.provider] = kind(tmp_path / tier.provider, id=tier.provider)
    with Ledger(tmp_path / "ledger.db") as ledger:
        jobs = BatchJobs(
            ledger, router=router, providers=providers, now=clock.now, sleep=clock.sleep
        )
        job = jobs.submit([{"query": row.query} for row in rows])
        done = jobs.resume(job.job_id, wait=True)
        assert done.rows == {"answered": len(rows)}
        savings = report(ledger).savings
        assert savings.n_requests == len(rows)
        assert savings.saved_nanousd == (
            savings.cache_nanousd
            + savings.routing_nanousd
            + savings.batch_nanousd
            - savings.escalation_nanousd
            - savings.exploration_nanousd
        )
        assert savings.routing_nanousd > 0
        entry = next(iter(ledger.requests()))
        assert entry.request.baseline_tier == router.tiers.names[router.policy.strongest]
        assert entry.request.decision["artifact_id"].startswith(router.artifact_id.split("+")[0])


def test_a_channel_says_what_a_batch_costs_and_holds(tmp_path: Path, router: Router) -> None:
    from tests.batches import TIERS

    tier, provider = TIERS[0], Batches(tmp_path / "p")
    book = PriceBook()

    def channel(left_s: float, durations: list[float]) -> Channel:
        return channel_of(tier, provider, book, NOON, left_s, lambda _: durations)

    assert channel(86_400, []).limits == provider.batch_limits
    assert channel(86_399, []).limits is None
    assert channel(3600, [60.0] * 5).batch_s == 60.0
    assert channel(3600, [60.0] * 5).batched(1000, 100)
    assert not channel(3600, [60.0] * 5).batched(1000, 100, n_bytes=10**6 + 1)
    assert not channel(59, [60.0] * 5).batched(1000, 100)
    assert channel_of(tier, OneByOne(tmp_path / "o"), book, NOON, 1e9, lambda _: []).limits is None
