"""Costs that were unknown for want of a price are filled in once it is there, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router.ledger import Ledger
from router.ledger.report import report
from router.ledger.reprice import reprice
from router.prices import PriceBook
from router.tiers import Tier, TierSet
from router.usage import Usage
from tests.command_line import here
from tests.ledgers import attempt, decision, request

UNKNOWN = {"cost_nanousd": None, "uncached_nanousd": None, "standard_nanousd": None}
USAGE = Usage(1000, 100, cached_input_tokens=500)
PRICES = """
[[prices]]
provider = "own"
model = "small"
from = 2026-01-01
input_price_usd_per_mtok = 1.0
cached_input_price_usd_per_mtok = 0.1
output_price_usd_per_mtok = 10.0
batch_input_price_usd_per_mtok = 0.5
batch_cached_input_price_usd_per_mtok = 0.05
batch_output_price_usd_per_mtok = 5.0

[[prices]]
provider = "own"
model = "large"
from = 2026-01-01
input_price_usd_per_mtok = 100.0
output_price_usd_per_mtok = 1000.0
"""


@pytest.fixture
def book(tmp_path: Path) -> PriceBook:
    (tmp_path / "prices.toml").write_text(PRICES)
    return PriceBook(tmp_path / "prices.toml")


def fill(ledger: Ledger) -> None:
    own = {"provider": "own", "model": "small-2026-02-01"}
    no_baseline = {"baseline_tier": "large", "baseline_nanousd": None}
    plain = attempt(usage=USAGE, **own, **UNKNOWN)
    ledger.record(request("plain", **no_baseline), [plain])
    ledger.record(
        request("batch", **no_baseline), [attempt(usage=USAGE, batch=True, **own, **UNKNOWN)]
    )
    strongest = attempt(tier="large", provider="own", model="large", usage=Usage(10, 1), **UNKNOWN)
    ledger.record(request("strongest", **no_baseline), [strongest])
    ledger.record(request("recorded"), [attempt(usage=USAGE, **own, cost_nanousd=7)])
    ledger.record(request("no price"), [attempt(provider="nobody", **UNKNOWN)])
    ledger.record(request("no usage"), [attempt(usage=None, **own, **UNKNOWN)])
    ledger.record(request("cut", done=False, **no_baseline), [plain])


def test_what_is_unknown_is_filled_in_once(ledger_url: str, book: PriceBook) -> None:
    with Ledger(ledger_url) as ledger:
        fill(ledger)
        found = reprice(ledger, book)
        assert found.to_dict() == {
            "n_costs": 4,
            "n_baselines": 3,
            "n_no_usage": 1,
            "n_no_price": 1,
            "no_price": {"nobody/gpt-nano": 1},
        }
        entries = {entry.request.request_id: entry for entry in ledger.requests()}
        money = {
            name: (made.cost_nanousd, made.uncached_nanousd, made.standard_nanousd)
            for name, entry in entries.items()
            for made in entry.attempts
        }
        assert money["plain"] == money["cut"] == (1_550_000, 2_000_000, 2_000_000)
        assert money["batch"] == (775_000, 1_000_000, 2_000_000)
        assert money["strongest"] == (2_000_000, 2_000_000, 2_000_000)
        assert money["recorded"] == (7, 12_000, 20_000)
        assert money["no price"] == money["no usage"] == (None, None, None)
        kept = {name: entry.request for name, entry in entries.items()}
        assert kept["plain"].baseline_nanousd == 200_000_000
        assert (kept["strongest"].baseline_nanousd, kept["strongest"].baseline_measured) == (
            *(2_000_000, True),
        )
        assert kept["cut"].baseline_nanousd is None
        again = reprice(ledger, book)
        assert (again.n_costs, again.n_baselines) == (0, 0)
        assert report(ledger).savings.n_requests == 4


def test_the_decision_says_what_the_strongest_was_expected_to_cost(
    tmp_path: Path, book: PriceBook
) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        expected = decision(cost_usd={"nano": 0.001, "large": 0.005})
        unknown = request(decision=expected, baseline_tier="large", baseline_nanousd=None)
        made = attempt(provider="own", model="small", usage=Usage(1000, 100), **UNKNOWN)
        ledger.record(unknown, [made])
        assert reprice(ledger, book).n_baselines == 1
        (entry,) = ledger.requests()
    assert entry.request.baseline_nanousd == 5 * 2_000_000


def test_the_tiers_file_goes_first_for_what_it_is_about(tmp_path: Path, book: PriceBook) -> None:
    prices = {"input_price_usd_per_mtok": 5.0, "output_price_usd_per_mtok": 50.0}
    tiers = TierSet(
        [
            Tier("nano", "own", "small", **prices),  # type: ignore[arg-type]
            Tier("mid", "own", "another", **prices),  # type: ignore[arg-type]
        ]
    )
    with Ledger(tmp_path / "ledger.db") as ledger:
        for tier in ("nano", "mid"):
            made = attempt(
                tier=tier, provider="own", model="small", usage=Usage(1000, 0), **UNKNOWN
            )
            ledger.record(request(tier), [made])
        reprice(ledger, book, tiers)
        costs = {e.request.request_id: e.attempts[0].cost_nanousd for e in ledger.requests()}
    # The tier "mid" was another model when that attempt was made.
    assert costs == {"nano": 5_000_000, "mid": 1_000_000}


def test_many_are_filled_in_piece_by_piece(
    tmp_path: Path, book: PriceBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.ledger.reprice._CHUNK", 3)
    with Ledger(tmp_path / "ledger.db") as ledger:
        made = attempt(provider="own", model="small", **UNKNOWN)
        large = attempt(2, "large", provider="own", model="large", served=False, **UNKNOWN)
        for number in range(10):
            record = request(f"r{number}", baseline_tier="large", baseline_nanousd=None)
            ledger.record(record, [made, large])
        found = reprice(ledger, book)
        assert (found.n_costs, found.n_baselines) == (20, 10)
        assert report(ledger).covered == 1.0


def test_the_command(
    tmp_path: Path,
    book: PriceBook,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger("ledger.db") as ledger:
        fill(ledger)
    done = here(monkeypatch, capsys, "ledger", "reprice", "--prices", "prices.toml")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "4 attempts got a cost, 3 requests a baseline",
        "1 attempts have no price yet: nobody/gpt-nano",
        "1 attempts stay unknown: nobody said what they used",
    ]
    done = here(monkeypatch, capsys, "ledger", "reprice", "ledger.db", "--json")
    assert json.loads(done.out)["n_costs"] == 0
    done = here(monkeypatch, capsys, "ledger", "reprice", "--prices", "missing.toml")
    assert done.code == 2 and "missing.toml" in done.err
