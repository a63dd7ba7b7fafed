"""``cps-router evaluate --since``: closed forms, the four verdicts, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InputError
from router.outcomes import write_jsonl
from router.routing import Router
from tests.artifacts import tiny_embedder, train_tiny
from tests.command_line import Done, Run, here
from training.drift import DriftReport, find_drift, judge_drift
from training.drift_streams import Rows, Stream, find_streams, n_streams
from training.drift_text import drift_text
from training.recent import recent_rows
from training.search import Objective
from training.synthetic import log as logged
from training.synthetic import make_world, sample, to_outcomes, uniform_policy
from training.table import OutcomeTable

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
SINCE = "2026-01-01"


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return partial(here, monkeypatch, capsys)


@pytest.fixture(scope="session")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact trained on 4,000 English requests; do not write to it."""
    folder = tmp_path_factory.mktemp("english")
    table = sample(make_world(spanish_share=0.0), 4000, 1).table
    embedder = tiny_embedder(folder / "embedder", list(table.query))
    train_tiny(table, folder / "router", embedder, objective=Objective(margin=-0.1))
    return folder / "router"


@pytest.fixture(scope="session")
def router(english: Path) -> Router:
    return Router.load(english)


def timed(table: OutcomeTable, at: Sequence[datetime | None] | None = None) -> OutcomeTable:
    times = at or [START + timedelta(minutes=i) for i in range(table.n_requests)]
    column = np.empty(table.n_requests, dtype=object)
    column[:] = times
    return replace(table, at=column)


def recent_log(n: int = 3000, *, spanish_share: float = 0.0) -> OutcomeTable:
    drawn = sample(make_world(spanish_share=spanish_share), n, 2)
    return timed(logged(drawn, uniform_policy(drawn), 5))


def of(report: DriftReport, kind: str, tier: str | None = None) -> Stream:
    [found] = [s for s in report.streams if (s.kind, s.tier) == (kind, tier)]
    return found


# ------------------------------------------------------------- simulated drifts

Change = Callable[[OutcomeTable, np.random.Generator], OutcomeTable]


def failing(share: Callable[[int], Any]) -> Change:
    """A share of the successes of mid fails, for all queries alike."""

    def change(table: OutcomeTable, rng: np.random.Generator) -> OutcomeTable:
        success = table.success.copy()
        fails = rng.random(len(success)) < share(len(success))
        success[fails & table.observed[:, 1], 1] = 0.0
        return replace(table, success=success)

    return change


def unranked(table: OutcomeTable, rng: np.random.Generator) -> OutcomeTable:
    """Nano succeeds as often as it did, on whatever query."""
    success = table.success.copy()
    seen = table.observed[:, 0]
    success[seen, 0] = rng.permutation(success[seen, 0])
    return replace(table, success=success)


def priced(factor: float) -> Change:
    def change(table: OutcomeTable, _: np.random.Generator) -> OutcomeTable:
        return replace(table, cost_usd=table.cost_usd * np.array([1.0, 1.0, factor]))

    return change


