"""Does looking after every row cry wolf? And is a drift of six points found?

Worlds of numbers, where what training expected is exactly right, or off by exactly the tolerance:
over 2,000 rows, looked at after each, the share of logs on which *any* stream says "drift" is held
to the stated level. A test that is valid at one look only must be found out by the same check.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from training.confidence_sequence import RatioRows
from training.drift import judge_drift
from training.drift_streams import Rows, Stream, find_streams

pytestmark = pytest.mark.slow

FloatArray = npt.NDArray[np.float64]

NAMES = ("nano", "mid", "frontier")
N_LOGS = 200
N_ROWS = 2000
TOLERANCE, CONFIDENCE = 0.02, 0.90
SLACK_QUANTILE = 0.999


def check_level(wrong: int, n: int, level: float) -> None:
    most = int(binom.ppf(SLACK_QUANTILE, n, level))
    assert wrong <= most, f"wrong on {wrong} of {n} logs; at {level:.3g} at most {most}"


def draw(
    rng: np.random.Generator,
    n: int,
    *,
    success_shift: tuple[float, ...] = (0.0, 0.0, 0.0),
    cost_factor: float = 1.0,
    share_shift: float = 0.0,
    unlike: float = 0.01,
    full: bool = False,
) -> Rows:
    """Recent or calibration rows: true probabilities are the predicted ones plus a shift."""
    p = np.clip(
        np.array([0.6, 0.75, 0.9]) + 0.3 * (rng.random((n, 1)) - 0.5) * np.array([1, 0.8, 0.5]),
        0.1,
        0.98,
    )
    cost = np.array([1e-4, 1e-3, 1e-2]) * np.exp(np.clip(rng.standard_normal((n, 1)), -2, 2))
    shares = np.array([0.2, 0.5 + share_shift, 0.3 - share_shift])
    tier = rng.choice(3, n, p=shares)
    success = (rng.random((n, 3)) < p + np.array(success_shift)).astype(float)
    noise = np.clip(0.5 * rng.standard_normal((n, 3)), -1, 1)
    realised = cost_factor * cost * np.exp(noise) / np.exp(0.5 * 0.5**2 - 0.01)
    if not full:
        served = np.arange(3) == rng.integers(0, 3, n)[:, None]
        success, realised = np.where(served, success, np.nan), np.where(served, realised, np.nan)
    return Rows(p, cost, np.eye(3)[tier], rng.random(n) < unlike, success, realised, np.full(n, -1))


def streams(training: Rows, recent: Rows) -> list[Stream]:
    return find_streams(NAMES, training, recent, tolerance=TOLERANCE, confidence=CONFIDENCE)


def alarms(seed: int, n_logs: int = N_LOGS, m: int = 1000, n: int = N_ROWS, **drift: object) -> int:
    found = 0
    for i in range(n_logs):
        rng = np.random.default_rng([seed, i])
        training = draw(rng, m, full=True)
        recent = draw(rng, n, **drift)  # type: ignore[arg-type]
        found += any(stream.status == "drift" for stream in streams(training, recent))
    return found


@pytest.mark.parametrize(
    ("seed", "drift"),
    [
        (1, {}),
        (2, {"full": True}),
        # exactly at the tolerance, in many streams at once
        (3, {"success_shift": (-0.02, 0.02, -0.02), "share_shift": 0.02, "unlike": 0.03}),
        (4, {"success_shift": (-0.02, -0.02, 0.02), "cost_factor": 1.1, "full": True}),
    ],
)
def test_without_drift_no_stream_cries_wolf(seed: int, drift: dict[str, object]) -> None:
    check_level(alarms(seed, **drift), N_LOGS, 1 - CONFIDENCE)


def test_few_calibration_rows_are_no_drift() -> None:
    # What 60 rows say of a share is off by six points one time in three.
    check_level(alarms(5, m=60), N_LOGS, 1 - CONFIDENCE)


@pytest.mark.parametrize("mean", [0.02, 0.5, 0.9])
def test_one_sequence_keeps_its_level_at_the_edge(mean: float) -> None:
    wrong = np.zeros(2, dtype=int)
    for i in range(1000):
        y = (np.random.default_rng([6, i]).random(N_ROWS) < mean).astype(float)
        rows = RatioRows.mean(y)
        wrong += rows.exceeds(mean, 0.1) is not None, rows.falls_below(mean, 0.1) is not None
    for count in wrong:
        check_level(int(count), 1000, 0.1)


def test_looking_again_with_a_test_for_one_look_is_found_out() -> None:
    z = NormalDist().inv_cdf(0.9)
    wrong = 0
    for i in range(N_LOGS):
        y = (np.random.default_rng([7, i]).random(N_ROWS) < 0.5).astype(float)
        n = np.arange(1, N_ROWS + 1)
        wrong += bool(((np.cumsum(y) / n - 0.5 > z * 0.5 / np.sqrt(n))[50:]).any())
    with pytest.raises(AssertionError, match="wrong on"):
        check_level(wrong, N_LOGS, 0.1)


@pytest.mark.parametrize(
    ("seed", "n", "drift", "least", "verdict"),
    [
        # Four points beyond the tolerance take some 2,000 outcomes of the tier; ten some 500.
        (11, 6000, {"success_shift": (0, -0.06, 0), "full": True}, 0.9, "recalibrate"),
        (12, 2000, {"success_shift": (0, -0.12, 0), "full": True}, 0.9, "recalibrate"),
        (13, 2000, {"cost_factor": 1.5, "full": True}, 0.95, "recalibrate"),
        (14, 2000, {"share_shift": 0.15}, 0.9, "retrain"),
        (15, 2000, {"unlike": 0.10}, 0.95, "retrain"),
    ],
)
def test_a_drift_is_found(
    seed: int, n: int, drift: dict[str, object], least: float, verdict: str
) -> None:
    found = 0
    for i in range(40):
        rng = np.random.default_rng([seed, i])
        training = draw(rng, 1000, full=True)
        recent = draw(rng, n, **drift)  # type: ignore[arg-type]
        found += judge_drift(streams(training, recent), n, TOLERANCE)[0] == verdict
    assert found >= least * 40
