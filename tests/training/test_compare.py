"""Routers side by side: the same rows for all, paired, verdicts that hold together, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.errors import InputError
from router.outcomes import write_jsonl
from router.routing import Router
from router.tiers import Tier, TierSet
from tests.artifacts import sample_table, tiny_embedder, train_tiny
from tests.command_line import Done, here
from training.compare import Contender, compare_routers, shared_tiers
from training.compare_results import SideBySide, comparison_text
from training.contest import contest
from training.paired_test import bounded, difference_of
from training.results import Estimate
from training.search import Objective
from training.split import query_hashes
from training.synthetic import log, make_world, sample, to_outcomes, uniform_policy
from training.table import OutcomeTable


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three artifacts: all to the dearest tier, one that reads queries, and one of other rows."""
    folder = tmp_path_factory.mktemp("compared")
    table = sample_table(400)
    embedder = tiny_embedder(folder / "embedder", list(table.query))
    for name, value in {"dear": 1.0, "good": 0.02}.items():
        train_tiny(table, folder / name, embedder, objective=Objective("value", amount_usd=value))
    other = sample_table(400, seed=12)
    train_tiny(other, folder / "other", embedder, objective=Objective("value", amount_usd=0.02))
    write_jsonl(folder / "fresh.jsonl", to_outcomes(sample_table(300, seed=8)))
    return folder


@pytest.fixture(scope="module")
def contenders(folder: Path) -> dict[str, Contender]:
    found = {
        name: Contender(name, Router.load(folder / name)) for name in ("dear", "good", "other")
    }
    return found | {name: Contender(name) for name in ("keyword", "always:frontier", "always:mid")}


@pytest.fixture(scope="module")
def fresh() -> OutcomeTable:
    return sample_table(2000, seed=8)


@pytest.fixture(scope="module")
def compared(contenders: dict[str, Contender], fresh: OutcomeTable) -> SideBySide:
    return compare_routers(list(contenders.values()), fresh, n_bootstrap=200)


def test_rows_that_any_artifact_was_trained_on_are_left_out_for_all(
    contenders: dict[str, Contender],
) -> None:
    known = sample_table(400)  # two of the artifacts are of these rows
    hashes = query_hashes(known.query)
    good, other = contenders["good"], contenders["other"]
    assert good.router is not None and other.router is not None
    trained = np.isin(hashes, good.router.trained_query_hashes)
    either = trained | np.isin(hashes, other.router.trained_query_hashes)
    assert 100 < trained.sum() <= either.sum()
    for pair in ([other, good], [good, other]):
        found = compare_routers(pair, known, n_bootstrap=0)
        assert found.counts["n_left_out_trained"] == either.sum()
        assert found.counts["n_requests"] == 400 - either.sum()
    # Without that artifact they are compared.
    alone = compare_routers([other, contenders["keyword"]], known, n_bootstrap=0)
    assert alone.counts["n_requests"] > found.counts["n_requests"]


def test_the_numbers_are_those_of_the_rows(
    contenders: dict[str, Contender], fresh: OutcomeTable
) -> None:
    routers = [each.router for each in contenders.values() if each.router is not None]
    trained = np.concatenate([router.trained_query_hashes for router in routers])
    rows = np.flatnonzero(~np.isin(query_hashes(fresh.query), trained))
    _, first, times = np.unique(
        query_hashes(fresh.query[rows]), return_index=True, return_counts=True
    )
    rows = rows[first[times == 1]]
    found = compare_routers(list(contenders.values()), fresh.take(rows), n_bootstrap=0)
    assert found.n_texts == len(rows)
    means = {}
    for entry, contender in zip(found.entries, contenders.values(), strict=True):
        if contender.router is not None:
            router = contender.router
            dist = router.action_dist(router.predict(fresh.query[rows].tolist()))
        elif contender.tier is not None:
            dist = np.eye(3)[[fresh.tiers.names.index(contender.tier)] * len(rows)]
        else:
            continue
        mean = (dist * fresh.cost_usd[rows]).sum(1).mean()
        rate = (dist * fresh.success[rows]).sum(1).mean()
        means[entry.label] = mean, rate
        assert entry.cost_usd_per_request == Estimate(pytest.approx(mean), None)
        assert entry.success_rate == Estimate(pytest.approx(rate), None)
        assert entry.cps_usd == Estimate(pytest.approx(mean / rate), None)
        assert list(entry.share.values()) == pytest.approx(dist.mean(axis=0))
    for each in found.differences:
        if each.label in means:
            apart = np.subtract(means[each.label], means["dear"])
            assert each.cost_usd_per_request == Estimate(pytest.approx(apart[0]), None)
            assert each.success_rate == Estimate(pytest.approx(apart[1]), None)
            assert each.loss_usd is not None
            assert each.loss_usd.value == pytest.approx(apart[0] - 1.0 * apart[1])


