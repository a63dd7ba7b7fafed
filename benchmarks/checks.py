"""Correct before timed: the bare floor, and what a router's answers must agree with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_safetensors
from tokenizers import Tokenizer

from router.decision import Decision
from router.routing import Router

FloatArray = npt.NDArray[np.float64]
Floor = Callable[[str], npt.NDArray[np.float32]]


def bare_floor(files: Mapping[str, bytes]) -> Floor:
    """The least that any router over these vectors must do: tokenize, mean of the table's rows.

    ``files`` are those of the static embedder's folder by name. Its own tokenizer and table, so
    that nothing is shared with what it is compared to.
    """
    tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    (stored,) = load_safetensors(files["model.safetensors"]).values()
    table = np.ascontiguousarray(stored, dtype=np.float32)

    def floor(text: str) -> npt.NDArray[np.float32]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        mean: npt.NDArray[np.float32] = table[ids].mean(axis=0)
        return mean

    return floor


def check_route(router: Router, queries: Sequence[str]) -> list[Decision]:
    """One by one and batched agree with the predictions and the policy, and are JSON."""
    predicted = router.predict(queries)
    dist = router.action_dist(predicted)
    single = [router.route(query) for query in queries]
    many = router.route_many(queries)
    for row, (one, batched) in enumerate(zip(single, many, strict=True)):
        tier = router.tiers.index(one.tier)
        assert one.tier == batched.tier and one.reason == batched.reason
        assert dist[row, tier] > 0 and np.isclose(one.propensity, dist[row, tier])
        for decision in (one, batched):
            assert _close(decision.p_success, predicted.p_success[row])
            assert _close(decision.cost_usd, predicted.cost_usd[row])
        json.dumps(one.to_dict(), allow_nan=False)
    return single


def check_floor(floor: Floor, router: Router, queries: Sequence[str]) -> None:
    """The floor's mean has the direction of the router's own vector."""
    for query in queries:
        mean = floor(query).astype(np.float64)
        vector = router.predictor.embedder.embed_one(query).astype(np.float64)
        length = float(np.linalg.norm(mean))
        assert length == 0.0 or np.allclose(mean / length, vector, atol=1e-5)


def check_same(results: Sequence[object], decisions: Sequence[Decision]) -> None:
    """What was timed are the decisions that were checked; numbers may differ by rounding."""
    assert len(results) == len(decisions)
    for result, decision in zip(results, decisions, strict=True):
        assert isinstance(result, Decision)
        assert (result.tier, result.reason) == (decision.tier, decision.reason)
        expected = [np.nan if p is None else p for p in decision.p_success.values()]
        assert _close(result.p_success, np.array(expected))


def _close(values: Mapping[str, float | None], row: FloatArray) -> bool:
    found = [np.nan if value is None else value for value in values.values()]
    return bool(np.allclose(found, row, rtol=1e-4, atol=1e-9))
