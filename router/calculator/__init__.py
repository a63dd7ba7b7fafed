"""The calculator: what caching, routing and batch would save, from volume, tokens and prices.

Nothing is multiplied that was not worked out: each line is priced request by request, hits and
misses apart, and routing thins the traffic that keeps a tier's cache warm. Tokens that miss are
paid, writing to the cache is paid, and a prefix that a model does not cache saves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from router.calculator.arrivals import hit_rate, hit_rate_of_share
from router.calculator.workload import Bill, Line, ModelLine, Share, Workload
from router.errors import InputError, PriceError
from router.prices import PriceBook, TierPrice
from router.providers.caching import CachePolicy, cache_policy
from router.tiers import Tier


@dataclass(frozen=True, slots=True)
class _Way:
    """What a line switches on."""

    mix: tuple[Share, ...]
    caching: bool = False
    batch: bool = False


def estimate(
    workload: Workload,
    baseline: Tier,
    mix: Sequence[Share] = (),
    book: PriceBook | None = None,
    at: datetime | None = None,
) -> tuple[Line, ...]:
    """What the workload costs today, and what it would cost with caching, routing and batch.

    Routing is left out without a ``mix``, and batch without a share that can wait. Part of the
    traffic that is batched does not read the cache: when a batch runs is not ours to say.

    Raises:
        InputError: shares that are negative or do not sum to 1.
        PriceError: a price that is needed and not known.

    >>> prices = {"input_price_usd_per_mtok": 3.0, "output_price_usd_per_mtok": 15.0}
    >>> own = Tier("own", "own", "own", cached_input_price_usd_per_mtok=0.3, **prices)
    >>> work = Workload(10_000, 2_000, 200, 0, hit_rate=0.95)
    >>> [round(line.bill.total_usd, 2) for line in estimate(work, own)]
    [66.0, 14.7]
    """
    _check_shares(mix)
    prices = _Prices(book or PriceBook(), at or datetime.now(tz=UTC), workload.ttl)
    alone, routed = (Share(baseline, 1.0),), tuple(mix)
    model = _name(baseline)
    spread = ", ".join(f"{share.share * 100:.4g} % to {_name(share.tier)}" for share in routed)
    hits = (
        "at the hit rate that was given for the whole traffic"
        if workload.hit_rate is not None
        else "at the hit rate of its arrivals"
    )
    ways = [
        ("today", f"every request goes to {model}, no cache", _Way(alone)),
        ("caching", f"{model} with the system prompt cached, {hits}", _Way(alone, caching=True)),
    ]
    if routed:
        ways += [
            ("routing", f"requests are routed ({spread}), no cache", _Way(routed)),
            (
                "caching+routing",
                f"routed, and each model caches, {hits} (only its own share keeps it warm)",
                _Way(routed, caching=True),
            ),
        ]
    if workload.batch_share > 0:
        waits = f"{workload.batch_share * 100:.4g} % of the requests at the batch price, uncached"
        ways += [
            ("batch", f"{model}, no cache, {waits}", _Way(alone, batch=True)),
            (
                "everything",
                f"{'routed' if routed else model}, {waits}, the others cached",
                _Way(routed or alone, caching=True, batch=True),
            ),
        ]
    return tuple(
        Line(name, includes, tuple(_model_line(workload, share, way, prices) for share in way.mix))
        for name, includes, way in ways
    )


def dearest(tiers: Iterable[Tier], workload: Workload, book: PriceBook) -> Tier:
    """The tier on which a request costs most, uncached."""
    return max(
        tiers,
        key=lambda tier: book.price(tier).cost_usd(workload.input_tokens, workload.output_tokens),
    )


@dataclass(frozen=True, slots=True)
class _Prices:
    book: PriceBook
    at: datetime
    ttl: Literal["5m", "1h"]

    def of(self, tier: Tier, *, batch: bool = False) -> TierPrice:
        return self.book.price(tier, self.at, batch=batch)


def _model_line(workload: Workload, share: Share, way: _Way, prices: _Prices) -> ModelLine:
    tier = share.tier
    n_per_day = workload.requests_per_day * share.share
    n_batch = n_per_day * workload.batch_share if way.batch else 0.0
    n_online = n_per_day - n_batch
    price = prices.of(tier)
    batched = Bill()
    if n_batch > 0:
        batched = _bill(prices.of(tier, batch=True), workload, n_batch)
    uncached = _bill(price, workload, n_online) + batched
    line = ModelLine(
        _name(tier), share.share, n_per_day, uncached, uncached, batch_requests_per_day=n_batch
    )
    if not way.caching or n_online == 0:
        return line
    policy = cache_policy(tier.provider, tier.model, workload.ttl)
    cached_tokens, why_not = _cacheable(workload, policy, line.model)
    if not cached_tokens:
        return replace(line, why_not=why_not)
    refreshed = policy is None or policy.refreshed_by_hits
    if workload.hit_rate is not None:
        share_of_all = n_online / workload.requests_per_day
        hits = hit_rate_of_share(workload.hit_rate, share_of_all, refreshed_by_hits=refreshed)
    else:
        assert policy is not None  # without one, nothing is cacheable at an unknown hit rate
        rate = workload.arrivals_per_s * n_online / workload.requests_per_day
        hits = hit_rate(rate, policy.ttl_s, refreshed_by_hits=refreshed)
    for_an_hour = policy is not None and policy.writes_long_lived
    write_rate = _write_rate(price, workload, for_an_hour, line.model)
    with_cache = _bill(price, workload, n_online, cached_tokens, hits, write_rate) + batched
    rates = price.at_length(workload.input_tokens)
    premium = write_rate - rates.input_usd_per_mtok
    gain = write_rate - rates.cached_input_usd_per_mtok
    return replace(
        line,
        bill=with_cache,
        cached_tokens=cached_tokens,
        hit_rate=hits,
        break_even_hit_rate=premium / gain if 0 < premium < gain else 1.0 if premium > 0 else None,
    )


def _bill(
    price: TierPrice,
    workload: Workload,
    n_per_day: float,
    cached_tokens: int = 0,
    hits: float = 0.0,
    write_usd_per_mtok: float = 0.0,
) -> Bill:
    rates = price.at_length(workload.input_tokens)
    mtok = n_per_day / 1e6
    return Bill(
        mtok * (workload.input_tokens - cached_tokens) * rates.input_usd_per_mtok,
        mtok * cached_tokens * hits * rates.cached_input_usd_per_mtok,
        mtok * cached_tokens * (1 - hits) * write_usd_per_mtok,
        mtok * workload.output_tokens * rates.output_usd_per_mtok,
        n_per_day * price.request_usd,
    )


def _cacheable(
    workload: Workload, policy: CachePolicy | None, model: str
) -> tuple[int, str | None]:
    """How many tokens of the system prompt a model keeps, or 0 and why."""
    if workload.system_tokens == 0:
        return 0, "there is no system prompt to cache"
    least = workload.min_cacheable_tokens
    if policy is None:
        if workload.hit_rate is None:
            return 0, (f"no prompt cache is known for {model}: give a --hit-rate if it has one")
        policy = CachePolicy(min_tokens=least or 0, ttl_s=0)
    if least is not None:
        policy = replace(policy, min_tokens=least)
    kept = policy.cacheable_tokens(workload.system_tokens)
    if kept == 0:
        return 0, (
            f"{model} caches prompts from {policy.min_tokens:,} tokens on and the system prompt "
            f"has {workload.system_tokens:,}: nothing is cached, so nothing is saved"
        )
    return kept, None


def _write_rate(price: TierPrice, workload: Workload, for_an_hour: bool, model: str) -> float:
    rates = price.at_length(workload.input_tokens)
    if not for_an_hour:
        return rates.cache_write_usd_per_mtok
    if rates.cache_write_1h_usd_per_mtok is None:
        raise PriceError(
            f"expected a price for writing to the cache of {model} for an hour, got none: use "
            "--ttl 5m, or give the price."
        )
    return rates.cache_write_1h_usd_per_mtok


def _check_shares(mix: Sequence[Share]) -> None:
    for share in mix:
        if not 0 <= share.share <= 1:
            raise InputError(
                f"expected the share of {_name(share.tier)} from 0 to 1, got {share.share!r}: "
                "correct it."
            )
    total = math.fsum(share.share for share in mix)
    if mix and abs(total - 1) > 1e-6:
        raise InputError(
            f"expected the shares of the tiers to sum to 1, got {total:.6g}: correct them."
        )


def _name(tier: Tier) -> str:
    return f"{tier.provider}/{tier.model}"