def test_a_single_tier_has_mix_ratio_one_and_all_its_share(compared: SideBySide) -> None:
    entries = {entry.label: entry for entry in compared.entries}
    frontier = entries["always:frontier"]
    assert frontier.share == {"nano": 0.0, "mid": 0.0, "frontier": 1.0}
    assert frontier.mix_ratio is not None and frontier.mix_ratio.value == pytest.approx(1.0)
    assert frontier.artifact_id is None and entries["good"].artifact_id is not None


def test_a_mix_ratio_near_a_kink_is_said_to_be_unstable(compared: SideBySide) -> None:
    entries = {entry.label: entry for entry in compared.entries}
    # Nearly always the middle tier, at nearly its success rate.
    assert entries["good"].near_kink and not entries["always:mid"].near_kink
    said = "near a kink of the mixes' hull, where it is unstable"
    line = next(line for line in comparison_text(compared).splitlines() if line.endswith(said))
    assert "good" in line and "always:mid" not in line
    assert entries["good"].to_dict()["mix_ratio_near_kink"] is True
    calm = replace(compared, entries=tuple(replace(e, near_kink=False) for e in compared.entries))
    assert said not in comparison_text(calm)


def test_artifacts_that_list_their_tiers_in_another_order_are_compared_by_name(
    contenders: dict[str, Contender], fresh: OutcomeTable, tmp_path: Path
) -> None:
    table = sample_table(400)
    backwards = OutcomeTable.from_arrays(
        TierSet(list(table.tiers)[::-1]),
        table.query,
        table.success[:, ::-1],
        table.cost_usd[:, ::-1],
        input_tokens=table.input_tokens[:, ::-1],
        output_tokens=table.output_tokens[:, ::-1],
    )
    embedder = tiny_embedder(tmp_path / "embedder", list(table.query))
    options = {"objective": Objective("value", amount_usd=1.0)}
    train_tiny(backwards, tmp_path / "backwards", embedder, **options)
    other = Contender("backwards", Router.load(tmp_path / "backwards"))
    assert other.router is not None and other.router.tiers.names[0] == "frontier"
    found = compare_routers([contenders["dear"], other], fresh, n_bootstrap=0)
    dear, reverse = (entry.share for entry in found.entries)
    assert list(dear) == list(reverse) == ["nano", "mid", "frontier"]
    assert reverse["frontier"] > 0.9 and dear["frontier"] > 0.9


def test_it_agrees_with_promote(contenders: dict[str, Contender], fresh: OutcomeTable) -> None:
    good, dear = contenders["good"], contenders["dear"]
    assert good.router is not None and dear.router is not None
    gate = contest(good.router, dear.router, fresh)
    (found,) = compare_routers([dear, good], fresh, n_bootstrap=0).differences
    assert gate.loss is not None and found.loss_usd is not None
    assert found.loss_usd.value == pytest.approx(gate.loss.mean)
    assert found.success_rate is not None and gate.success is not None
    assert found.success_rate.value == pytest.approx(gate.success.mean)
    # Two-sided at 95 %, where the gate's bound is one-sided.
    assert found.loss_usd.interval is not None
    assert found.loss_usd.interval[1] >= gate.loss.bound


def test_the_verdict_depends_on_what_a_success_is_worth(
    contenders: dict[str, Contender], fresh: OutcomeTable
) -> None:
    pair = [contenders["always:frontier"], contenders["good"]]
    low = compare_routers(pair, fresh, success_value_usd=0.0, n_bootstrap=0)
    assert low.differences[0].verdict == "better"  # cheaper is all that counts
    assert low.success_value_of == "what was asked for"
    high = compare_routers(pair, fresh, success_value_usd=10.0, n_bootstrap=0)
    assert high.differences[0].verdict in ("worse", "not proven")
    own = compare_routers(pair, fresh, n_bootstrap=0)
    assert (own.success_value_usd, own.success_value_of) == (0.02, "good")


def test_the_same_choices_are_identical(
    contenders: dict[str, Contender], fresh: OutcomeTable
) -> None:
    dear = contenders["dear"]
    assert dear.router is not None
    twin = Contender("twin", dear.router)
    (found,) = compare_routers([dear, twin], fresh, n_bootstrap=0).differences
    assert (found.verdict, found.differ) == ("identical", 0.0)


