from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.calculator.arrivals import hit_rate, hit_rate_of_gaps, hit_rate_of_share
from router.errors import InputError

N_REQUESTS = 200_000


def slowly(gaps: np.ndarray, ttl_s: float, refreshed: bool) -> float:
    """The cache as a provider keeps it, one request at a time."""
    now, warm_until, hits = 0.0, ttl_s, 0
    for gap in gaps.tolist():
        now += gap
        hit = now <= warm_until
        hits += hit
        if refreshed or not hit:
            warm_until = now + ttl_s
    return hits / len(gaps)


@pytest.mark.parametrize("refreshed", [True, False])
@pytest.mark.parametrize("per_ttl", [0.05, 0.5, 1.0, 3.0])
def test_the_closed_form_is_what_independent_arrivals_find(refreshed: bool, per_ttl: float) -> None:
    rng = np.random.default_rng(7)
    gaps = rng.exponential(300 / per_ttl, N_REQUESTS)
    expected = hit_rate(per_ttl / 300, 300, refreshed_by_hits=refreshed)
    assert slowly(gaps, 300, refreshed) == pytest.approx(expected, abs=0.006)
    assert hit_rate_of_gaps(gaps, 300, refreshed_by_hits=refreshed) == pytest.approx(
        expected, abs=0.006
    )


@pytest.mark.parametrize("refreshed", [True, False])
def test_bursts_hit_more_often_than_independent_arrivals(refreshed: bool) -> None:
    rng = np.random.default_rng(8)
    # The same mean gap of 600 s; the gamma's shape below 1 bunches arrivals, above 1 spaces them.
    rates = [
        hit_rate_of_gaps(rng.gamma(shape, 600 / shape, 50_000), 300, refreshed_by_hits=refreshed)
        for shape in (0.25, 1.0, 4.0)
    ]
    assert rates[0] > rates[1] + 0.1 > rates[2] + 0.1
    assert rates[1] == pytest.approx(hit_rate(1 / 600, 300, refreshed_by_hits=refreshed), abs=0.01)


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=60),
    st.integers(0, 900),
    st.booleans(),
)
def test_gaps_are_counted_as_one_request_after_another_would(
    gaps: list[int], ttl_s: int, refreshed: bool
) -> None:
    found = hit_rate_of_gaps(gaps, ttl_s, refreshed_by_hits=refreshed)
    assert found == pytest.approx(slowly(np.array(gaps), ttl_s, refreshed))


@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_a_hit_rate_is_a_share_and_refreshing_never_hurts(rate: float, ttl_s: float) -> None:
    refreshed = hit_rate(rate, ttl_s)
    renewed = hit_rate(rate, ttl_s, refreshed_by_hits=False)
    assert 0 <= renewed <= refreshed + 1e-15 <= 1 + 1e-15
    assert refreshed <= hit_rate(rate, min(ttl_s * 2, 1e300))
    # Half the traffic finds it warm less often.
    assert hit_rate(rate / 2, ttl_s) <= refreshed


def test_the_ends() -> None:
    assert hit_rate(0, 300) == hit_rate(1, 0) == hit_rate(0, 0) == 0
    assert hit_rate(1e300, 1e300, refreshed_by_hits=False) == 1
    assert hit_rate(1 / 300, 300) == pytest.approx(1 - math.exp(-1))
    assert hit_rate(1 / 300, 300, refreshed_by_hits=False) == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_what_is_no_rate_is_named(bad: float) -> None:
    with pytest.raises(InputError, match="expected arrivals_per_s to be a finite number"):
        hit_rate(bad, 300)
    with pytest.raises(InputError, match="expected ttl_s to be a finite number"):
        hit_rate(1, bad)
    with pytest.raises(InputError, match="expected at least one gap in seconds"):
        hit_rate_of_gaps([1.0, bad], 300)
    with pytest.raises(InputError, match="expected ttl_s to be a finite number"):
        hit_rate_of_gaps([1.0], bad)
    with pytest.raises(InputError, match="expected at least one gap"):
        hit_rate_of_gaps([], 300)


@pytest.mark.parametrize("refreshed", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("expected", [0.01, 1.0, 5.0])
def test_the_hit_rate_of_a_share_is_that_of_its_arrivals(
    expected: float, share: float, refreshed: bool
) -> None:
    whole = hit_rate(expected / 300, 300, refreshed_by_hits=refreshed)
    assert hit_rate_of_share(whole, share, refreshed_by_hits=refreshed) == pytest.approx(
        hit_rate(share * expected / 300, 300, refreshed_by_hits=refreshed)
    )


def test_what_always_hits_always_hits() -> None:
    assert hit_rate_of_share(1.0, 0.2) == hit_rate_of_share(1.0, 0.2, refreshed_by_hits=False) == 1
    assert hit_rate_of_share(0.0, 0.2) == 0.0
