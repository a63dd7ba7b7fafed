from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.command_line import Done, apart, here

VOLUME = ("--requests-per-day", 1_000, "--user-tokens", 500, "--output-tokens", 300)
TIERS = ("--tier", "gpt-5-nano=0.6", "--tier", "gpt-5=0.4")


@pytest.fixture
def savings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    return partial(here, monkeypatch, capsys, "savings")


def test_json_is_one_object_with_every_line(savings: Callable[..., Done]) -> None:
    done = savings(
        *VOLUME, "--system-tokens", 2_000, "--baseline", "gpt-5", *TIERS, "--batch-share", 0.5,
        "--json",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert [line["name"] for line in found["lines"]] == [
        *("today", "caching", "routing", "caching+routing", "batch", "everything"),
    ]
    today = found["lines"][0]
    assert today["usd_per_day"] == pytest.approx(1_000 * (2_500 * 1.25 + 300 * 10) / 1e6)
    assert today["usd_per_month"] == pytest.approx(today["usd_per_day"] * 30)
    assert today["saved_usd_per_month"] == 0
    for line in found["lines"]:
        assert line["includes"]
        assert line["usd_per_month"] + line["saved_usd_per_month"] == pytest.approx(
            today["usd_per_month"]
        )
        assert line["usd_per_day"] == pytest.approx(
            line["input_usd_per_day"] + line["output_usd_per_day"]
        )
    routed = found["lines"][3]["models"]
    assert [model["model"] for model in routed] == ["openai/gpt-5-nano", "openai/gpt-5"]
    assert [model["share"] for model in routed] == [0.6, 0.4]
    assert found["workload"]["batch_share"] == 0.5
    assert found["prices"].startswith("prices of genai-prices ")
    assert any("evaluate measures it" in note for note in found["notes"])


def test_without_a_baseline_the_dearest_tier_is_the_model_of_today(
    savings: Callable[..., Done],
) -> None:
    done = savings(*VOLUME, *TIERS, "--json")
    models = json.loads(done.out)["lines"][0]["models"]
    assert [model["model"] for model in models] == ["openai/gpt-5"]


def test_own_prices_have_one_to_four_parts(savings: Callable[..., Done]) -> None:
    own = ("--baseline", "mine", "--hit-rate", 0.5, "--system-tokens", 1_000, "--json")
    volume = ("--requests-per-day", 1_000, "--user-tokens", 0, "--output-tokens", 1_000)
    expected = {
        "mine=2/10": (1, 0.5 * 2 + 0.5 * 2),
        "mine=2/10/0.2": (1, 0.5 * 0.2 + 0.5 * 2),
        "mine=2/10/0.2/2.5": (1, 0.5 * 0.2 + 0.5 * 2.5),
    }
    for price, (mtok, usd_per_mtok) in expected.items():
        done = savings(*volume, *own, "--price", price)
        found = json.loads(done.out)
        assert found["prices"] == "prices as given"
        caching = found["lines"][1]
        assert caching["input_usd_per_day"] == pytest.approx(mtok * usd_per_mtok)
        assert caching["models"][0]["model"] == "own/mine"


def test_an_hour_is_written_at_the_price_that_was_given(savings: Callable[..., Done]) -> None:
    words = (*VOLUME, "--system-tokens", 5_000, "--hit-rate", 0.0, "--ttl", "1h")
    model = ("--baseline", "claude-haiku-4-5", "--price")
    done = savings(*words, *model, "claude-haiku-4-5=1/5/0.1/2", "--json")
    assert json.loads(done.out)["lines"][1]["cache_write_usd_per_day"] == pytest.approx(10.0)
    done = savings(*words, *model, "claude-haiku-4-5=1/5/0.1", "--json")
    assert done.code == 2 and "for an hour, got none: use --ttl 5m, or give the price" in done.err


def test_a_price_file_names_providers_too(savings: Callable[..., Done], tmp_path: Path) -> None:
    entry = '[[prices]]\nprovider="{}"\nmodel="mine"\nfrom=2026-01-01\n'
    entry += "input_price_usd_per_mtok=1\noutput_price_usd_per_mtok=1\n"
    path = tmp_path / "prices.toml"
    path.write_text(entry.format("house"), "utf-8")
    done = savings(*VOLUME, "--baseline", "mine", "--prices", path, "--json")
    assert json.loads(done.out)["lines"][0]["usd_per_day"] == pytest.approx(0.8)
    path.write_text(entry.format("house") + entry.format("garden"), "utf-8")
    done = savings(*VOLUME, "--baseline", "mine", "--prices", path)
    assert done.code == 2 and "price file has of garden, house: write PROVIDER/mine" in done.err
    done = savings(*VOLUME, "--baseline", "garden/mine", "--prices", path)
    assert done.code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected --baseline MODEL, the model of today, or --tier MODEL=SHARE, got neither"),
        (("--tier", "gpt-5-nano=0.6", "--tier", "gpt-5=0.3"), "to sum to 1, got 0.9: correct"),
        (("--tier", "gpt-5-nano"), "expected --tier MODEL=SHARE, such as gpt-5-nano=0.6, got 'gpt"),
        (("--tier", "gpt-5-nano=most"), "the share of openai/gpt-5-nano as a number, got 'most'"),
        (("--tier", "gpt-5-nano=nan"), "the share of openai/gpt-5-nano as a number, got 'nan'"),
        (("--tier", "gpt-5=.5", "--tier", "openai/gpt-5=.5"), "got openai/gpt-5 twice: add up"),
        (("--baseline", "gpt-5-nanoo"), "for the model 'gpt-5-nanoo' (nearest: gpt-5-nano"),
        (("--baseline", "gemini-3.1-pro"), "(nearest: gemini-3.1-pro-preview"),
        (("--baseline", "opnai/gpt-5"), "no provider 'opnai' (nearest: openai"),
        (("--baseline", ""), "expected a model as a name such as gpt-5-nano, got ''"),
        (("--baseline", "\x1b[31mred"), r"a model as a name such as gpt-5-nano, got '\x1b[31mred'"),
        (("--baseline", "gpt-5", "--price", "gpt-5"), "expected --price MODEL=IN/OUT"),
        (("--baseline", "gpt-5", "--price", "gpt-5=1"), "as IN/OUT[/CACHED[/WRITE]] in USD"),
        (("--baseline", "gpt-5", "--price", "gpt-5=1/2/3/4/5"), "got '1/2/3/4/5': write it as"),
        (("--baseline", "gpt-5", "--price", "gpt-5=1/x"), "each price of openai/gpt-5 as a number"),
        (("--baseline", "gpt-5", "--price", "gpt-5=-1/2"), "of openai/gpt-5 from 0 to a billion"),
        (("--baseline", "gpt-5", "--price", "gpt-5=1/inf"), "from 0 to a billion, got inf"),
        (
            ("--baseline", "gpt-5", "--price", "gpt-4=1/2"),
            "in --baseline or --tier, got openai/gpt",
        ),
        (
            ("--baseline", "gpt-5", *("--price", "gpt-5=1/2") * 2),
            "one --price of openai/gpt-5, got",
        ),
        (("--baseline", "gpt-5", "--prices", "gone.toml"), "a price file at gone.toml, found none"),
        (("--baseline", "gpt-5", "--ttl", "2h"), "a time to live of 5m or 1h, got '2h': choose"),
        (("--baseline", "gpt-5", "--hit-rate", 95), "expected hit rate from 0 to 1, got 95.0"),
        (("--baseline", "gpt-5", "--batch-share", -0.1), "expected batch share from 0 to 1"),
        (("--baseline", "deepseek-v4-flash", "--batch-share", 1), "no batch price is known for"),
        (("--baseline", "gpt-5", "--system-tokens", -3), "expected system tokens from 0 to"),
        (("--baseline", "gpt-5", "--days-per-month", "nan"), "expected days per month from 0 to"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    savings: Callable[..., Done], words: tuple[object, ...], message: str
) -> None:
    done = savings(*VOLUME, *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.startswith("cps-router: ") and done.err.count("\n") == 1
    assert done.err.rstrip("\n").isprintable() and len(done.err) < 500


def test_huge_numbers_are_answered_or_refused(savings: Callable[..., Done]) -> None:
    words = ("--baseline", "gpt-5", "--output-tokens", 10**9, "--system-tokens", 10**9)
    done = savings("--requests-per-day", 1e12, *words)
    assert done.code == 0 and "$" in done.out and "inf" not in done.out
    for number in ("1e400", "1e300", "-1e300"):
        done = savings("--requests-per-day", number, *words)
        assert done.code == 2 and "expected requests per day from 0 to" in done.err
    done = savings("--requests-per-day", 1, "--baseline", "gpt-5", "--output-tokens", "9" * 5000)
    assert done.code == 2 and done.out == ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(["--baseline", "--tier", "--price", "--ttl"]),
    st.text(max_size=40) | st.text(st.sampled_from("gpt-5=/.0e\x1b\n é"), max_size=40),
)
@example("--tier", "=" * 40)
@example("--tier", "/=1")
@example("--price", "/=1/1")
@example("--baseline", "a" * 40 + "\ud800")
def test_hostile_text_is_one_printable_line(
    savings: Callable[..., Done], option: str, text: str
) -> None:
    done = savings(*VOLUME, "--baseline=gpt-5", f"{option}={text}")
    assert done.code in (0, 2)
    if done.code:
        assert done.err.rstrip("\n").isprintable() and done.err.count("\n") == 1


def test_it_teaches_and_loads_nothing_for_it() -> None:
    done = apart("savings", "--help")
    assert done.code == 0
    assert "--tier gpt-5-nano=0.6 --tier claude-sonnet-4-6=0.4" in done.out
    for option in ("--hit-rate", "--ttl", "--batch-share", "--price", "--prices", "--json"):
        assert option in done.out


def test_a_hit_rate_of_all_the_traffic_is_thinned_by_routing(savings: Callable[..., Done]) -> None:
    volume = ("--requests-per-day", 1000, "--system-tokens", 5000, "--output-tokens", 100)
    shares = ("--tier", "gpt-5=0.3", "--tier", "gpt-5-nano=0.7")
    found = json.loads(savings(*volume, *shares, "--hit-rate", 0.9, "--json").out)
    lines = {
        line["name"]: [model["hit_rate"] for model in line["models"]] for line in found["lines"]
    }
    assert lines["caching"] == [pytest.approx(0.9)]
    assert lines["caching+routing"] == [
        pytest.approx(1 - (1 - 0.9) ** share) for share in (0.3, 0.7)
    ]
    said = "Mind: the hit rate of 90.0% is that of the whole traffic"
    assert said in savings(*volume, *shares, "--hit-rate", 0.9).out
    assert said not in savings(*volume, "--baseline", "gpt-5", "--hit-rate", 0.9).out
    assert said not in savings(*volume, *shares, "--hit-rate", 1).out


def test_a_price_without_its_write_is_noted_where_writing_costs_more(
    savings: Callable[..., Done],
) -> None:
    volume = ("--requests-per-day", 1000, "--system-tokens", 5000, "--output-tokens", 100)
    for price, noted in (("3/15/0.3", True), ("3/15/0.3/3.75", False)):
        asked = ("--baseline", "claude-sonnet-4-6", "--price", f"claude-sonnet-4-6={price}")
        words = "the --price of anthropic/claude-sonnet-4-6 has no WRITE"
        assert (words in savings(*volume, *asked).out) == noted
        notes = json.loads(savings(*volume, *asked, "--json").out)["notes"]
        assert any("charges 1.25 times that" in note for note in notes) == noted
    done = savings(*volume, "--baseline", "gpt-5-nano", "--price", "gpt-5-nano=1/2/0.1")
    assert "has no WRITE" not in done.out