def test_more_entries_make_each_interval_wider(
    contenders: dict[str, Contender], fresh: OutcomeTable
) -> None:
    one = compare_routers([contenders["dear"], contenders["good"]], fresh, n_bootstrap=400)
    many = compare_routers(
        [contenders[n] for n in ("dear", "good", "keyword", "always:frontier", "always:mid")],
        fresh,
        n_bootstrap=400,
    )
    for part in ("success_rate", "cost_usd_per_request", "cps_usd", "loss_usd"):
        narrow, wide = (getattr(found.differences[0], part) for found in (one, many))
        assert wide.value == pytest.approx(narrow.value)
        assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]


def test_each_text_counts_once_and_the_order_is_of_no_effect(
    contenders: dict[str, Contender], fresh: OutcomeTable
) -> None:
    pair = [contenders["dear"], contenders["good"]]
    once = compare_routers(pair, fresh, n_bootstrap=50)
    n = fresh.n_requests
    assert compare_routers(pair, fresh.take(np.arange(n)[::-1]), n_bootstrap=50) == once
    twice = compare_routers(pair, fresh.take(np.repeat(np.arange(n), 2)), n_bootstrap=50)
    assert twice.n_texts == once.n_texts
    assert twice.counts["n_requests"] == 2 * once.counts["n_requests"]
    assert twice.entries[1].cps_usd is not None and once.entries[1].cps_usd is not None
    assert twice.entries[1].cps_usd.value == pytest.approx(once.entries[1].cps_usd.value)


def test_nothing_that_succeeds_has_an_infinite_cps_and_no_difference_of_it(
    contenders: dict[str, Contender], fresh: OutcomeTable
) -> None:
    none = replace(fresh, success=np.zeros_like(fresh.success))
    found = compare_routers([contenders["dear"], contenders["good"]], none, n_bootstrap=20)
    assert found.differences[0].cps_usd is None
    as_json = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert as_json["entries"][0]["cps_usd"] is None
    assert as_json["differences"][0]["cps_usd_difference"] is None
    assert "inf" in comparison_text(found)


def test_a_log_says_about_the_same_as_full_feedback(contenders: dict[str, Contender]) -> None:
    outcomes = sample(make_world(), 4000, 8)
    pair = [contenders["dear"], contenders["good"], contenders["always:mid"]]
    full = compare_routers(pair, outcomes.table, n_bootstrap=0)
    logged = compare_routers(pair, log(outcomes, uniform_policy(outcomes), 1))
    assert (full.feedback, logged.feedback) == ("full", "logged")
    for ours, theirs in zip(logged.entries, full.entries, strict=True):
        assert ours.refusal is None and ours.effective_sample_size is not None
        assert ours.success_rate is not None and theirs.success_rate is not None
        assert ours.success_rate.interval is not None
        low, high = ours.success_rate.interval
        assert low < theirs.success_rate.value < high
    for ours, theirs in zip(logged.differences, full.differences, strict=True):
        for part in ("success_rate", "cost_usd_per_request", "loss_usd"):
            low, high = getattr(ours, part).interval
            assert low < getattr(theirs, part).value < high
        assert ours.cps_usd is not None and ours.cps_usd.interval is None
    assert "logged feedback" in comparison_text(logged)


def test_a_log_that_cannot_tell_is_refused_entry_by_entry(contenders: dict[str, Contender]) -> None:
    outcomes = sample(make_world(), 1500, 8)
    always_mid = np.tile([0.0, 1.0, 0.0], (1500, 1))
    table = log(outcomes, always_mid, 1)
    found = compare_routers(
        [contenders["always:mid"], contenders["good"], contenders["always:frontier"]], table
    )
    mid, good, frontier = found.entries
    # Nearly all of what the one does was logged; but not what it does otherwise than the first.
    assert mid.refusal is None and good.refusal is None and frontier.refusal is not None
    assert {each.verdict for each in found.differences} == {"refused"}
    assert all("REFUSED" in each.sentence for each in found.differences)
    assert "no estimate" in comparison_text(found)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("interval", "options", "verdict"),
    [
        ((-2.0, -1.0), {}, "better"),
        ((1.0, 2.0), {}, "worse"),
        ((-1.0, 1.0), {}, "not proven"),
        ((-1.0, 0.0), {}, "not proven"),
        ((-2.0, -1.0), {"identical": True}, "identical"),
        ((-2.0, -1.0), {"refusal": "too little"}, "refused"),
    ],
)
def test_the_verdict_is_read_off_the_interval(
    interval: tuple[float, float], options: dict[str, Any], verdict: str
) -> None:
    loss = Estimate(sum(interval) / 2, interval)
    found = difference_of(
        "b",
        "a",
        success=loss,
        cost=loss,
        cps=loss,
        loss=loss,
        loss_range_usd=3.0,
        differ=9.0,
        **{"identical": False, **options},
    )
    assert found.verdict == verdict
    assert verdict.upper() in found.sentence
    assert (found.loss_usd is None) == (verdict == "refused")


