"""All policies on the same requests: means, paired bootstrap intervals, savings, mix ratio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.cps import cost_per_success
from training import metrics
from training.results import Estimate, PolicyResult, Saving

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Played:
    """A policy's expected outcomes on every request, (n,), and its share of every tier, (T,)."""

    cost_usd: FloatArray
    success: FloatArray
    share: FloatArray

    @classmethod
    def of(cls, action_dist: FloatArray, cost_usd: FloatArray, success: FloatArray) -> Played:
        """Play a distribution on requests of known outcome, all (n, T)."""
        return cls(
            metrics.expected_outcome(action_dist, cost_usd),
            metrics.expected_outcome(action_dist, success),
            action_dist.mean(axis=0),
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Policies compared; ``replicates`` holds each one's resampled (mean cost, success rate)."""

    policies: dict[str, PolicyResult]
    mix_ratio: metrics.MixRatio
    mix_ratio_interval: metrics.Interval | None
    replicates: dict[str, tuple[FloatArray, FloatArray]]
    confidence: float

    def saving(self, baseline: str) -> Saving:
        """The router against another policy of this comparison, with paired intervals."""
        ours, theirs = self.policies["router"], self.policies[baseline]
        (our_cost, our_rate), (cost, rate) = self.replicates["router"], self.replicates[baseline]
        our_mean, mean = ours.cost_usd_per_request.value, theirs.cost_usd_per_request.value
        share = None
        if mean > 0:
            drawn = metrics.saved_share(our_cost, cost)
            share = self._estimate(metrics.saved_share(our_mean, mean), drawn)
        return Saving(
            baseline=baseline,
            saved_share=share,
            saved_usd_per_request=self._estimate(mean - our_mean, cost - our_cost),
            success_rate_difference=self._estimate(
                ours.success_rate.value - theirs.success_rate.value, our_rate - rate
            ),
        )

    def _estimate(self, value: float, replicates: FloatArray) -> Estimate:
        return Estimate(value, metrics.percentile_interval(replicates, self.confidence))


def compare(
    names: tuple[str, ...],
    cost_usd: FloatArray,
    success: FloatArray,
    played: Mapping[str, Played],
    *,
    confidence: float,
    n_bootstrap: int,
    seed: int,
    on_progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Compare the policies in ``played`` ("router" among them) with single tiers and their mix.

    ``cost_usd`` and ``success`` are (n, T), tiers in the order of ``names``. The result's policies
    are, in this order: router, always-<tier> for every tier, random-mix (the cheapest coin-flip
    between single tiers at the router's success rate), then the others of ``played``.
    """
    n_requests, n_tiers = cost_usd.shape
    router = played["router"]
    ratio = metrics.mix_ratio(router.cost_usd, router.success, cost_usd, success)
    columns = [column for p in played.values() for column in (p.cost_usd, p.success)]
    drawn = metrics.bootstrap_means(
        np.column_stack([cost_usd, success, *columns]), n_bootstrap, seed, on_progress
    )
    tier_drawn = drawn[:, :n_tiers], drawn[:, n_tiers : 2 * n_tiers]
    own = {
        name: (drawn[:, 2 * n_tiers + 2 * i], drawn[:, 2 * n_tiers + 2 * i + 1])
        for i, name in enumerate(played)
    }
    ratios, mix_drawn = resampled_mixes(own["router"], tier_drawn)
    replicates: dict[str, tuple[FloatArray, FloatArray]] = {}
    policies: dict[str, PolicyResult] = {}

    def interval(values: FloatArray) -> metrics.Interval | None:
        return metrics.percentile_interval(values, confidence)

    def add(
        policy: str,
        mean: float,
        rate: float,
        share: FloatArray,
        pair: tuple[FloatArray, FloatArray],
    ) -> None:
        replicates[policy] = pair
        policies[policy] = PolicyResult(
            success_rate=Estimate(rate, interval(pair[1])),
            cost_usd_per_request=Estimate(mean, interval(pair[0])),
            total_cost_usd=mean * n_requests,
            cps_usd=Estimate(cost_per_success(mean, rate), interval(cost_per_success(*pair))),
            share=dict(zip(names, share.tolist(), strict=True)),
        )

    def add_played(policy: str) -> None:
        p = played[policy]
        mean, rate = metrics.mean_cost(p.cost_usd), metrics.success_rate(p.success)
        add(policy, mean, rate, p.share, own[policy])

    add_played("router")
    means, rates = metrics.tier_means(cost_usd), metrics.tier_means(success)
    all_to = np.eye(n_tiers)
    for t, name in enumerate(names):
        pair = tier_drawn[0][:, t], tier_drawn[1][:, t]
        add(f"always-{name}", float(means[t]), float(rates[t]), all_to[t], pair)
    mix = ratio.mix
    share = (1 - mix.share_high) * all_to[mix.low] + mix.share_high * all_to[mix.high]
    mix_rate = rates[mix.low] + mix.share_high * (rates[mix.high] - rates[mix.low])
    add("random-mix", mix.cost_usd, float(mix_rate), share, mix_drawn)
    for name in played:
        if name != "router":
            add_played(name)
    return Comparison(policies, ratio, interval(ratios), replicates, confidence)


def resampled_mixes(
    router: tuple[FloatArray, FloatArray], tiers: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
    """In every resample the mix at the router's success rate there: ratio, (cost, success)."""
    n = len(router[0])
    ratios, costs, rates = np.empty(n), np.empty(n), np.empty(n)
    for r in range(n):
        rate = tiers[1][r]
        ratios[r], mix = metrics.mix_ratio_of_means(
            float(router[0][r]), float(router[1][r]), tiers[0][r], rate
        )
        costs[r] = mix.cost_usd
        rates[r] = rate[mix.low] + mix.share_high * (rate[mix.high] - rate[mix.low])
    return ratios, (costs, rates)
