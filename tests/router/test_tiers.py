from __future__ import annotations

import json
from pathlib import Path

import pytest

from router.errors import TiersError
from router.tiers import BATCH_PRICE_KEYS, PRICE_KEYS, Tier, TierSet

FULL = """
[[tiers]]
name = "nano"
provider = "openai"
model = "gpt-5-nano"
aliases = ["gpt-5-nano-2025-08-07"]
input_price_usd_per_mtok = 1
cached_input_price_usd_per_mtok = 0.1
cache_write_price_usd_per_mtok = 1.25
output_price_usd_per_mtok = 4.0
context_window_tokens = 400000
features = ["tools", "images"]

[[tiers]]
name = "the big one"
provider = "anthropic"
model = "claude-sonnet-4-6"
"""


OWN = {"input_price_usd_per_mtok": 1.0, "output_price_usd_per_mtok": 4.0}
BATCH = {f"batch_{key}": price / 2 for key, price in OWN.items()}


def write(folder: Path, text: str) -> Path:
    path = folder / "tiers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def one_tier(**changes: object) -> list[dict[str, object]]:
    return [{"name": "nano", "provider": "openai", "model": "gpt-5-nano"} | changes]


def test_reads_every_key(tmp_path: Path) -> None:
    tiers = TierSet.from_toml(write(tmp_path, FULL))
    assert tiers.names == ("nano", "the big one")
    assert tiers[0] == Tier(
        name="nano",
        provider="openai",
        model="gpt-5-nano",
        aliases=("gpt-5-nano-2025-08-07",),
        input_price_usd_per_mtok=1.0,
        cached_input_price_usd_per_mtok=0.1,
        cache_write_price_usd_per_mtok=1.25,
        output_price_usd_per_mtok=4.0,
        context_window_tokens=400_000,
        features=frozenset({"images", "tools"}),
    )
    assert tiers[1] == Tier("the big one", "anthropic", "claude-sonnet-4-6")
    assert [tier.has_price for tier in tiers] == [True, False]


def test_file_order_is_kept_and_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    names = ["z", "a", "m"]
    text = "".join(f'[[tiers]]\nname="{n}"\nprovider="p"\nmodel="model-{n}"\n' for n in names)
    path = tmp_path / "tiers.toml"
    path.write_text(text, encoding="utf-8-sig")
    assert TierSet.from_toml(path).names == ("z", "a", "m")


def test_round_trip_through_a_manifest(tmp_path: Path) -> None:
    tiers = TierSet.from_toml(write(tmp_path, FULL))
    again = TierSet.from_dicts(json.loads(json.dumps(tiers.to_dicts())))
    assert again == tiers
    assert hash(again) == hash(tiers)
    assert tiers.to_dicts()[1] == {
        "name": "the big one",
        "provider": "anthropic",
        "model": "claude-sonnet-4-6",
    }


def test_find_goes_by_exact_name_model_or_alias(tmp_path: Path) -> None:
    tiers = TierSet.from_toml(write(tmp_path, FULL))
    assert tiers.find("nano", None) == 0
    assert tiers.find(None, "gpt-5-nano") == 0
    assert tiers.find(None, "gpt-5-nano-2025-08-07") == 0
    assert tiers.find("the big one", "a model of another name") == 1
    assert tiers.find("a tier of another file", "claude-sonnet-4-6") == 1
    for nothing in [(None, "gpt-5-nano-2025"), (None, "GPT-5-nano"), ("Nano", None), (None, None)]:
        assert tiers.find(*nothing) is None


def test_is_a_sequence() -> None:
    tiers = TierSet([Tier("a", "p", "m1"), Tier("b", "p", "m2"), Tier("c", "p", "m3")])
    assert len(tiers) == 3
    assert [tier.name for tier in tiers] == ["a", "b", "c"]
    assert [tier.name for tier in tiers[1:]] == ["b", "c"]
    assert tiers[-1] is tiers[2]
    assert tiers.index("b") == tiers.index(tiers[1]) == 1
    assert tiers != TierSet(tiers[::-1])


