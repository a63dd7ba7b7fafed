"""Exploration: a router that tries other tiers now and then, so that its log can be learned from.

Shapes: ``n`` requests, ``T`` tiers, ``K`` scenarios. Whatever is drawn is drawn from a distribution
that is known exactly beforehand (``Explorer.action_dist``), so that the propensity in a decision is
no estimate. Only tiers that *keep the floor on the query* are tried::

    served_i = sum_a policy(a | x_i) p_ia
    keeps_it = p_it >= max(served_i - margin, min(served_i, absolute floor if there is one))

So no tier is tried that is predicted to succeed more than ``margin`` less often than what the
policy does there, nor one predicted to fall below an absolute floor, unless it is predicted no
worse than the policy itself. Exploring a share epsilon therefore loses at most epsilon x margin of
*predicted* success. What becomes of the certificate is tested on outcomes: ``certify_explored``.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from numbers import Integral, Real
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from router.certificate import Floor, is_binary
from router.errors import InputError
from router.policy import SAME_RATE, Policy, choose
from router.selection import (
    MIX_CHAIN_SHARE,
    ROUTER_CHAIN_SHARE,
    CalibrationRows,
    Certificate,
    mix_chain,
    router_chain,
)

__all__ = ["Exploration", "Explorer", "certify_explored", "drawn"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

Kind = Literal["epsilon", "thompson"]

# Success points that a tier may lack where no relative floor says how many.
_MARGIN = 0.05
# Scenarios of the Thompson kind: its part of a propensity is a multiple of a hundredth.
_SCENARIOS = 100
# Requests whose scenarios are worked out at a time.
_CHUNK = 1024
# A fitted value of a linear smoother with d effective parameters has on average the variance of
# the mean of n/d outcomes. Taken here: d = 30, and 1.5 fitting rows to a calibration row.
_ROWS_PER_OUTCOME = 20.0
_LEAST_STRENGTH = 5.0


@dataclass(frozen=True, slots=True)
class Exploration:
    """How a router explores; give it to ``Router.exploring``.

    Attributes:
        epsilon: The share of requests, from 0 to 1, whose tier is drawn evenly from those that
            keep the floor on the query.
        kind: What the other requests do. "epsilon": what the policy says. "thompson": the tier that
            would be chosen if the success of every tier were as in one of 100 fixed scenarios,
            each as likely. In a scenario P(success) is p + z sqrt(p (1 - p) / (strength + 1)), cut
            to 0..1: a normal with the mean and the variance of Beta(strength p, strength (1 - p)),
            z from an even grid of normal quantiles, in another order for every tier. The artifact
            holds no posterior; this is one assumed. A policy that does not choose by estimates
            (one tier, a mix) keeps its choice.
        margin: How much less likely to succeed than what the policy does a tier may be predicted,
            from 0 to 1, and still be tried. By default the margin of a relative floor, else 0.05.
        strength: For "thompson", how many outcomes of just such queries a prediction is worth. By
            default a twentieth of the tier's outcomes among the calibration rows, at least 5.
        seed: Another seed, other requests that explore. The distribution is the same.

    >>> Exploration(epsilon=0.1, seed=7).kind
    'epsilon'
    """

    epsilon: float = 0.05
    kind: Kind = "epsilon"
    margin: float | None = None
    strength: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not _is_share(self.epsilon):
            raise InputError(
                f"expected epsilon to be a share of requests from 0 to 1, got {self.epsilon!r}: "
                "give the share that explores, for example 0.05."
            )
        if self.kind not in get_args(Kind):
            raise InputError(
                f"expected exploration of the kind {' or '.join(get_args(Kind))}, got "
                f"{self.kind!r}: name one of them."
            )
        if self.margin is not None and not _is_share(self.margin):
            raise InputError(
                f"expected a margin of success from 0 to 1, got {self.margin!r}: give how much "
                "less likely to succeed a tier may be, for example 0.05."
            )
        strength = self.strength
        if strength is not None and not (_is_number(strength) and 0 < strength < float("inf")):
            raise InputError(
                f"expected a strength above 0, got {strength!r}: give how many outcomes a "
                "prediction is worth, for example 30."
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral):
            raise InputError(
                f"expected a whole number as seed, got {self.seed!r}: give one, for example 0."
            )

    @property
    def explores(self) -> bool:
        """False where this is no exploration at all."""
        return self.kind != "epsilon" or self.epsilon > 0

    def suffix(self) -> str:
        """Eight digits that stand for these settings in the id of a router."""
        # Of what is equal the same: 1 and 1.0, True numbers of numpy and plain ones.
        margin = None if self.margin is None else float(self.margin)
        strength = None if self.strength is None else float(self.strength)
        plain = (float(self.epsilon), self.kind, margin, strength, int(self.seed))
        return hashlib.sha256(repr(plain).encode()).hexdigest()[:8]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return asdict(self)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return _is_number(value) and bool(0 <= value <= 1)


@dataclass(frozen=True, slots=True)
class Explorer:
    """The settings bound to a policy and its floor. Immutable, safe to share between threads.

    ``margin`` and ``floor_rate`` say which tiers keep the floor; ``spread`` (K, T) holds, for the
    Thompson kind, z / sqrt(strength + 1) of every scenario and tier.
    """

    epsilon: float
    policy: Policy
    margin: float
    floor_rate: float | None
    spread: FloatArray | None

    @classmethod
    def of(
        cls,
        exploration: Exploration,
        policy: Policy,
        certificate: Certificate | None,
        n_outcomes: npt.ArrayLike,
    ) -> Explorer:
        """For a policy with its floor; ``n_outcomes`` (T,) counts the calibration outcomes."""
        margin, rate = exploration.margin, None if certificate is None else certificate.rate
        if margin is None:
            relative = certificate is not None and certificate.relative_to is not None
            margin = abs(certificate.margin) if certificate and relative else _MARGIN
        spread = None
        if exploration.kind == "thompson":
            counts = np.asarray(n_outcomes, dtype=float)
            strength = np.maximum(counts / _ROWS_PER_OUTCOME, _LEAST_STRENGTH)
            if exploration.strength is not None:
                strength = np.full(len(counts), float(exploration.strength))
            spread = _quantiles(len(counts)) / np.sqrt(strength + 1.0)
        return cls(float(exploration.epsilon), policy, float(margin), rate, spread)

    def keeping_floor(
        self, p_success: FloatArray, base: FloatArray, allowed: BoolArray | None = None
    ) -> BoolArray:
        """The tiers (n, T) that may be tried; ``base`` (n, T) is what the policy does."""
        served = (base * p_success).sum(axis=1, keepdims=True)
        bar = served - self.margin
        if self.floor_rate is not None:
            bar = np.maximum(bar, np.minimum(served, self.floor_rate))
        # A sum that is off by rounding leaves no request without a tier.
        keeping: BoolArray = p_success >= bar - SAME_RATE
        return keeping if allowed is None else keeping & allowed

    def action_dist(
        self,
        p_success: FloatArray,
        cost_usd: FloatArray,
        base: FloatArray,
        explorable: BoolArray,
        allowed: BoolArray | None = None,
    ) -> FloatArray:
        """Probability of every tier (n, T) where ``explorable`` (n,) requests explore.

        The others keep ``base`` (n, T), the distribution of the policy.
        """
        keeping = self.keeping_floor(p_success, base, allowed)
        even = keeping / keeping.sum(axis=1, keepdims=True)
        rest = base
        # Here a tier is chosen by estimates, and so their uncertainty matters.
        if self.spread is not None and self.policy.kind == "value":
            rest = self._sampled(p_success, cost_usd, keeping)
        mixed = (1.0 - self.epsilon) * rest + self.epsilon * even
        return np.where(explorable[:, None], mixed, base)

    def around(
        self, tier: int, p_success: FloatArray, allowed: BoolArray | None = None
    ) -> FloatArray:
        """Distribution (T,) of one request whose tier is settled: epsilon evenly, the rest on it.

        ``p_success`` and ``allowed`` are (1, T). Also where the kind is "thompson": what settled
        the tier was not its estimates alone.
        """
        base = np.eye(p_success.shape[1])[[tier]]
        keeping = self.keeping_floor(p_success, base, allowed)
        even = keeping / keeping.sum(axis=1, keepdims=True)
        out: FloatArray = ((1.0 - self.epsilon) * base + self.epsilon * even)[0]
        return out

    def _sampled(self, p: FloatArray, cost: FloatArray, keeping: BoolArray) -> FloatArray:
        """In which share of the scenarios every tier is chosen, (n, T)."""
        assert self.spread is not None
        n_tiers = p.shape[1]
        shares = keeping.astype(float)
        # Where one tier alone keeps the floor, every scenario chooses it.
        several = np.flatnonzero(keeping.sum(axis=1) > 1)
        for start in range(0, len(several), _CHUNK):
            rows = several[start : start + _CHUNK]
            deviation = np.sqrt(p[rows] * (1.0 - p[rows]))[:, None]
            as_drawn = np.clip(p[rows][:, None] + self.spread * deviation, 0.0, 1.0)
            each = choose(
                as_drawn.reshape(-1, n_tiers),
                np.repeat(cost[rows], _SCENARIOS, axis=0),
                self.policy.success_value_usd,
                np.repeat(keeping[rows], _SCENARIOS, axis=0),
            ).reshape(-1, _SCENARIOS)
            shares[rows] = (each[:, :, None] == np.arange(n_tiers)).mean(axis=1)
        return shares


def drawn(dist: FloatArray, coin: float) -> int:
    """The tier that a coin in [0, 1] picks from one distribution (T,): never one of probability 0.

    >>> [drawn(np.array([0.0, 0.25, 0.75, 0.0]), coin) for coin in (0.0, 0.25, 1.0)]
    [1, 2, 2]
    """
    last = int(np.flatnonzero(dist)[-1])
    return min(int(np.searchsorted(dist.cumsum(), coin, side="right")), last)


def certify_explored(
    exploration: Exploration,
    policy: Policy,
    certificate: Certificate,
    rows: CalibrationRows,
    *,
    tier_success: FloatArray,
    tier_cost_usd: FloatArray,
) -> Certificate:
    """Is the floor still certified if the policy explores? The same test, exploration included.

    Candidates are those of ``certify``, each with this exploration: they are fixed before any
    outcome is looked at, and are tested in the same order at the same levels. The floor is
    certified if all up to the policy pass. Needs every tier's outcome of every row, or what stands
    for it where a log has one tier's.

    Relative floors, and mixes, are bet on the expected success of every row, as without
    exploration. For the others the binomial test stays: every row draws its tier by a fixed coin of
    its own, and what it draws succeeds exactly as often as the policy that explores.
    """
    value = policy.kind == "value"
    share = ROUTER_CHAIN_SHARE if value else MIX_CHAIN_SHARE
    delta = (1.0 - certificate.confidence) * share
    chain = router_chain(policy.safe_tier, policy.strongest)
    if not value:
        chain = mix_chain(tier_cost_usd, tier_success, policy.safe_tier, policy.strongest)
    floor = Floor(certificate.rate, certificate.margin, certificate.relative_to)
    known = np.isfinite(rows.success)
    coins = None
    if floor.relative_to is None and is_binary(rows.success):
        coins = _coins(len(rows))
    dist = _tested_dist(exploration, policy, certificate, rows)
    success = np.einsum("ij,ij->i", dist, rows.success)
    cost = np.einsum("ij,ij->i", dist, rows.realised_cost_usd)
    passed = certificate.certified and bool(known.all()) and _policy_in(chain, policy)
    before: FloatArray | None = None
    for candidate in chain if passed else ():
        dist = _tested_dist(exploration, candidate, certificate, rows)
        played = np.einsum("ij,ij->i", dist, rows.success)
        flipped = coins is not None and candidate.kind != "mix"
        if flipped:
            tiers = np.minimum((dist.cumsum(axis=1) <= coins).sum(axis=1), dist.shape[1] - 1)
            played = rows.success[np.arange(len(rows)), tiers]
        # Neighbours on the grid mostly do the same on these rows.
        if before is None or not np.array_equal(played, before):
            if not rows.passes(floor, played, delta, randomised=not flipped):
                passed = False
                break
            before = played
        if _same(candidate, policy):
            break
    level = f"at {100 * certificate.confidence:g}% confidence on {len(rows):,} calibration rows"
    if passed:
        sentence = f"{certificate.floor} is certified {level}, exploration included."
    elif certificate.certified:
        sentence = (
            f"{certificate.floor} is certified {level} without exploration, but not with it: "
            "explore less, with a smaller margin, or do without the promise."
        )
    else:
        sentence = certificate.sentence
    return replace(
        certificate,
        certified=passed,
        success_rate=float(success.mean()) if len(rows) else 0.0,
        cost_usd_per_request=float(cost.mean()) if len(rows) else 0.0,
        sentence=sentence,
    )


def _policy_in(chain: list[Policy], policy: Policy) -> bool:
    """Is the policy one of the candidates?"""
    return any(_same(candidate, policy) for candidate in chain)


def _same(candidate: Policy, policy: Policy) -> bool:
    if policy.kind == "value":
        return candidate.success_value_usd == policy.success_value_usd
    mine, other = ((p.kind, p.low, p.high, p.share_high) for p in (candidate, policy))
    return mine == other


def _tested_dist(
    exploration: Exploration, policy: Policy, certificate: Certificate, rows: CalibrationRows
) -> FloatArray:
    """(n, T): what the policy does on the calibration rows where it explores."""
    explorer = Explorer.of(exploration, policy, certificate, rows.n_outcomes)
    base = policy.action_dist(rows.p_success, rows.cost_usd, rows.out_of_distribution, rows.tried)
    return explorer.action_dist(
        rows.p_success, rows.cost_usd, base, ~rows.out_of_distribution, rows.tried
    )


def _coins(n: int) -> FloatArray:
    """(n, 1) numbers in [0, 1), as good as drawn evenly, the same every time."""
    digests = b"".join(hashlib.sha256(f"row {i}".encode()).digest()[:4] for i in range(n))
    return np.frombuffer(digests, dtype=">u4")[:, None] / 2.0**32


@lru_cache(maxsize=8)
def _quantiles(n_tiers: int) -> FloatArray:
    """(K, T): every column the same K normal quantiles, in an order of its own, fixed for ever."""
    normal = NormalDist()
    values = np.array([normal.inv_cdf((k + 0.5) / _SCENARIOS) for k in range(_SCENARIOS)])
    columns = []
    for tier in range(n_tiers):
        keys = [hashlib.sha256(f"{tier} {k}".encode()).digest() for k in range(_SCENARIOS)]
        columns.append(values[sorted(range(_SCENARIOS), key=keys.__getitem__)])
    quantiles = np.stack(columns, axis=1)
    quantiles.setflags(write=False)
    return quantiles
