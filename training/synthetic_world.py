"""What is true in a synthetic world: its tiers, how able they are at what, and what they cost.

A query's text gives its readable difficulty r, and the draw a latent difficulty z ~ N(0, 1). With
the world's noise share s, tier t succeeds with probability::

    d   = sqrt(1 - s) * r + sqrt(s) * z
    p_t = 0.01 + 0.98 * sigmoid(ability_t + affinity_t[task] + spanish_t[language] - slope_t * d)

and writes, on average, a number of tokens that depends on the task, the steps asked for and r.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.errors import InputError
from router.tiers import Tier, TierSet
from training.synthetic_queries import TASKS, SyntheticQuery

FloatArray = npt.NDArray[np.float64]

# name, model, and USD per million tokens of input, cached input, output. The models do not exist.
_LADDER: tuple[tuple[str, str, float, float, float], ...] = (
    ("nano", "synthia-1-nano", 0.05, 0.0125, 0.20),
    ("micro", "synthia-1-micro", 0.08, 0.02, 0.35),
    ("mini", "synthia-1-mini", 0.12, 0.03, 0.60),
    ("small", "synthia-2-small", 0.20, 0.05, 1.00),
    ("mid", "synthia-2-medium", 0.40, 0.10, 2.00),
    ("large", "synthia-2-large", 0.90, 0.225, 4.00),
    ("pro", "synthia-3-pro", 1.80, 0.45, 8.00),
    ("max", "synthia-3-max", 3.00, 0.75, 14.00),
    ("frontier", "synthia-3-ultra", 5.00, 1.25, 25.00),
)
_OUTPUT_TOKENS = {
    "extraction": 45.0,
    "classification": 12.0,
    "translation": 20.0,
    "summarising": 90.0,
    "qa": 150.0,
    "code": 320.0,
    "mathematics": 180.0,
    "analysis": 520.0,
}


@dataclass(frozen=True, slots=True)
class World:
    """What is true: the same world gives the same success and cost for the same query.

    ``tiers`` need their own prices, since a dearer tier is also a more able one; ``seed`` decides
    which tasks suit which tier; ``spanish_share`` is the share of Spanish queries (the rest are
    English); ``noise_share`` the share of the variance in difficulty that no text shows.

    Raises:
        InputError: a share outside 0..1, or a tier without prices.
    """

    tiers: TierSet
    seed: int = 0
    spanish_share: float = 0.3
    noise_share: float = 0.3

    def __post_init__(self) -> None:
        for name in ("spanish_share", "noise_share"):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise InputError(f"expected {name} between 0 and 1, got {share}: choose a share.")
        for tier in self.tiers:
            if tier.input_price_usd_per_mtok is None or not tier.output_price_usd_per_mtok:
                raise InputError(
                    f"expected prices on every tier of a synthetic world, got none for "
                    f"{tier.name!r}: give it an input and an output price."
                )


def synthetic_tiers(n_tiers: int = 3) -> TierSet:
    """Fictitious priced tiers, cheapest first; of three: nano, mid and frontier.

    Raises:
        InputError: ``n_tiers`` outside 1..9.
    """
    if not 1 <= n_tiers <= len(_LADDER):
        raise InputError(
            f"expected 1 to {len(_LADDER)} synthetic tiers, got {n_tiers}: pass tiers of your own."
        )
    rungs = np.round(np.linspace(0, len(_LADDER) - 1, n_tiers)).astype(int)
    return TierSet(
        [
            Tier(
                name=name,
                provider="synthetic",
                model=model,
                input_price_usd_per_mtok=fresh,
                cached_input_price_usd_per_mtok=cached,
                output_price_usd_per_mtok=output,
                context_window_tokens=128_000,
            )
            for name, model, fresh, cached, output in (_LADDER[rung] for rung in rungs)
        ]
    )


def make_world(
    n_tiers: int = 3,
    *,
    tiers: TierSet | None = None,
    seed: int = 0,
    spanish_share: float = 0.3,
    noise_share: float = 0.3,
) -> World:
    """A world of ``n_tiers`` fictitious tiers, or of priced ``tiers`` of your own."""
    return World(
        tiers=synthetic_tiers(n_tiers) if tiers is None else tiers,
        seed=seed,
        spanish_share=spanish_share,
        noise_share=noise_share,
    )


def _place(world: World) -> FloatArray:
    """Each tier's place (T,) between the cheapest rung of the ladder (0) and the dearest (1)."""
    price = np.array([tier.output_price_usd_per_mtok for tier in world.tiers], dtype=np.float64)
    low, high = _LADDER[0][4], _LADDER[-1][4]
    place: FloatArray = np.clip(np.log(price / low) / math.log(high / low), 0.0, 1.0)
    return place


def success_probabilities(
    world: World, queries: Sequence[SyntheticQuery], latent: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """P(success | text, ``latent``) and P(success | text), both (n, T).

    ``latent`` (n,) is the part of the difficulty that no text shows, standard normal; the second
    matrix averages over it, and is the best that a router can know.
    """
    place = _place(world)
    rng = np.random.default_rng([world.seed, 7])
    # A cheap tier is uneven: good at some tasks, poor at others. A dear one does all of them.
    affinity = (1.1 - place) * rng.normal(0.0, 0.5, (len(TASKS), len(place)))
    ability = 0.6 + 4.6 * place - 1.3 * place**2
    spanish = -0.7 * (1.0 - place)
    slope = 1.9 - 0.6 * place
    task = [TASKS.index(query.task) for query in queries]
    is_spanish = np.array([[float(query.language == "es")] for query in queries])
    readable = math.sqrt(1.0 - world.noise_share) * _difficulty(queries)
    average = ability + affinity[task] + is_spanish * spanish - slope * readable[:, None]

    def given(latent: FloatArray) -> FloatArray:
        hidden = math.sqrt(world.noise_share) * latent
        result: FloatArray = 0.01 + 0.98 / (1.0 + np.exp(slope * hidden[:, None] - average))
        return result

    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    averaged = np.zeros_like(average)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        averaged += weight * given(np.array([node]))
    return given(latent), averaged


def mean_output_tokens(world: World, queries: Sequence[SyntheticQuery]) -> FloatArray:
    """E[output tokens] (n, T): longer for more steps and, the dearer the tier, for harder text."""
    asked = np.array([_OUTPUT_TOKENS[query.task] * (1.0 + 0.2 * query.steps) for query in queries])
    copied = np.array([1.4 * query.n_words * (query.task == "translation") for query in queries])
    place = _place(world)
    hard = np.clip(_difficulty(queries), -3.0, 3.0)[:, None]
    tokens = (asked + copied)[:, None] * np.exp(0.6 * place + (0.1 + 0.3 * place) * hard)
    # At least so many that the shortest noisy answer still has a token.
    bounded: FloatArray = np.clip(tokens, 4.0, 20_000.0)
    return bounded


def cost_of_tokens_usd(
    world: World, input_tokens: FloatArray, output_tokens: FloatArray
) -> FloatArray:
    """Cost in USD (n, T) of tokens that broadcast to (n, T), at the tiers' prices."""
    fresh = np.array([tier.input_price_usd_per_mtok for tier in world.tiers], dtype=np.float64)
    written = np.array([tier.output_price_usd_per_mtok for tier in world.tiers], dtype=np.float64)
    result: FloatArray = (input_tokens * fresh + output_tokens * written) / 1e6
    return result


def _difficulty(queries: Sequence[SyntheticQuery]) -> FloatArray:
    return np.array([query.difficulty for query in queries], dtype=np.float64)