def test_index_of_an_unknown_name_hints_at_the_nearest() -> None:
    tiers = TierSet([Tier("nano", "p", "m1"), Tier("frontier", "p", "m2")])
    with pytest.raises(TiersError, match=r"'fronteir' \(did you mean 'frontier'\?\).*nano, fron"):
        tiers.index("fronteir")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modle": "x"}, r"tier 1 \('nano'\): unknown key 'modle' \(did you mean 'model'\?\)"),
        ({"input_price": 1.0}, "unknown key 'input_price' .*input_price_usd_per_mtok"),
        ({"model": None}, "the key 'model' is missing"),
        ({"model": 5}, "model must be text .* got 5"),
        ({"name": " nano"}, "name must be text without spaces at its ends"),
        ({"provider": ""}, "provider must be text"),
        ({"aliases": "gpt"}, "aliases must be a list of texts, got 'gpt'"),
        ({"features": [1]}, "features must be text"),
        ({"context_window_tokens": 0}, "context_window_tokens must be a whole number above 0"),
        ({"context_window_tokens": 1e5}, "context_window_tokens must be a whole number"),
        ({"context_window_tokens": True}, "context_window_tokens must be a whole number"),
        (
            {"input_price_usd_per_mtok": "1"},
            "input_price_usd_per_mtok must be a finite price .* '1'",
        ),
        ({"input_price_usd_per_mtok": True}, "input_price_usd_per_mtok must be a finite price"),
        ({"output_price_usd_per_mtok": -0.5}, "output_price_usd_per_mtok .* got -0.5"),
        ({"output_price_usd_per_mtok": 10**400}, "output_price_usd_per_mtok .* got 1000.*0: corr"),
        ({"name": "na\x1b[31mno"}, r"name must be text that can be printed, got 'na\\x1b\[31mno'"),
        ({"model": "a\nb"}, r"model must be text that can be printed, got 'a\\nb'"),
        ({"features": ["\u202e"]}, r"features must be text that can be printed, got '\\u202e'"),
        ({"output_price_usd_per_mtok": float("nan")}, "output_price_usd_per_mtok .* finite"),
        ({"input_price_usd_per_mtok": 1.0}, "needs both .* got only input_price_usd_per_mtok"),
        ({"output_price_usd_per_mtok": 1.0}, "needs both .* got only output_price_usd_per_mtok"),
        ({"cached_input_price_usd_per_mtok": 1.0}, "needs both .* got only cached_input"),
        ({"cache_write_1h_price_usd_per_mtok": 1.0}, "needs both .* got only cache_write_1h"),
        ({"batch_input_price_usd_per_mtok": 1.0}, "needs both .* got only batch_input"),
        ({"batch_output_price_usd_per_mtok": -1.0}, "batch_output_price_usd_per_mtok .* got -1.0"),
        ({"cache_write_1h_price_usd_per_mtok": True}, "cache_write_1h_price_usd_per_mtok .* True"),
        (
            {**OWN, "batch_input_price_usd_per_mtok": 1.0},
            "need the same keys .* and output_price_usd_per_mtok stands alone: add its other",
        ),
        (
            {**OWN, **BATCH, "cached_input_price_usd_per_mtok": 0.1},
            "need the same keys .* and cached_input_price_usd_per_mtok stands alone",
        ),
        (
            {**OWN, **BATCH, "batch_cache_write_1h_price_usd_per_mtok": 0.1},
            "need the same keys .* and batch_cache_write_1h_price_usd_per_mtok stands alone",
        ),
    ],
)
def test_a_bad_key_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TiersError, match=message) as caught:
        TierSet.from_dicts(one_tier(**changes), source="tiers.toml")
    said = str(caught.value)
    assert said.isprintable()
    assert said.count("tiers.toml") == said.count("tier 1") == 1


@pytest.mark.parametrize(
    ("tiers", "message"),
    [
        ([], "at least one tier"),
        ([Tier("a", "p", "m"), Tier("a", "p", "n")], "tier name 'a' occurs twice"),
        ([Tier("a", "p", "m"), Tier("b", "q", "m")], "'m' belongs to the tiers 'a' and 'b'"),
        ([Tier("a", "p", "m"), Tier("b", "q", "n", ("m",))], "'m' belongs to the tiers"),
        ([Tier("a", "p", "m"), Tier("b", "q", "a")], "'a' belongs to the tiers"),
    ],
)
def test_a_log_name_leads_to_one_tier(tiers: list[Tier], message: str) -> None:
    with pytest.raises(TiersError, match=message):
        TierSet(tiers)


def test_a_tier_may_be_called_like_its_model() -> None:
    assert TierSet([Tier("gpt-5", "openai", "gpt-5", aliases=("gpt-5",))]).find("gpt-5", None) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[tiers]\n", "expected TOML, got an error"),
        ("", r"expected \[\[tiers\]\] tables"),
        ("[tiers]\nname = 'x'", r"expected \[\[tiers\]\] tables"),
        ("tiers = [1]", "expected a table, got int"),
        ("[[tier]]\nname = 'x'", r"unknown key 'tier' \(did you mean 'tiers'\?\)"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TiersError, match=message) as caught:
        TierSet.from_toml(write(tmp_path, text))
    assert "tiers.toml" in str(caught.value)


def test_missing_or_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(TiersError, match="found none: write one"):
        TierSet.from_toml(tmp_path / "nowhere.toml")
    with pytest.raises(TiersError, match="cannot read the tiers file"):
        TierSet.from_toml(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9t\xe9\n")
    with pytest.raises(TiersError, match="expected TOML"):
        TierSet.from_toml(tmp_path / "latin.toml")


def test_every_price_survives_a_round_trip() -> None:
    prices: dict[str, object] = dict.fromkeys((*PRICE_KEYS, *BATCH_PRICE_KEYS), 0.25)
    tiers = TierSet.from_dicts(one_tier(**prices))
    assert tiers.to_dicts() == one_tier(**prices)
    assert TierSet.from_dicts(tiers.to_dicts()) == tiers
    assert len(prices) == 10


def test_an_incomplete_override_is_refused_in_code_too() -> None:
    with pytest.raises(TiersError, match="needs both"):
        Tier("a", "p", "m", input_price_usd_per_mtok=1.0)
