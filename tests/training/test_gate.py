"""The gate's two tests on terms whose means are known, and what it says when it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from router.certificate import betting_lower, rows_needed
from router.errors import InputError
from training.doubly_robust import PairedTerms
from training.gate import GateResult, Side, decide, gate_text

FloatArray = npt.NDArray[np.float64]
VALUE_USD = 0.1


def terms(loss: FloatArray, success: FloatArray, **changes: Any) -> PairedTerms:
    made = PairedTerms(loss, success, 1.0, 1.0, 0.0, 0.0, float(len(loss)), VALUE_USD)
    return replace(made, **changes)


def coin(n: int, up: float, down: float, seed: int = 0) -> FloatArray:
    """+1, -1 and 0 with these probabilities."""
    return np.random.default_rng(seed).choice([1.0, -1.0, 0.0], n, p=[up, down, 1 - up - down])


def test_cheaper_at_equal_success_is_promoted() -> None:
    found = decide(terms(np.full(2000, -0.01), np.zeros(2000)))
    assert found.promoted
    assert found.success is not None
    assert found.loss is not None
    assert (found.success.mean, found.loss.mean) == (0.0, -0.01)
    assert -0.01 <= found.success.bound < 0.0
    assert -0.01 < found.loss.bound < 0.0
    assert (found.reasons, found.rows_needed, found.never) == ((), None, False)
    assert found.sentence.startswith("PROMOTED: its success rate differs by +0, at least -0.00")
    assert "$10 per 1,000 requests lower" in found.sentence


@pytest.mark.parametrize(
    ("loss", "success", "said"),
    [
        (-0.5, -0.5, "its success rate differs by -0.5, and may be as low as"),
        (0.5, 0.5, "its cost less the value of its successes is $500 per 1,000 requests higher"),
    ],
)
def test_either_test_can_refuse_and_no_number_of_rows_would_help(
    loss: float, success: float, said: str
) -> None:
    found = decide(terms(np.full(500, loss), np.full(500, success)))
    assert not found.promoted
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith(said)
    assert "it would not pass at any number of rows" in found.sentence
    assert (found.never, found.rows_needed) == (True, None)


def test_too_few_rows_are_refused_with_the_number_that_would_do() -> None:
    """The number is tried out: about four of five samples of that size pass."""

    def sample(n: int, seed: int) -> PairedTerms:
        return terms(-0.1 * coin(n, 0.35, 0.15, seed), coin(n, 0.1, 0.08, seed + 1))

    found = decide(sample(150, 0), margin=0.05)
    assert not found.promoted
    assert found.rows_needed is not None
    assert f"{found.rows_needed:,} in all, would pass with 80 % power" in found.sentence
    truth = terms(-0.1 * coin(100_000, 0.35, 0.15), coin(100_000, 0.1, 0.08, 1))
    # By the truth rather than by the 150: each test alone.
    for values, least, limit in ((truth.success, -0.05, 1.0), (-truth.loss_usd, 0.0, 1.0)):
        start = 1 / 4
        n = rows_needed((values + limit) / 2, (least + limit) / 2, 0.05, binary=False, start=start)
        assert n is not None
        passed = 0
        for seed in range(100):
            x = np.random.default_rng(seed).choice(values, n)
            passed += betting_lower(x, -limit, limit, 0.05) > least
        assert 65 <= passed <= 95


def test_a_margin_of_zero_asks_for_no_loss_at_all() -> None:
    better = terms(np.full(3000, -0.01), coin(3000, 0.2, 0.1))
    assert decide(better, margin=0.0).promoted
    assert not decide(terms(np.full(3000, -0.01), np.zeros(3000)), margin=0.0).promoted


def test_identical_routers_are_refused() -> None:
    found = decide(terms(np.zeros(100), np.zeros(100)), identical=True)
    assert not found.promoted
    assert found.sentence == (
        "REFUSED: it routes every one of these requests as the champion does."
    )
    # Even where nothing can differ, so that there is no range.
    nothing = terms(np.zeros(100), np.zeros(100), loss_bound_usd=0.0)
    assert not decide(nothing, identical=True).promoted
    assert not decide(nothing).promoted


def test_a_request_dearer_than_the_range_voids_the_bound_and_a_cheaper_one_does_not() -> None:
    loss = np.full(2000, -0.01)
    loss[7] = 1.5
    found = decide(terms(loss, np.zeros(2000)))
    assert not found.promoted
    assert found.loss is not None
    assert math.isinf(found.loss.bound)
    assert "the range fixed beforehand, which voids the bound" in found.sentence
    assert (found.rows_needed, found.never) == (None, False)
    loss[7] = -100.0
    assert decide(terms(loss, np.zeros(2000))).promoted


def test_what_the_log_cannot_tell_is_taken_off_both_bounds() -> None:
    plain = terms(np.full(2000, -0.1), np.full(2000, 0.05))
    slack = replace(plain, loss_slack_usd=0.02, success_slack=0.02)
    before, after = decide(plain), decide(slack)
    assert before.success is not None and after.success is not None
    assert before.loss is not None and after.loss is not None
    assert after.success.bound == pytest.approx(before.success.bound - 0.02)
    assert after.loss.bound == pytest.approx(before.loss.bound + 0.02)
    # As much as is there to be gained: no number of rows makes up for it.
    lost = decide(replace(plain, loss_slack_usd=0.1))
    assert not lost.promoted
    assert lost.never
    assert "the log cannot tell it better" in lost.sentence


def test_the_order_of_the_rows_is_shuffled_by_the_seed_alone() -> None:
    loss = np.concatenate((np.full(400, 0.3), np.full(1600, -0.3)))
    found = [decide(terms(loss, np.zeros(2000)), seed=seed).to_dict() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -0.01}, "expected a margin from 0 to below 1, got -0.01"),
        ({"margin": 1.0}, "expected a margin from 0 to below 1"),
        ({"margin": math.nan}, "expected a margin"),
        ({"confidence": 0.5}, "expected a confidence above 0.5 and below 1, got 0.5"),
        ({"confidence": 1.0}, "expected a confidence above 0.5"),
        ({"confidence": math.nan}, "expected a confidence"),
    ],
)
def test_levels_that_make_no_test_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decide(terms(np.zeros(10), np.zeros(10)), **options)  # type: ignore[arg-type]


def test_the_result_is_json_and_text_without_infinity() -> None:
    loss = np.full(50, 3.0)
    sides = (Side("challenger", "ab", 0.0, 0.5), Side("champion", "cd", 0.5, 0.5))
    found = decide(terms(loss, np.zeros(50)), sides=sides, counts={"n_rows": 60, "n_train": 10})
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["promoted"] is False
    assert told["loss_difference_usd"]["bound"] is None
    assert [side["cps_usd"] for side in told["routers"]] == [None, 1.0]
    text = gate_text(found)
    assert "inf" in text
    assert text.endswith(found.sentence)
    assert isinstance(found, GateResult)
