"""Outcomes with known truth, for tests and for the committed sample.

A :class:`World` fixes how well its tiers answer what kind of query, and at what cost: see
:mod:`training.synthetic_world`. Drawing from it gives queries (:mod:`training.synthetic_queries`),
the outcome of every tier, and the truth that produced them. Given the true probability the tiers'
outcomes are independent; the latent difficulty they share makes them fail together for anyone who
reads only the text. Output tokens are their mean times bounded log-normal noise, and

    cost = (input tokens * input price + output tokens * output price) / 1e6

Worlds of numbers alone, for the validity tests, are in :mod:`training.synthetic_numeric`. The
sample of the repository is made by::

    python -m training.synthetic --out data --requests 600 --seed 0
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from router.errors import InputError
from router.keyword import KeywordRouter
from router.outcomes import Outcome, write_jsonl
from router.tiers import TierSet
from training.synthetic_numeric import (
    NUMERIC_KINDS,
    NumericWorld,
    clipped_lognormal_mean,
    numeric_world,
)
from training.synthetic_queries import SyntheticQuery, write_queries
from training.synthetic_world import (
    World,
    cost_of_tokens_usd,
    make_world,
    mean_output_tokens,
    success_probabilities,
    synthetic_tiers,
)
from training.table import OutcomeTable

__all__ = [
    "NUMERIC_KINDS",
    "NumericWorld",
    "SyntheticOutcomes",
    "World",
    "keyword_policy",
    "log",
    "make_world",
    "numeric_world",
    "sample",
    "softmax_policy",
    "synthetic_tiers",
    "tiers_toml",
    "to_outcomes",
    "uniform_policy",
    "write_sample",
]

FloatArray = npt.NDArray[np.float64]

SAMPLE_NAME = "sample_outcomes.jsonl"
TIERS_NAME = "tiers.toml"
_TOKEN_NOISE_SD = 0.35
_NOISE_LIMIT = 3.0  # standard deviations, so that costs are bounded


@dataclass(frozen=True, eq=False)
class SyntheticOutcomes:
    """What was drawn from a world, and the truth behind it.

    ``table`` holds full feedback: the outcome of every request on every tier. ``p_success``,
    ``p_readable`` and ``expected_cost_usd`` are (n, T): the probability that each outcome was
    drawn with; the same averaged over what the text does not show (the best any router can know);
    and the mean cost in USD, which the text shows completely.
    """

    world: World
    queries: tuple[SyntheticQuery, ...]
    table: OutcomeTable
    p_success: FloatArray
    p_readable: FloatArray
    expected_cost_usd: FloatArray

    @property
    def propensity(self) -> FloatArray:
        """Logging probabilities (n, T); all NaN here, known in the table that :func:`log` gives."""
        return self.table.propensity

    @cached_property
    def cheapest_first(self) -> list[int]:
        """Tier indices by measured mean cost."""
        return [int(t) for t in np.argsort(np.mean(self.table.cost_usd, axis=0), kind="stable")]


def sample(world: World, n: int, seed: int) -> SyntheticOutcomes:
    """Draw ``n`` requests and the outcome of every tier; the same arguments give the same rows.

    Raises:
        InputError: ``n`` below 1, or a negative seed.
    """
    if n < 1:
        raise InputError(f"expected at least 1 request, got {n}: ask for more.")
    if seed < 0:
        raise InputError(f"expected a seed of at least 0, got {seed}: choose another.")
    queries = write_queries(n, seed, spanish_share=world.spanish_share)
    rng = np.random.default_rng([world.seed, seed])
    p_success, p_readable = success_probabilities(world, queries, rng.standard_normal(n))
    input_tokens = np.array([[float(query.input_tokens)] for query in queries])
    mean_output = mean_output_tokens(world, queries)
    noise = np.clip(rng.standard_normal(mean_output.shape), -_NOISE_LIMIT, _NOISE_LIMIT)
    noisy = mean_output * np.exp(_TOKEN_NOISE_SD * noise)
    noisy /= clipped_lognormal_mean(_TOKEN_NOISE_SD, _NOISE_LIMIT)
    # Rounding up or down at random keeps the mean of whole tokens exactly where it was.
    output_tokens = np.floor(noisy + rng.random(noisy.shape))
    success = (rng.random(p_success.shape) < p_success).astype(np.float64)
    table = OutcomeTable.from_arrays(
        world.tiers,
        [query.text for query in queries],
        success,
        np.round(cost_of_tokens_usd(world, input_tokens, output_tokens), 12),
        request_id=[f"syn-{world.seed}-{seed}-{i:06d}" for i in range(n)],
        task=[query.task for query in queries],
        input_tokens=np.broadcast_to(input_tokens, success.shape).copy(),
        output_tokens=output_tokens,
    )
    expected_cost_usd = cost_of_tokens_usd(world, input_tokens, mean_output)
    return SyntheticOutcomes(world, tuple(queries), table, p_success, p_readable, expected_cost_usd)


def uniform_policy(outcomes: SyntheticOutcomes) -> FloatArray:
    """Every tier equally likely: action distribution (n, T)."""
    return np.full_like(outcomes.p_success, 1.0 / outcomes.p_success.shape[1])


def keyword_policy(outcomes: SyntheticOutcomes, *, epsilon: float = 0.0) -> FloatArray:
    """The keyword heuristic, with probability ``epsilon`` replaced by a tier at random: (n, T).

    Raises:
        InputError: ``epsilon`` outside 0..1.
    """
    if not 0.0 <= epsilon <= 1.0:
        raise InputError(f"expected epsilon between 0 and 1, got {epsilon}: choose a share.")
    tiers = outcomes.world.tiers
    heuristic = KeywordRouter.for_tiers([tiers.names[t] for t in outcomes.cheapest_first])
    chosen = [tiers.index(heuristic.tier_of(query.text)) for query in outcomes.queries]
    result = uniform_policy(outcomes) * epsilon
    result[np.arange(len(chosen)), chosen] += 1.0 - epsilon
    return result


def softmax_policy(outcomes: SyntheticOutcomes, *, temperature: float = 0.2) -> FloatArray:
    """A log confounded by what no text shows: softmax of the true p / ``temperature``, (n, T).

    Raises:
        InputError: ``temperature`` is not above 0.
    """
    if not temperature > 0.0:
        raise InputError(f"expected a temperature above 0, got {temperature}: raise it.")
    score = outcomes.p_success / temperature
    weight = np.exp(score - score.max(axis=1, keepdims=True))
    result: FloatArray = weight / weight.sum(axis=1, keepdims=True)
    return result


def log(outcomes: SyntheticOutcomes, policy: npt.ArrayLike, seed: int) -> OutcomeTable:
    """Logged feedback: one tier per request, drawn from ``policy`` (n, T), propensities recorded.

    Raises:
        InputError: ``policy`` has the wrong shape, or a row of it is no distribution.
    """
    table = outcomes.table
    chances = np.asarray(policy, dtype=np.float64)
    if chances.shape != outcomes.p_success.shape:
        raise InputError(
            f"expected an action distribution of shape {outcomes.p_success.shape}, "
            f"got {chances.shape}: give a row per request and a column per tier."
        )
    if not (np.all(chances >= 0.0) and np.allclose(chances.sum(axis=1), 1.0, atol=1e-9)):
        raise InputError(
            "expected rows that sum to 1 without negative entries, got others: normalise them."
        )
    edges = np.cumsum(chances, axis=1)
    draw = np.random.default_rng([outcomes.world.seed, seed, 11]).random(len(chances))
    # Scaled by the row's own sum, and strict, so that a tier with probability 0 is never drawn.
    chosen = np.argmax(draw[:, None] * edges[:, -1:] < edges, axis=1)
    observed = np.zeros(chances.shape, dtype=bool)
    observed[np.arange(len(chosen)), chosen] = True

    def seen(values: FloatArray) -> FloatArray:
        return np.where(observed, values, np.nan)

    return OutcomeTable.from_arrays(
        table.tiers,
        table.query,
        seen(table.success),
        seen(table.cost_usd),
        request_id=table.request_id,
        task=table.task,
        input_tokens=seen(table.input_tokens),
        output_tokens=seen(table.output_tokens),
        propensity=seen(chances),
        observed=observed,
    )


def to_outcomes(table: OutcomeTable) -> Iterator[Outcome]:
    """The observed cells of a table as outcomes, request by request, tiers in their order."""
    for i, t in np.argwhere(table.observed):
        tier = table.tiers[int(t)]
        yield Outcome(
            request_id=table.request_id[i],
            query=table.query[i],
            success=float(table.success[i, t]),
            tier=tier.name,
            model=tier.model,
            cost_usd=_known(table.cost_usd[i, t]),
            input_tokens=_known_count(table.input_tokens[i, t]),
            output_tokens=_known_count(table.output_tokens[i, t]),
            task=table.task[i],
            propensity=_known(table.propensity[i, t]),
            at=table.at[i],
            artifact_id=table.artifact_id[i],
            split=table.split[i],
        )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _known_count(value: float) -> int | None:
    return None if math.isnan(value) else int(value)


def tiers_toml(tiers: TierSet) -> str:
    """The tiers as the text of a tiers file, which ``TierSet.from_toml`` reads back."""
    lines: list[str] = []
    for table in tiers.to_dicts():
        lines.append("[[tiers]]")
        # JSON's texts, numbers and lists are valid TOML, and these tables hold nothing else.
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        lines.append("")
    return "\n".join(lines)


def write_sample(out: Path, n: int, seed: int, *, world: World | None = None) -> SyntheticOutcomes:
    """Write ``n`` requests with full feedback and the tiers file into the folder ``out``."""
    outcomes = sample(make_world() if world is None else world, n, seed)
    out.mkdir(parents=True, exist_ok=True)
    header = (
        "# Tiers of the synthetic sample. The models do not exist and their prices are made up.\n"
    )
    (out / TIERS_NAME).write_text(header + tiers_toml(outcomes.world.tiers), encoding="utf-8")
    write_jsonl(out / SAMPLE_NAME, to_outcomes(outcomes.table))
    return outcomes


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a synthetic sample and its tiers file."""
    parser = argparse.ArgumentParser(prog="python -m training.synthetic", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--requests", type=int, default=600, help="requests (default 600)")
    parser.add_argument("--seed", type=int, default=0, help="which requests (default 0)")
    options = parser.parse_args(arguments)
    try:
        outcomes = write_sample(options.out, options.requests, options.seed)
    except InputError as error:
        parser.error(str(error))
    sys.stdout.write(
        f"Wrote {len(outcomes.queries)} synthetic requests x {len(outcomes.world.tiers)} tiers "
        f"to {options.out / SAMPLE_NAME}\n"
    )


if __name__ == "__main__":
    main()