DRIFTS: dict[str, tuple[Change, str, set[tuple[str, str | None]]]] = {
    "a model changed at once": (
        failing(lambda n: 0.2),
        "recalibrate",
        {("success", "mid")},
    ),
    "a model changed gradually": (
        failing(lambda n: np.linspace(0.0, 0.5, n)),
        "recalibrate",
        {("success", "mid")},
    ),
    "the price doubled": (priced(2.0), "recalibrate", {("cost", "frontier")}),
    "the price halved": (priced(0.4), "recalibrate", {("cost", "frontier")}),
    "queries no longer tell": (unranked, "retrain", {("ranking", "nano")}),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_drifts_and_what_they_call_for(router: Router, name: str) -> None:
    change, verdict, drifted = DRIFTS[name]
    table = change(recent_log(), np.random.default_rng(1))
    report = find_drift(router, table, SINCE, now=NOW)
    assert {(s.kind, s.tier) for s in report.streams if s.status == "drift"} == drifted
    assert report.verdict == verdict
    [(kind, tier)] = drifted
    assert f"{kind if kind == 'cost' else 'success'} of {tier}" in report.reason
    # Whoever looks later sees it at the same row.
    [at] = [at for at in report.first_seen if at is not None]
    early = [moment is not None and moment <= at for moment in table.at]
    again = find_drift(router, table.take(early), SINCE, now=NOW)
    assert again.verdict == verdict
    assert of(again, kind, tier).status == "drift"
    early[int(np.flatnonzero(early)[-1])] = False
    before = find_drift(router, table.take(early), SINCE, now=NOW)
    assert before.verdict == "too early to tell"


def test_another_language_calls_for_training(router: Router) -> None:
    report = find_drift(router, recent_log(1000, spanish_share=0.5), SINCE, now=NOW)
    assert report.verdict == "retrain"
    assert report.reason.startswith("The queries have changed: ")
    assert "of requests are out of distribution, 0.00" in report.reason
    assert of(report, "out of distribution").status == "drift"


def test_nothing_changed_is_fine_once_enough_is_known(router: Router) -> None:
    table = recent_log(6000)
    early = find_drift(router, table.take(np.arange(600)), SINCE, now=NOW)
    assert early.verdict == "too early to tell"
    assert early.rows_needed is not None and 1000 < early.rows_needed < 15_000
    assert "more requests like these are needed" in early.reason
    report = find_drift(router, table, SINCE, now=NOW)
    assert (report.verdict, report.rows_needed) == ("fine", None)
    assert not [s for s in report.streams if s.status == "drift"]
    assert of(report, "out of distribution").status == "within tolerance"
    # A wide tolerance makes it known earlier, a narrow one later.
    assert (
        find_drift(router, table.take(np.arange(900)), SINCE, tolerance=0.1, now=NOW).verdict
        == "fine"
    )
    narrow = find_drift(router, table, SINCE, tolerance=0.005, now=NOW)
    assert narrow.verdict == "too early to tell"


def test_full_feedback_counts_every_outcome(router: Router) -> None:
    table = timed(sample(make_world(spanish_share=0.0), 2500, 2).table)
    report = find_drift(router, table, SINCE, now=NOW)
    assert report.verdict == "fine"
    assert {s.n for s in report.streams if s.kind == "success"} == {report.counts.n_compared}
    assert of(report, "sent", "mid").status == "no rows"


def test_what_this_artifact_sent_is_compared_with_what_it_would_send(router: Router) -> None:
    drawn = sample(make_world(spanish_share=0.0), 1500, 2)
    dist = router.action_dist(router.predict(list(drawn.table.query)))
    ours = timed(logged(drawn, dist, 5))
    ours = replace(ours, artifact_id=np.array([router.artifact_id] * 1500, dtype=object))
    report = find_drift(router, ours, SINCE, now=NOW)
    sent = of(report, "sent", "mid")
    assert (sent.n, sent.observed) == (report.counts.n_compared, sent.predicted)
    # Everything pinned to frontier is noted, and is no fault of the artifact.
    pinned = timed(logged(drawn, np.eye(3)[np.full(1500, 2)], 5))
    pinned = replace(pinned, artifact_id=ours.artifact_id)
    report = find_drift(router, pinned, SINCE, now=NOW)
    assert of(report, "sent", "frontier").status == "drift"
    assert report.verdict == "fine"
    assert "1.000 of requests were sent to frontier" in report.reason
    other = replace(pinned, artifact_id=np.array(["another"] * 1500, dtype=object))
    assert of(find_drift(router, other, SINCE, now=NOW), "sent", "frontier").n == 0


# ------------------------------------------------------------------ closed forms


def rows(n: int, *, p: float = 0.5, success: float = 0.5, cost: float = 1.0) -> Rows:
    """Rows of two tiers, of which the first served all."""
    one = np.ones((n, 2))
    nothing = np.column_stack((np.zeros(n), np.full(n, np.nan)))
    spread = np.where(np.arange(n) % 4 < 2, -0.1, 0.1)[:, None]
    return Rows(
        p + spread * one,
        one,
        one * np.array([1.0, 0.0]),
        np.zeros(n, dtype=bool),
        nothing + ((np.arange(n) % 2) * 2 * success)[:, None],
        nothing + cost,
        np.full(n, -1, dtype=np.intp),
    )


def test_each_stream_says_what_it_measures() -> None:
    found = find_streams(("a", "b"), rows(400), rows(800, cost=3.0), tolerance=0.02, confidence=0.9)
    assert len(found) == n_streams(2)
    by = {(s.kind, s.tier): s for s in found}
    success = by["success", "a"]
    assert (success.n, success.observed, success.predicted) == (800, 0.5, pytest.approx(0.5))
    assert success.difference == pytest.approx(0.0)
    assert success.lower is not None and success.upper is not None
    assert -success.lower == pytest.approx(success.upper, abs=0.02)
    # Costs count up to the largest in calibration, 1 here.
    assert by["cost", "a"].observed == 1.0
    assert by["share", "a"].observed == by["share", "a"].predicted == 1.0
    assert by["share", "a"].difference == 0.0
    assert by["ranking", "a"].observed == pytest.approx(0.0, abs=0.05)  # unrelated by design
    assert by["ranking", "a"].auc == 0.5
    for kind in ("success", "cost", "ranking", "sent"):
        assert by[kind, "b"].status == "no rows"
    assert json.loads(json.dumps([s.to_dict() for s in found], allow_nan=False))


def test_an_artifact_without_calibration_rows_knows_no_shares() -> None:
    nobody, recent = rows(0), rows(500)
    by = {
        (s.kind, s.tier): s
        for s in find_streams(("a", "b"), nobody, recent, tolerance=0.02, confidence=0.9)
    }
    assert by["share", "a"].predicted is None
    assert by["share", "a"].status == by["out of distribution", None].status == "not yet known"
    assert by["success", "a"].n == 500
    assert by["cost", "a"].status == by["ranking", "a"].status == "no rows"


@given(
    st.integers(0, 60),
    st.integers(1, 60),
    st.integers(0, 10**6),
    st.floats(0.005, 0.5),
    st.floats(0.5, 0.99),
)
def test_any_rows_give_streams_that_agree_with_their_status(
    m: int, n: int, seed: int, tolerance: float, confidence: float
) -> None:
    rng = np.random.default_rng(seed)

    def draw(count: int) -> Rows:
        observed = rng.random((count, 2)) < rng.random()
        return Rows(
            rng.random((count, 2)),
            rng.exponential(size=(count, 2)) * rng.integers(0, 2),
            np.eye(2)[rng.integers(0, 2, count)],
            rng.random(count) < rng.random(),
            np.where(observed, rng.random((count, 2)).round(), np.nan),
            np.where(observed, rng.exponential(size=(count, 2)), np.nan),
            rng.integers(-1, 2, count),
        )

    found = find_streams(("a", "b"), draw(m), draw(n), tolerance=tolerance, confidence=confidence)
    for stream in found:
        assert (stream.first_row is not None) == (stream.status == "drift")
        assert (stream.n == 0) == (stream.status == "no rows")
        if stream.lower is not None and stream.upper is not None:
            assert stream.lower <= stream.upper
            if stream.status == "within tolerance" and stream.kind != "out of distribution":
                assert max(-stream.lower, stream.upper) < stream.tolerance
    verdict, reason, needed = judge_drift(found, n, tolerance)
    assert reason.endswith((".", ")"))
    assert needed is None or (verdict == "too early to tell" and needed > 0)


def stream(kind: Any, status: Any = "drift", tier: str | None = "mid", n: int = 1000) -> Stream:
    return Stream(kind, tier, n, 0.5, 0.6, -0.1, -0.03, 0.03, 0.02, status, rows_needed=1500)


RULES = [
    (["success"], "recalibrate"),
    (["cost"], "recalibrate"),
    (["success", "cost"], "recalibrate"),
    (["ranking"], "retrain"),
    (["ranking", "success"], "retrain"),
    (["share"], "retrain"),
    (["out of distribution", "success"], "retrain"),
    (["sent"], "fine"),
    (["sent", "cost"], "recalibrate"),
    ([], "fine"),
]


@pytest.mark.parametrize(("drifted", "verdict"), RULES)
def test_the_rules(drifted: list[str], verdict: str) -> None:
    quiet = [stream("success", "not yet known", "nano")]
    found, reason, _ = judge_drift([*quiet, *map(stream, drifted)], 3000, 0.02)
    assert found == verdict
    assert ("were sent to mid" in reason) == ("sent" in drifted)


def test_a_tier_that_serves_little_is_not_waited_for() -> None:
    little = replace(stream("success", "not yet known", "nano", 50), upper=0.5)
    much = stream("success", "not yet known", "mid", 1000)
    assert judge_drift([little, much], 1050, 0.02)[0] == "fine"
    verdict, reason, needed = judge_drift([replace(little, n=500), much], 1500, 0.02)
    assert (verdict, needed) == ("too early to tell", 3000)
    assert "about 3,000 more requests" in reason and "success of nano" in reason
    assert judge_drift([stream("share", "not yet known")], 10, 0.02)[:2] == (
        "too early to tell",
        "No outcome of any tier was logged.",
    )


# ---------------------------------------------------------------- what is recent


def table_at(at: Sequence[datetime | None]) -> OutcomeTable:
    table = sample(make_world(), max(len(at), 1), 4).table
    return timed(table.take(np.arange(len(at))), list(at))


def test_time_zones_spans_and_clocks() -> None:
    east = timezone(timedelta(hours=9))
    at = [
        datetime(2026, 1, 2, 3, tzinfo=east),  # 18:00 UTC of the day before
        datetime(2026, 1, 1, 20),  # noqa: DTZ001 - naive: taken for UTC
        None,
        datetime(2026, 1, 1, 19, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),  # in the future
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
    ]
    table = table_at(at)
    found = recent_rows(table, "90m", now=NOW)
    assert found.rows.tolist() == [3, 1]
    assert found.since == datetime(2026, 1, 1, 18, 30, tzinfo=UTC)
    assert (found.n_before, found.n_without_time, found.n_future) == (1, 2, 1)
    for since in ("2h", "0.5d", "1w", "2026-01-02T03:00+09:00", "2026-01-01T18:00Z", "99999999w"):
        assert recent_rows(table, since, now=NOW).rows.tolist() == [0, 3, 1]
    assert recent_rows(table, "0h", now=NOW).rows.tolist() == [1]
    assert recent_rows(table, "2026-01-01 19:30", now=NOW).rows.tolist() == [1]


@pytest.mark.parametrize(
    "since",
    ["", "yesterday", "7", "7y", "-7d", "d", "2026-13-01", "nan d", "1e3d", "９d", "x" * 500],
)
def test_nonsense_is_no_time(since: str) -> None:
    with pytest.raises(InputError, match="expected --since as an ISO 8601 date") as error:
        recent_rows(table_at([START]), since, now=NOW)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("at", "since", "words"),
    [
        ([None, None], "7d", "expected rows with a time .column at. .* in 2 requests"),
        ([START], "2026-02-01", "got none of 1 with a time .the newest is of 2026-01-01T00"),
        ([datetime(2030, 1, 1, tzinfo=UTC)], "7d", "none is usable, 1 lie in the future"),
    ],
)
def test_nothing_recent(at: list[datetime | None], since: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        recent_rows(table_at(at), since, now=NOW)


@given(st.permutations(range(8)))
def test_the_order_of_the_file_is_of_no_effect(order: list[int]) -> None:
    table = table_at([START + timedelta(hours=i // 2) for i in range(8)])
    ids = table.request_id[recent_rows(table, "2h", now=NOW).rows]
    mixed = table.take(order)
    assert mixed.request_id[recent_rows(mixed, "2h", now=NOW).rows].tolist() == ids.tolist()


def test_left_out_and_counted(router: Router) -> None:
    table = recent_log(40)
    split = np.array([None] * 40, dtype=object)
    split[:5] = "train"
    query = table.query.copy()
    query[10] = query[11] = query[12].upper()
    trained = sample(make_world(spanish_share=0.0), 4000, 1).table.query[0]
    query[20] = trained
    table = replace(table, split=split, query=query)
    counts = find_drift(router, table, "2026-01-01T00:02", now=NOW).counts
    assert (counts.n_before, counts.n_train_split, counts.n_repeated) == (2, 3, 2)
    assert counts.n_left_out_trained >= 1
    everything = replace(table, split=np.array(["train"] * 40, dtype=object))
    with pytest.raises(InputError, match="not used in training, got none of 40: 40 are marked"):
        find_drift(router, everything, SINCE, now=NOW)
    for wrong in ({"tolerance": 0.0}, {"tolerance": 1.0}, {"confidence": 1.0}):
        with pytest.raises(InputError, match="between 0 and 1"):
            find_drift(router, table, SINCE, now=NOW, **wrong)


def test_one_row_is_too_early(router: Router) -> None:
    report = find_drift(router, recent_log(1), SINCE, now=NOW)
    assert (report.verdict, report.counts.n_compared) == ("too early to tell", 1)
    assert report.rows_needed is not None and report.rows_needed > 500
    assert "verdict: TOO EARLY TO TELL. " in drift_text(report)


# -------------------------------------------------------------- the command line


def write(folder: Path, table: OutcomeTable) -> Path:
    write_jsonl(folder / "log.jsonl", to_outcomes(table))
    return folder / "log.jsonl"


def refused(done: Done) -> str:
    assert (done.code, done.out) == (2, "")
    return done.err.splitlines()[-1]


def test_the_command_in_words_and_as_json(cps: Run, english: Path, tmp_path: Path) -> None:
    table = failing(lambda n: 0.4)(recent_log(1500), np.random.default_rng(1))
    log = write(tmp_path, table)
    done = cps("evaluate", english, log, "--since", SINCE, "--report", "out")
    assert done.code == 0
    assert "verdict: RECALIBRATE. The level of the predictions is off" in done.out
    assert "drift, seen by 2026-01-01T" in done.out
    assert "keep --since 2026-01-01T00:00:00+00:00" in done.out
    assert (tmp_path / "out" / "report.txt").read_text() == done.out
    found = json.loads(cps("evaluate", english, log, "--since", SINCE, "--json").out)
    assert found == json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["data"] == "log.jsonl"
    assert found["artifact_id"] == Router.load(english).artifact_id
    assert found["n_rows"] == found["counts"]["n_compared"] > 1400
    drift = found["drift"]
    assert drift["verdict"] == "recalibrate"
    assert drift["reason"] in done.out
    [off] = [s for s in drift["streams"] if s["status"] == "drift"]
    assert (off["kind"], off["tier"], off["tolerance"]) == ("success", "mid", 0.02)
    assert off["interval"][1] < -0.02
    assert off["first_seen"].startswith("2026-01-01T")
    wide = cps("evaluate", english, log, "--since", SINCE, "--tolerance", "0.45", "--json")
    assert json.loads(wide.out)["drift"]["verdict"] == "fine"


def test_the_command_refuses_in_a_sentence(cps: Run, english: Path, tmp_path: Path) -> None:
    log = write(tmp_path, recent_log(20))
    assert "expected --since as an ISO" in refused(cps("evaluate", english, log, "--since", "soon"))
    # Nonsense is found before a long log is read.
    gone = refused(cps("evaluate", english, "gone.jsonl", "--since", "soon"))
    assert "expected --since as an ISO" in gone
    assert "got none of 20" in refused(cps("evaluate", english, log, "--since", "2026-03-01"))
    assert "expected --since with --tolerance" in refused(
        cps("evaluate", english, log, "--tolerance", "0.1")
    )
    assert "expected a tolerance" in refused(
        cps("evaluate", english, log, "--since", "7d", "--tolerance", "-1")
    )
    untimed = write(tmp_path, replace(recent_log(20), at=np.array([None] * 20, dtype=object)))
    assert "expected rows with a time" in refused(
        cps("evaluate", english, untimed, "--since", "7d")
    )


def test_help_states_the_rule(cps: Run) -> None:
    said = cps("evaluate", "--help").out
    for word in ("--since", "--tolerance", "RETRAIN", "RECALIBRATE", "FINE", "TOO EARLY"):
        assert word in said