def test_a_value_outside_its_range_voids_the_bound() -> None:
    values = np.linspace(-0.9, -0.1, 400)
    _, high = bounded(values, 1.0, 0.0, 0.95, 0.1, 0).interval or (0, 0)
    assert high < 0
    low, high = bounded(np.append(values, -2.0), 1.0, 0.0, 0.95, 0.1, 0).interval or (0, 0)
    assert low == -np.inf and high < 0
    _, high = bounded(np.append(values, 2.0), 1.0, 0.0, 0.95, 0.1, 0).interval or (0, 0)
    assert high == np.inf


def test_verdicts_hold_together_on_rivals_that_are_no_different() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for run in range(200):
        values = rng.choice([-1.0, 1.0], (400, 4)) * rng.random((400, 4))
        bounds = [bounded(column, 1.0, 0.0, 1 - 0.05 / 4, 0.3, run).interval for column in values.T]
        wrong += any(b is None or b[1] < 0 or b[0] > 0 for b in bounds)
    assert wrong <= 20  # at most 5 % in truth; 10 is expected at the very most


# What is refused


def test_tiers_that_differ_are_refused(contenders: dict[str, Contender]) -> None:
    good = contenders["good"]
    assert good.router is not None
    fewer = TierSet(list(good.router.tiers)[:2])
    small = Contender("small", as_router(tiers=fewer))
    with pytest.raises(InputError, match=r"expected artifacts of the same tiers, got .* in good"):
        shared_tiers([good, small])
    nano, *rest = good.router.tiers
    other = TierSet([Tier(nano.name, nano.provider, "another-model"), *rest])
    with pytest.raises(InputError, match="expected the tier nano to be one model"):
        shared_tiers([good, Contender("other", as_router(tiers=other))])


def as_router(**attributes: Any) -> Any:
    return type("Other", (), attributes)()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["good"], "two or more different entries"),
        (["good", "good"], "two or more different entries"),
        (["keyword", "always:mid"], "expected an artifact among those compared"),
        (["good", "always:giant"], "expected always: with one of the tiers nano, mid, frontier"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    contenders: dict[str, Contender], labels: list[str], message: str
) -> None:
    chosen = [contenders.get(label, Contender(label)) for label in labels]
    with pytest.raises(InputError, match=message):
        shared_tiers(chosen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 0.4}, "expected a confidence above 0.5"),
        ({"success_value_usd": -1.0}, "expected a success value in USD"),
        ({"success_value_usd": float("inf")}, "--success-value"),
    ],
)
def test_bad_options_are_one_sentence(
    contenders: dict[str, Contender],
    fresh: OutcomeTable,
    options: dict[str, float],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        compare_routers([contenders["good"], contenders["keyword"]], fresh, **options)  # type: ignore[arg-type]


# The command


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return partial(here, monkeypatch, capsys)


def test_the_command_shows_entries_differences_and_verdicts(
    cps: Callable[..., Done], folder: Path
) -> None:
    done = cps(
        "compare", folder / "dear", folder / "good", "keyword", "always:mid", folder / "fresh.jsonl"
    )
    assert done.code == 0
    for text in (
        "fresh.jsonl: full feedback on ",
        "each counted once",
        "Less dear",
        "good against dear: ",
        "keyword against dear: ",
        "always:mid against dear: ",
        "from dear; 95 % confidence for all 3 comparisons together",
    ):
        assert text in done.out
    as_json = cps("compare", folder / "dear", folder / "good", folder / "fresh.jsonl", "--json")
    found = json.loads(as_json.out)
    assert [entry["label"] for entry in found["entries"]] == ["dear", "good"]
    assert found["differences"][0]["against"] == "dear"
    assert found["success_value_usd"] == 1.0
    assert set(found["differences"][0]) >= {
        *("verdict", "sentence", "success_rate_difference_interval"),
        *("cost_usd_per_request_difference_interval", "cps_usd_difference_interval"),
        *("loss_usd_difference_interval", "loss_range_usd", "differ"),
    }


def test_folders_of_one_name_are_told_apart(
    cps: Callable[..., Done], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "good").symlink_to(folder / "good")
    arguments = (folder / "good", tmp_path / "good", folder / "fresh.jsonl")
    found = json.loads(cps("compare", *arguments, "--json").out)
    assert [entry["label"] for entry in found["entries"]] == [str(a) for a in arguments[:2]]
    assert found["differences"][0]["verdict"] == "identical"


def test_the_command_needs_two_entries_and_outcomes(cps: Callable[..., Done], folder: Path) -> None:
    done = cps("compare", folder / "good", folder / "fresh.jsonl")
    assert done.code == 2
    assert "expected two or more artifacts and then the outcomes, got 2 arguments" in done.err
    assert done.err.count("\n") == 1
