"""Two real routers on the same outcomes: what counts, what is fixed before, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.errors import InputError
from router.routing import Router
from router.tiers import Tier, TierSet
from tests.artifacts import sample_table, tiny_embedder, train_tiny
from training.contest import contest, tiers_of_both
from training.gather import as_objects
from training.search import Objective
from training.synthetic import log, make_world, sample, uniform_policy
from training.table import OutcomeTable


@pytest.fixture(scope="module")
def routers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Router]:
    """One that sends everything to the dearest tier, one that reads queries; few training rows."""
    folder = tmp_path_factory.mktemp("routers")
    table = sample_table(400)
    embedder = tiny_embedder(folder / "embedder", list(table.query))
    for name, value in {"dear": 1.0, "good": 0.02}.items():
        train_tiny(table, folder / name, embedder, objective=Objective("value", amount_usd=value))
    return {name: Router.load(folder / name) for name in ("dear", "good")}


@pytest.fixture(scope="module")
def fresh() -> OutcomeTable:
    """Other queries of the same world."""
    return sample_table(3000, seed=8)


@pytest.fixture(scope="module")
def fresh_log() -> OutcomeTable:
    outcomes = sample(make_world(), 3000, 8)
    return log(outcomes, uniform_policy(outcomes), 1)


def test_lambda_is_the_champions_and_the_challengers_against_the_heuristic(
    routers: dict[str, Router], fresh: OutcomeTable
) -> None:
    for a, b, expected in (("good", "dear", 1.0), ("dear", "good", 0.02), ("good", "good", 0.02)):
        assert contest(routers[a], routers[b], fresh).success_value_usd == expected
    found = contest(routers["good"], None, fresh)
    assert found.success_value_usd == 0.02
    assert [side.name for side in found.sides] == ["challenger", "keyword"]


def test_what_was_trained_on_or_is_marked_train_is_left_out_and_counted(
    routers: dict[str, Router], fresh: OutcomeTable
) -> None:
    known = sample_table(400)  # what both were trained on, test rows among them
    n_known = int(
        np.isin(
            [hash_of(query) for query in known.query], routers["good"].trained_query_hashes
        ).sum()
    )
    assert n_known > 100
    found = contest(routers["good"], routers["dear"], known)
    assert found.counts["n_left_out_trained"] == n_known
    assert found.counts["n_requests"] == 400 - n_known
    marked = replace(fresh, split=as_objects(["train"] * 1000 + ["test"] * 2000))
    found = contest(routers["good"], routers["dear"], marked)
    assert found.counts["n_train_split"] == 1000
    assert found.counts["n_requests"] + found.counts["n_left_out_trained"] == 2000


def hash_of(query: str) -> int:
    from training.split import query_hash

    return query_hash(query)


def test_every_text_counts_once(routers: dict[str, Router], fresh: OutcomeTable) -> None:
    once = contest(routers["good"], routers["dear"], fresh)
    thrice = contest(routers["good"], routers["dear"], fresh.take(np.repeat(np.arange(3000), 3)))
    assert thrice.n_texts == once.n_texts
    assert thrice.counts["n_requests"] == 3 * once.counts["n_requests"]
    assert thrice.success is not None and once.success is not None
    assert thrice.success.mean == pytest.approx(once.success.mean, abs=1e-12)


def test_the_order_of_the_rows_is_of_no_effect(
    routers: dict[str, Router], fresh: OutcomeTable
) -> None:
    found = contest(routers["good"], routers["dear"], fresh).to_dict()
    backwards = contest(routers["good"], routers["dear"], fresh.take(np.arange(3000)[::-1]))
    assert backwards.to_dict() == found


def test_the_numbers_are_those_of_the_rows(routers: dict[str, Router], fresh: OutcomeTable) -> None:
    good, dear = routers["good"], routers["dear"]
    untrained = ~np.isin(
        [hash_of(q) for q in fresh.query],
        np.concatenate((good.trained_query_hashes, dear.trained_query_hashes)),
    )
    rows = np.flatnonzero(untrained)
    # Of texts that occur twice the mean counts: here they are left out.
    _, first, times = np.unique(
        [hash_of(q) for q in fresh.query[rows]], return_index=True, return_counts=True
    )
    rows = rows[first[times == 1]]
    found = contest(good, dear, fresh.take(rows))
    queries = fresh.query[rows].tolist()
    for router, side in zip((good, dear), found.sides, strict=True):
        dist = router.action_dist(router.predict(queries))
        assert side.success_rate == pytest.approx((dist * fresh.success[rows]).sum(1).mean())
        assert side.cost_usd_per_request == pytest.approx(
            (dist * fresh.cost_usd[rows]).sum(1).mean()
        )
    assert found.success is not None and found.loss is not None
    success = found.sides[0].success_rate - found.sides[1].success_rate
    cost = found.sides[0].cost_usd_per_request - found.sides[1].cost_usd_per_request
    assert found.success.mean == pytest.approx(success)
    assert found.loss.mean == pytest.approx(cost - found.success_value_usd * success)


@pytest.mark.parametrize("kind", ["full", "logged"])
def test_identical_routers_are_refused(
    routers: dict[str, Router], fresh: OutcomeTable, fresh_log: OutcomeTable, kind: str
) -> None:
    table = fresh if kind == "full" else fresh_log
    found = contest(routers["good"], routers["good"], table)
    assert not found.promoted
    assert found.feedback == kind
    assert "routes every one of these requests as the champion does" in found.sentence


def test_a_log_says_about_the_same_as_full_feedback(
    routers: dict[str, Router], fresh: OutcomeTable, fresh_log: OutcomeTable
) -> None:
    full = contest(routers["good"], routers["dear"], fresh)
    logged = contest(routers["good"], routers["dear"], fresh_log)
    assert logged.feedback == "logged"
    assert full.success is not None and logged.success is not None
    assert abs(logged.success.mean - full.success.mean) < 0.08
    # A log tells less.
    assert logged.success.bound < full.success.bound
    for a, b in zip(full.sides, logged.sides, strict=True):
        assert abs(a.success_rate - b.success_rate) < 0.08
        assert b.cost_usd_per_request == pytest.approx(a.cost_usd_per_request, rel=0.15)
    counts = logged.counts
    left_out = counts["n_left_out_trained"] + counts["n_set_aside"]
    assert counts["n_requests"] + left_out == counts["n_rows"]


def test_a_log_that_never_tried_what_the_challenger_does_is_refused(
    routers: dict[str, Router],
) -> None:
    outcomes = sample(make_world(), 2000, 8)
    always = np.zeros((2000, 3))
    always[:, outcomes.cheapest_first[-1]] = 1.0
    found = contest(routers["good"], routers["dear"], log(outcomes, always, 1))
    assert not found.promoted
    assert found.success is None
    assert "REFUSED: of the challenger, no estimate: expected at most 5 %" in found.sentence


def test_a_log_that_gave_a_tier_no_chance_on_some_requests_is_refused(
    routers: dict[str, Router],
) -> None:
    outcomes = sample(make_world(), 3000, 8)
    dist = uniform_policy(outcomes)
    # One request in four had two tiers only, and no propensity of its row says so.
    dist[::4] = [0.5, 0.5, 0.0]
    found = contest(routers["good"], routers["dear"], log(outcomes, dist, 1))
    assert not found.promoted
    assert "the recorded propensities of frontier do not add up" in found.sentence


def test_of_several_outcomes_the_one_with_a_propensity_was_chosen(
    routers: dict[str, Router], fresh: OutcomeTable, fresh_log: OutcomeTable
) -> None:
    alone = contest(routers["good"], routers["dear"], fresh_log)
    also = fresh_log.observed.copy()
    # Asked afterwards: of every other request the outcome of one more tier.
    rows = np.arange(0, 3000, 2)
    also[rows, (fresh_log.observed.argmax(axis=1)[rows] + 1) % 3] = True
    seen = replace(
        fresh_log,
        observed=also,
        success=np.where(also, fresh.success, np.nan),
        cost_usd=np.where(also, fresh.cost_usd, np.nan),
    )
    found = contest(routers["good"], routers["dear"], seen)
    assert found.counts == alone.counts
    assert found.success is not None and alone.success is not None
    assert found.success.mean == alone.success.mean
    # More is known beforehand, which moves no more than where the bets start.
    assert found.success.bound == pytest.approx(alone.success.bound, abs=1e-3)


def test_a_short_log_is_refused_with_the_length_that_would_do(
    routers: dict[str, Router], fresh_log: OutcomeTable
) -> None:
    found = contest(routers["good"], routers["dear"], fresh_log.take(np.arange(200)))
    assert not found.promoted
    assert "effective sample size of at least 100" in found.sentence
    assert found.to_dict()["success_difference"] is None


def test_a_log_without_propensities_is_no_basis(
    routers: dict[str, Router], fresh_log: OutcomeTable
) -> None:
    blank = replace(fresh_log, propensity=np.full_like(fresh_log.propensity, np.nan))
    with pytest.raises(InputError, match=r"[\d,]+ were logged without a propensity; bring new"):
        contest(routers["good"], routers["dear"], blank)
    some = fresh_log.propensity.copy()
    some[:500] = np.nan
    found = contest(routers["good"], routers["dear"], replace(fresh_log, propensity=some))
    assert found.counts["n_without_propensity"] > 400


def test_nothing_left_to_compare_says_why(routers: dict[str, Router], fresh: OutcomeTable) -> None:
    marked = replace(fresh, split=as_objects(["train"] * 3000))
    with pytest.raises(InputError, match=r"got none of 3,000: 3,000 are marked train; bring new"):
        contest(routers["good"], routers["dear"], marked)


def test_tiers_that_the_outcomes_do_not_have_are_named(
    routers: dict[str, Router], fresh: OutcomeTable
) -> None:
    two = OutcomeTable.from_arrays(
        TierSet(list(fresh.tiers)[:2]),
        fresh.query,
        fresh.success[:, :2],
        fresh.cost_usd[:, :2],
    )
    with pytest.raises(InputError, match=f"got none of {fresh.tiers.names[2]}"):
        contest(routers["good"], routers["dear"], two)


def test_routers_without_a_tier_in_common_meet_on_outcomes_of_all(
    routers: dict[str, Router], fresh: OutcomeTable, tmp_path: Path
) -> None:
    """The other one's tiers are the same models under other names, so that costs agree."""
    small = sample_table(400)
    theirs = [Tier(f"other-{t.name}", t.provider, f"other-{t.model}") for t in small.tiers]
    renamed = OutcomeTable.from_arrays(TierSet(theirs), small.query, small.success, small.cost_usd)
    embedder = tiny_embedder(tmp_path / "embedder", list(small.query))
    train_tiny(renamed, tmp_path / "r", embedder, objective=Objective("value", amount_usd=1.0))
    other = Router.load(tmp_path / "r")
    both = tiers_of_both(routers["good"], other)
    assert len(both) == 6
    table = OutcomeTable.from_arrays(
        both,
        fresh.query,
        np.tile(fresh.success, 2),
        np.tile(fresh.cost_usd, 2),
    )
    found = contest(routers["good"], other, table)
    assert found.loss is not None
    assert np.isfinite(found.loss.bound)
    same = contest(routers["good"], routers["dear"], fresh)
    assert same.loss is not None
    assert found.loss.mean == pytest.approx(same.loss.mean, rel=0.1)
    # Nothing is known of what their costs differ by: the range is that of the dearer alone.
    assert found.loss.range >= same.loss.range


def test_one_name_for_two_models_is_refused(routers: dict[str, Router]) -> None:
    class Other:
        tiers = TierSet([replace(routers["good"].tiers[0], model="something-else", aliases=())])

    name = routers["good"].tiers[0].name
    with pytest.raises(InputError, match=f"expected the tier {name} to be one model"):
        tiers_of_both(routers["good"], Other())  # type: ignore[arg-type]
    Other.tiers = TierSet(
        [replace(routers["good"].tiers[0], model="new", aliases=(routers["good"].tiers[0].model,))]
    )
    assert len(tiers_of_both(routers["good"], Other())) == 3  # type: ignore[arg-type]
