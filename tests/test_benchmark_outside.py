"""The benchmark of what is outside flags what the router flags, and tells routing from the rest."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import languages, outside, run
from benchmarks.everyday_requests import EASY, HARD
from benchmarks.results import Section
from router.embedding import load_embedder
from router.routing import Router
from training.default_artifact import SUCCESS_VALUE_USD
from training.synthetic import make_world
from training.table import OutcomeTable


def quiet(message: str) -> None:
    """Progress that nobody watches."""


def table(seed: int, spoken: tuple[str, ...] = ("English",)) -> OutcomeTable:
    return languages.training_table(make_world(spanish_share=0.0), spoken, 500, seed)


@pytest.fixture(scope="module")
def measured() -> Section:
    patch = pytest.MonkeyPatch()
    patch.setattr(outside, "N_FITTING", (50, 100_000))
    patch.setattr(outside, "N_DRAWS", 2)
    # Tables of the same tiers, the second half in a language that the first has not.
    patch.setattr(outside, "SETS", ("here", "there"))
    tables = {"here": table(1), "there": table(2, ("German",))}
    section = outside.measure(tables, ["x is left out."], load_embedder("static"), quiet)
    patch.undo()
    return section


def test_requests_are_different() -> None:
    assert len({*EASY, *HARD}) == len(EASY) + len(HARD) == 60


def test_small_logs_flag_few_of_their_like_and_most_of_a_foreign_language(
    measured: Section,
) -> None:
    rows = measured.data["small"]
    # More queries than there are, are left out.
    assert [(row["set"], row["n"]) for row in rows] == [("here", 50), ("there", 50)]
    for row in rows:
        assert max(row["like"]) < 0.05
    assert min(rows[0]["foreign"]) > 0.5


def test_what_routing_is_worth_adds_up(measured: Section) -> None:
    rows = measured.data["others"]
    assert {(row["trained_on"], row["asked"]) for row in rows} == {
        ("here", "there"),
        ("there", "here"),
    }
    strange = [row for row in rows if row["flagged"] == "strange scripts or words"]
    assert [row["asked"] for row in strange] == ["there"]
    for row in rows:
        assert row["n"] >= outside.MIN_FAR
        worth = {
            play: 1000 * SUCCESS_VALUE_USD * row[play]["success"] - row[play]["usd"]
            for play in ("routed", "safe")
        }
        assert row["gain_usd"] == pytest.approx(worth["routed"] - worth["safe"])
        assert row["gain_error_usd"] >= 0


def test_everyday_requests_go_where_the_router_sends_them(measured: Section) -> None:
    router = Router.load()
    easy, hard = measured.data["everyday"]
    assert (easy["n"], hard["n"]) == (len(EASY), len(HARD))
    for row, requests in ((easy, EASY), (hard, HARD)):
        tiers = [router.route(request).tier for request in requests]
        assert sum(row["tiers"].values()) == pytest.approx(1)
        assert row["tiers"] == {t.name: np.mean([t.name == x for x in tiers]) for t in router.tiers}


def test_the_shipped_artifact_takes_no_easy_request_for_strange(measured: Section) -> None:
    easy = measured.data["everyday"][0]
    assert easy["flagged"] == 0.0
    assert easy["tiers"]["frontier"] < 0.1
    router = Router.load()
    assert {router.route(text).reason for text in ("hello", "ok", "lol")} == {"policy"}
    # What it cannot read it still does.
    for text in (
        "你好，请帮我写一封信",
        "Bitte schreibe mir einen kurzen Brief an meine Vermieterin",
    ):
        assert router.route(text).reason == "out-of-distribution"


def test_tables_show_every_row(measured: Section) -> None:
    small, others, everyday, left_out = measured.tables
    assert len(small.rows) == 2
    assert len(others.rows) == len(measured.data["others"])
    assert len(everyday.rows) == 2
    assert "x is left out." in left_out.text()
    json.dumps(run._finite(measured.data), allow_nan=False)
