"""How a log chose its tiers: as it was recorded, or as well as it can be estimated.

Estimated in two ways, of which the one that predicts the logged tiers better (mean log loss) is
used: from the queries' text, or as shares among the requests that the keyword heuristic treats
alike. The latter finds out a log that was made by that heuristic, with or without exploration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from router.embedding import embed_all
from router.query_features import query_features_many
from router.stored_query import Query
from training.importance import Logged, supported_by_log
from training.propensity import (
    MAX_FITTING_ROWS,
    Propensities,
    PropensityModel,
    fit_propensity,
    overlap,
    propensity_by_stratum,
)
from training.split import fold_ids

if TYPE_CHECKING:
    from router.embedding import Embedder

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
HashArray = npt.NDArray[np.uint64]
Source = Literal["recorded", "keyword-rule", "query-model", "single-tier"]

_KEYWORD: Source = "keyword-rule"
_MODEL: Source = "query-model"
_N_FOLDS = 5
# Queries whose propensities are estimated at a time, to bound memory.
_CHUNK = 8192
# A log that follows the heuristic on this share of its requests was evidently made by it.
_FOLLOWS = 0.8
# The least propensity: a model may know nothing of a tier that the rows it was fitted on lack.
_LEAST = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class LogPolicy:
    """The log with its propensities, which tiers it tried where (n, T), and how that is known."""

    logged: Logged
    supported: BoolArray
    source: Source
    sentence: str
    n_recorded: int
    calibration_error: float | None = None

    @property
    def estimated(self) -> bool:
        """Whether the propensities are estimated; that of a single tier is known."""
        return self.source in (_KEYWORD, _MODEL)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "source": self.source,
            "sentence": self.sentence,
            "estimated": self.estimated,
            "n_recorded": self.n_recorded,
            "calibration_error": self.calibration_error,
        }


def log_policy(
    logged: Logged,
    recorded: FloatArray,
    n_tiers: int,
    queries: Sequence[Query],
    hashes: HashArray,
    keyword_tier: IntArray,
    embedder: Callable[[], Embedder],
    *,
    names: Sequence[str],
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> LogPolicy:
    """Put the propensities into ``logged``, whose own are of no effect.

    ``recorded`` (n,) is NaN where unknown; they are used where all are known, else estimated for
    all. ``hashes`` (n,) are those of the texts, ``keyword_tier`` (n,) the heuristic's choices,
    ``embedder`` is only called where it is needed.
    """
    n_recorded = int(np.isfinite(recorded).sum())
    if n_recorded == logged.n:
        return _recorded(replace(logged, propensity=recorded), n_tiers)
    if (logged.tier == logged.tier[0]).all():
        return _single_tier(logged, n_tiers, names, n_recorded)
    by_rule = propensity_by_stratum(keyword_tier, logged.tier, n_tiers)
    by_text = _by_text(logged.tier, n_tiers, queries, hashes, embedder, seed, on_progress)
    found: Propensities[Any]
    if by_text is None or by_rule.log_loss <= by_text.log_loss:
        found, source = by_rule, _KEYWORD
        agrees = float((logged.tier == keyword_tier).mean())
        how = "as shares among the requests that the keyword heuristic treats alike"
        if agrees >= _FOLLOWS:
            how += f": the log follows it on {100 * agrees:.3g} % of its requests"
        else:
            how += ", since the rest of the text does not tell more of which tier was chosen"
    else:
        found, source = by_text, _MODEL
        how = f"from the queries' text, with a calibration error of {found.calibration_error:.2g}"
    what = "The log records no propensities; they are"
    if n_recorded:
        what = f"The log records propensities on {n_recorded:,} of {logged.n:,} requests; all are"
    sentence = (
        f"{what} estimated {how}. What the logging policy went by and the text does not show is "
        "not corrected for: record cps_router.propensity to have exact numbers."
    )
    values = found.values
    chosen = np.clip(logged.at_logged(values), _LEAST, 1.0)
    known = replace(logged, propensity=chosen, propensities=values)
    return LogPolicy(known, overlap(values), source, sentence, n_recorded, found.calibration_error)


def _recorded(logged: Logged, n_tiers: int) -> LogPolicy:
    sentence = "The propensities are those that the log recorded."
    if (logged.propensity == 1.0).all():
        sentence += (
            " All of them are 1: nothing was left to chance, and only what the log's own policy "
            "chose can be valued."
        )
    supported = supported_by_log(logged, n_tiers)
    return LogPolicy(logged, supported, "recorded", sentence, logged.n)


def _single_tier(logged: Logged, n_tiers: int, names: Sequence[str], n_recorded: int) -> LogPolicy:
    tier = int(logged.tier[0])
    everywhere = np.zeros((logged.n, n_tiers))
    everywhere[:, tier] = 1.0
    known = replace(logged, propensity=np.ones(logged.n), propensities=everywhere)
    sentence = f"All requests went to {names[tier]}: the log says nothing about any other tier."
    return LogPolicy(known, everywhere > 0, "single-tier", sentence, n_recorded)


def _by_text(
    tier: IntArray,
    n_tiers: int,
    queries: Sequence[Query],
    hashes: HashArray,
    embedder: Callable[[], Embedder],
    seed: int,
    on_progress: Callable[[int], None] | None,
) -> Propensities[PropensityModel] | None:
    """Cross-fitted by text; of a long log on a sample of texts, and applied to the others.

    None where there are too few texts for folds.
    """
    n = len(tier)
    unique, text = np.unique(hashes, return_inverse=True)
    if len(unique) < 2:
        return None
    # Whole texts, so that no copy of a text is both fitted and predicted.
    rng = np.random.default_rng(seed)
    n_texts = len(unique) if n <= MAX_FITTING_ROWS else max(2, MAX_FITTING_ROWS * len(unique) // n)
    drawn = np.zeros(len(unique), bool)
    drawn[rng.permutation(len(unique))[:n_texts]] = True
    inside = np.flatnonzero(drawn[text])
    made_by = embedder()

    def inputs(rows: npt.NDArray[np.intp]) -> FloatArray:
        texts = [queries[i] for i in rows]
        parts = (embed_all(made_by, texts), query_features_many(texts))
        result: FloatArray = np.concatenate(parts, axis=1).astype(np.float64)
        return result

    fold = fold_ids(hashes[inside], min(_N_FOLDS, n_texts), seed)
    fitted = fit_propensity(inputs(inside), tier[inside], n_tiers, fold, seed=seed)
    values = np.empty((n, n_tiers))
    values[inside] = fitted.values
    outside = np.flatnonzero(~drawn[text])
    for start in range(0, len(outside), _CHUNK):
        rows = outside[start : start + _CHUNK]
        values[rows] = fitted.model.propensities(inputs(rows))
        if on_progress is not None:
            on_progress(len(inside) + start + len(rows))
    return replace(fitted, values=values)
