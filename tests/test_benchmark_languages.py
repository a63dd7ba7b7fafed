"""The language benchmark asks the same in every language, and knows the answers."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from benchmarks import data, languages, run
from benchmarks.language_phrases import LANGUAGES
from benchmarks.languages import MIXED, Item, Truth, as_synthetic, write_items
from benchmarks.results import Section
from router.routing import Router
from training.synthetic import make_world

ITEMS = write_items(600, 3)


def quiet(message: str) -> None:
    """Progress that nobody watches."""


def slots(line: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", line))


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_language_says_the_same_lines(name: str) -> None:
    english, phrases = LANGUAGES["English"], LANGUAGES[name]
    assert set(phrases) == set(english)
    for section, lines in english.items():
        assert len(phrases[section]) == len(lines), section
        assert len(set(phrases[section])) == len(lines), section
        for line, said in zip(lines, phrases[section], strict=True):
            assert slots(said) == slots(line), said
            assert said.startswith("!") == line.startswith("!"), said


def test_a_request_has_its_numbers_and_codes_in_every_language() -> None:
    for item in ITEMS:
        numbers = {name: sorted(re.findall(r"\d+", item.text(name))) for name in LANGUAGES}
        assert all(found == numbers["English"] for found in numbers.values()), item
        assert "{" not in item.text("Chinese") and "!" not in item.text("English")[:1]


def test_the_same_seed_asks_the_same_and_another_asks_otherwise() -> None:
    assert write_items(20, 3) == ITEMS[:20]
    assert write_items(20, 4) != ITEMS[:20]
    assert {item.task for item in ITEMS} == {query.task for query in map(as_synthetic, ITEMS)}


def computed(text: str) -> int | None:
    """The answer to an arithmetic problem, worked out from its English wording alone."""
    rules: list[tuple[str, Any]] = [
        (r"sells (\d+) .* and (\d+) in", lambda a, b: a + b),
        (r"has (\d+) .* buys (\d+) bags with (\d+)", lambda a, c, d: a + c * d),
        (r"at (\d+) km/h, and (\d+) hours", lambda b, c: b * c),
        (r"saves (\d+) .* for (\d+) years .* spends (\d+)", lambda a, c, d: 52 * a * c - d),
    ]
    for pattern, rule in rules:
        if found := re.search(pattern, text):
            return int(rule(*map(int, found.groups())))
    return None


def test_answers_are_right() -> None:
    seen = set()
    for item in ITEMS:
        english = item.text("English")
        answers = {name: item.answer(name) for name in LANGUAGES}
        answer = answers["English"]
        seen.add((item.task, item.core if item.task == "mathematics" else 0))
        if item.task in ("mathematics", "extraction", "translation"):
            assert set(answers.values()) == {answer}
        if item.task == "mathematics":
            assert answer == str(computed(english))
        elif item.task == "extraction":
            assert answer is not None
            assert all(answer in item.text(name) for name in LANGUAGES)
        elif item.task == "classification":
            message = item.index["message"]
            assert answer == ("complaint", "praise", "question")[message % 3]
            assert answers["German"] == ("Beschwerde", "Lob", "Frage")[message % 3]
            # A message that asks is a question, one that thanks or praises is praise.
            said = LANGUAGES["English"]["message"][message]
            assert said.endswith("?") == (answer == "question")
            assert said.endswith("!") == (answer == "praise")
        elif item.task == "translation":
            # What is asked for in a language is that language's own sentence.
            target = tuple(LANGUAGES)[item.index["tongue"]]
            assert target in english
            assert answer is not None
            assert answer in item.text(target)
        else:
            assert answer is None
    assert len(seen) == 9


def test_truth_is_of_the_request_and_outcomes_follow_it() -> None:
    world = make_world(spanish_share=0.0)
    items = write_items(4_000, 5)
    truth = Truth.of(world, [as_synthetic(item) for item in items], 5)
    assert np.allclose(truth.success.mean(axis=0), truth.p_success.mean(axis=0), atol=0.025)
    assert (truth.cost_usd > 0).all()
    by_price = np.argsort(truth.cost_usd.mean(axis=0))
    assert (np.diff(truth.p_success.mean(axis=0)[by_price]) > 0).all()
    worse = Truth.of(world, [as_synthetic(item, tiers_do_worse=True) for item in items], 5)
    cheapest = by_price[0]
    assert (worse.p_success <= truth.p_success + 1e-12).all()
    assert (worse.p_success[:, cheapest] < truth.p_success[:, cheapest]).all()
    hard = np.array([item.is_hard for item in items])
    assert truth.p_success[hard].mean() < truth.p_success[~hard].mean()


def test_a_training_table_is_in_the_languages_named_and_in_no_other() -> None:
    world = make_world(spanish_share=0.0)
    english = languages.training_table(world, ("English",), 200, 1)
    both = languages.training_table(world, ("English", "Chinese"), 200, 1)
    assert english.n_requests == both.n_requests == 200
    # Outcomes are of the request, whatever it is written in.
    np.testing.assert_array_equal(english.success, both.success)
    han = [bool(re.search("[\u4e00-\u9fff]", text)) for text in both.query]
    assert sum(han) == 50
    assert not any(re.search("[\u4e00-\u9fff]", text) for text in english.query)


@pytest.fixture(scope="module")
def measured() -> Section:
    real = {"made up": languages.training_table(make_world(), ("English",), 300, 9)}
    real["made up"].split[:60] = "test"
    return languages.measure(real, ["x is left out."], quiet, n_train=1_200, n_test=80, n_worlds=1)


def test_rows_hold_together(measured: Section) -> None:
    rows = measured.data["rows"]
    assert len(rows) == 2 * (len(LANGUAGES) + 1) + 1
    for row in rows:
        (world,) = row["worlds"]
        parts = world["by_similarity"], world["by_text"]
        assert max(parts) <= world["flagged"] <= sum(parts) + 1e-12
        assert len(world["auc"]) == 3
        for name in ("played", "worse"):
            played = world[name]
            assert 0 < played["floor"] < played["success"] + 0.2
            if world["flagged"] == 0.0:
                assert played["success"] == played["success_without"]
                assert played["cost_usd"] == played["cost_usd_without"]
            if world["flagged"] == 1.0:
                # All on the strongest tier, at its price.
                assert played["success"] == pytest.approx(played["floor"] + languages.MARGIN)
                assert played["cost_usd"] == pytest.approx(world["safe_tier_usd"])


def test_what_training_had_is_read_and_what_it_had_not_is_flagged(measured: Section) -> None:
    flagged = {
        (row["trained_on"], row["asked_in"]): row["worlds"][0]["flagged"]
        for row in measured.data["rows"]
    }
    assert flagged["English", "English"] < 0.05
    assert min(flagged["English", name] for name in LANGUAGES if name != "English") > 0.9
    assert flagged["English", MIXED] > 0.9
    assert max(flagged["all six", name] for name in LANGUAGES) < 0.05
    shares = measured.data["real"]["made up"]
    assert shares["made up, test rows"][0] < 0.1
    assert shares["Chinese"][0] > 0.9


def test_tables_show_every_row(measured: Section) -> None:
    reading, floor, worse, real, left_out = measured.tables
    assert len(reading.rows) == len(floor.rows) == 15
    assert len(worse.rows) == 13
    assert len(real.rows) == 1 + len(LANGUAGES) + 1
    assert "x is left out." in left_out.text()
    assert all("1 of 1" in row or "0 of 1" in row for row in floor.rows)
    json.dumps(run._finite(measured.data), allow_nan=False)


def test_flags_are_those_that_route_gives(measured: Section) -> None:
    router: Router = languages.trained(
        languages.training_table(make_world(spanish_share=0.0), ("English",), 300, 2),
        "ridge",
        0,
        quiet,
        "",
    )
    texts = [item.text(name) for item in ITEMS[:10] for name in (*LANGUAGES, MIXED)]
    near, written = languages.readings(router, texts)
    reasons = [router.route(text).reason == "out-of-distribution" for text in texts]
    assert reasons == (near | written).tolist()


def test_the_command_measures_languages_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], measured: Section
) -> None:
    asked: list[Any] = []

    def available(say: Any, names: Any) -> tuple[dict[str, Any], list[str]]:
        asked.append(names)
        return {}, ["paretobandit is left out."]

    monkeypatch.setattr(data, "available_sets", available)
    monkeypatch.setattr(languages, "measure", lambda real, left_out, say, seed: measured)
    run.main(["--only", "languages", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert asked == [None]
    assert set(found) == {"environment", "languages"}
    assert len(found["languages"]["rows"]) == 15


def test_an_item_is_told_in_english_what_follows_in_chinese() -> None:
    item: Item = ITEMS[0]
    assert item.text(MIXED) == f"Please answer in English: {item.text('Chinese')}"
