from __future__ import annotations

import inspect
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import KeywordRouter
from router.errors import InputError
from router.keyword import HIGH_TERMS, LOW_TERMS


def words(n: int, *terms: str) -> str:
    """A query of exactly ``n`` words that holds the terms and nothing else of either list."""
    used = sum(len(term.split()) for term in terms)
    return " ".join([*terms, *["zzz"] * (n - used)])


@pytest.mark.parametrize(
    ("query", "tier"),
    [
        # two high terms, whatever else
        ("analyze and compare", "frontier"),
        ("ANALYZE And Compare", "frontier"),
        ("classify, extract, analyze, debug", "frontier"),
        (words(300, "design", "optimize"), "frontier"),
        # one high term: only in a long query
        (words(201, "debug"), "frontier"),
        (words(200, "debug"), "mid"),
        ("debug this", "mid"),
        (words(300), "mid"),
        # low terms: only in a short query
        ("translate this", "nano"),
        (words(49, "extract"), "nano"),
        (words(50, "extract"), "mid"),
        ("translate and debug", "nano"),
        (words(201, "extract", "debug"), "frontier"),
        # a term counts once however often it occurs
        ("debug debug debug", "mid"),
        # substrings count: "information" holds "format", "designer" holds "design"
        ("any information?", "nano"),
        ("the designer compares", "frontier"),
        # terms of several words
        ("explain why and reason", "frontier"),
        ("explain the reason why", "mid"),
        ("summarize briefly", "nano"),
        ("summarize", "mid"),
        ("", "mid"),
    ],
)
def test_the_rule(query: str, tier: str) -> None:
    assert KeywordRouter().route(query).tier == tier


def test_the_lists_are_those_users_have_today() -> None:
    high = "analyze compare debug refactor architect design optimize explain_why trade-off reason"
    low = "classify extract format convert translate summarize_briefly yes_or_no list_the parse"
    assert [t.replace(" ", "_") for t in HIGH_TERMS] == high.split()
    assert [t.replace(" ", "_") for t in LOW_TERMS] == low.split()


@given(st.text(max_size=300))
def test_any_text_has_a_tier(query: str) -> None:
    assert KeywordRouter().route(query).tier in ("nano", "mid", "frontier")


def test_lists_thresholds_and_names_can_be_set() -> None:
    router = KeywordRouter(
        high=["Prove"],
        low=["hola", "HOLA", ""],
        tiers=("small", "medium", "large"),
        models={"large": "model-l"},
        min_high=1,
        min_low=1,
        short_words=3,
    )
    assert router.route("please PROVE it").tier == "large"
    assert router.route("please prove it").model == "model-l"
    assert router.route("Hola amigo").tier == "small"
    assert router.route("hola amigo mio").tier == "medium"
    assert router.route("analyze and compare").tier == "medium"


def test_a_repeated_term_of_a_list_counts_once() -> None:
    assert KeywordRouter(high=["proof", "Proof"]).route("proof").tier == "mid"


@pytest.mark.parametrize("n_tiers", range(1, 10))
def test_any_number_of_tiers(n_tiers: int) -> None:
    names = [f"t{i}" for i in range(n_tiers)]
    router = KeywordRouter.for_tiers(names)
    assert router.route("translate").tier == names[0]
    assert router.route("analyze and compare").tier == names[-1]
    middle = names.index(router.route("good morning").tier)
    # As many tiers below as above it, one more below where their number is even.
    assert middle - (n_tiers - 1 - middle) == (n_tiers + 1) % 2


def test_the_decision_says_that_it_expects_nothing() -> None:
    decision = KeywordRouter().route("translate", request_id="r1")
    data = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert data["tier"] == data["model"] == "nano"
    assert data["p_success"] == data["cost_usd"] == {"nano": None, "mid": None, "frontier": None}
    assert (data["propensity"], data["reason"], data["request_id"]) == (1.0, "policy", "r1")
    assert (data["artifact_id"], data["certified"]) == ("keyword", False)


def test_many_are_the_same_as_one_by_one() -> None:
    router, queries = KeywordRouter(), ["translate", "hello", "debug and compare"]
    assert router.route_many(queries) == [router.route(query) for query in queries]
    assert [d.request_id for d in router.route_many(queries, ["a", None, "c"])] == ["a", None, "c"]
    assert router.route_many([]) == []
    with pytest.raises(InputError, match="one request id per query"):
        router.route_many(queries, ["a"])


def test_a_learned_router_takes_the_same_calls() -> None:
    from router import Router

    for name in ("route", "route_many"):
        learned = inspect.signature(getattr(Router, name)).parameters
        for parameter in inspect.signature(getattr(KeywordRouter, name)).parameters.values():
            same = learned[parameter.name]
            assert (same.kind, same.default) == (parameter.kind, parameter.default)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(InputError, match="three tier names"):
        KeywordRouter(tiers=("small", "large"))
    with pytest.raises(InputError, match="put it in a list"):
        KeywordRouter(high="analyze")
    with pytest.raises(InputError, match="at least one tier name"):
        KeywordRouter.for_tiers([])
    with pytest.raises(InputError, match="query as text, got NoneType"):
        KeywordRouter().route(None)  # type: ignore[arg-type]
