"""Difficulty: what the outcomes of many models on a query have in common."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from training.difficulty import difficulty

FloatArray = npt.NDArray[np.float64]
NAN = np.nan


def test_by_hand() -> None:
    success = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, NAN], [NAN, NAN]])
    observed = np.isfinite(success)
    hard, known = difficulty(success, observed, None)
    # The first model's mean is a third, the second's 1.
    np.testing.assert_allclose(hard, [1 / 3, -1 / 6, -1 / 3, 0.0])
    assert known.tolist() == [True, True, True, False]
    others = np.array([[NAN], [1.0], [NAN], [0.0]])
    hard, known = difficulty(success, observed, others)
    np.testing.assert_allclose(hard, [1 / 3, (-1 / 3 + 0 + 1 / 2) / 3, -1 / 3, -1 / 2])
    assert known.all()


def test_what_is_not_observed_does_not_count() -> None:
    success = np.array([[1.0, 0.7], [0.0, 0.1]])
    observed = np.array([[True, False], [True, False]])
    hard, known = difficulty(success, observed, None)
    np.testing.assert_allclose(hard, [0.5, -0.5])
    assert known.all()


def test_nobody_asked() -> None:
    hard, known = difficulty(np.full((3, 2), NAN), np.zeros((3, 2), dtype=bool), None)
    assert hard.tolist() == [0.0] * 3
    assert not known.any()


def test_models_asked_on_other_requests_are_comparable() -> None:
    """A strong model on one half, a weak one on the other: neither half is the harder."""
    rng = np.random.default_rng(0)
    success = np.full((2000, 2), NAN)
    success[:1000, 0] = rng.random(1000) < 0.9
    success[1000:, 1] = rng.random(1000) < 0.3
    hard, _ = difficulty(success, np.isfinite(success), None)
    assert abs(hard[:1000].mean()) < 1e-12 and abs(hard[1000:].mean()) < 1e-12


@given(st.integers(0, 2**32 - 1))
def test_it_matters_not_which_models_are_tiers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = np.where(rng.random((20, 6)) < 0.6, (rng.random((20, 6)) < 0.5) * 1.0, NAN)
    whole, known = difficulty(cells, np.isfinite(cells), None)
    for n_tiers in range(7):
        tiers, others = cells[:, :n_tiers], cells[:, n_tiers:]
        hard, seen = difficulty(tiers, np.isfinite(tiers), others)
        np.testing.assert_allclose(hard, whole, atol=1e-12)
        np.testing.assert_array_equal(seen, known)
    assert (np.abs(whole) <= 1.0).all()
