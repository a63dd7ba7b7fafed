"""Does the floor keep its promise where a log is full of copies of the same texts?

Each text is logged several times and succeeds on a tier always or never, so that its copies say
nothing new. The real ``prepare`` makes the calibration rows. Two equal tiers just miss the floor,
whatever is routed where: to certify anything is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from router.certificate import Floor
from router.selection import CalibrationRows, certify
from router.tiers import Tier, TierSet
from training import prepare as preparation
from training.prepare import prepare
from training.table import OutcomeTable

pytestmark = pytest.mark.slow

N_DATA_SETS, N_TEXTS, RATE, CONFIDENCE = 300, 150, 0.8, 0.9
TIERS = TierSet([Tier("a", "p", "m-a"), Tier("b", "p", "m-b")])
# A promise that is kept is found broken by bad luck in one check of a thousand.
MOST = int(binom.ppf(0.999, N_DATA_SETS, 1 - CONFIDENCE))


@dataclass(frozen=True)
class Constant:
    """An embedder to which all texts are alike: what is certified here is not what it reads."""

    id: str = "constant"
    digest: str = hashlib.sha256(b"constant").hexdigest()
    dimension: int = 1

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.ones((len(texts), 1), np.float32)


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "embed_queries", lambda embedder, texts: embedder.embed(texts))


def n_wrong() -> int:
    """On how many of the data sets a floor is certified that no policy meets."""
    wrong = 0
    for seed in range(N_DATA_SETS):
        rng = np.random.default_rng(seed)
        text = np.repeat(np.arange(N_TEXTS), rng.geometric(0.25, N_TEXTS))
        success = (rng.random((N_TEXTS, 2)) < RATE).astype(float)[text]
        cost = np.tile([0.001, 0.002], (len(text), 1))
        queries = [f"text {i} of set {seed}" for i in text]
        table = OutcomeTable.from_arrays(TIERS, queries, success, cost, split=["train"] * len(text))
        rows = prepare(table, Constant(), 0, lambda message: None)
        n = rows.held.n_requests
        calibration = CalibrationRows(
            rng.uniform(0.1, 0.9, (n, 2)),
            rows.held.cost_usd,
            rows.held.success,
            rows.held.cost_usd,
            np.zeros(n, dtype=bool),
        )
        _, certificate = certify(
            calibration,
            Floor(rate=RATE + 1e-9),
            tier_success=np.array([RATE - 0.01, RATE]),
            tier_cost_usd=np.array([0.001, 0.002]),
            names=TIERS.names,
            safe_tier=1,
            strongest=1,
            confidence=CONFIDENCE,
        )
        wrong += certificate.certified
    return wrong


def test_copies_of_a_text_buy_no_confidence() -> None:
    assert n_wrong() <= MOST


def test_a_certificate_that_counts_copies_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def every_row(rows: OutcomeTable, hashes: object) -> tuple[OutcomeTable, object]:
        return rows, np.arange(rows.n_requests)

    monkeypatch.setattr(preparation, "one_per_text", every_row)
    assert n_wrong() > MOST
