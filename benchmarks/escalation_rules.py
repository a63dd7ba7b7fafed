"""What few requests say of how tiers fail together, by different rules for reading them.

From the training rows of every set requests are drawn, estimators and loadings fitted on them
alone, and the log-loss of each tier's success after another one's failure taken on the test rows.
The same on test rows whose outcomes are drawn as the estimators predict them, tier by tier: there
tiers are independent, and loadings can only harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks.results import Say, Table
from router.embedding import Embedder
from training.design import Design
from training.escalation import TYPICAL_LOADING, fit_escalation, loss_after_failure
from training.features import embed_queries
from training.fit import fit_success
from training.prepare import N_FOLDS, inputs_of
from training.split import fold_ids, query_hashes, split_table
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]

# Requests, and how often they are drawn.
DRAWS = {50: 12, 100: 12, 200: 8, 500: 4}
MAX_TEST_ROWS = 1_500
FAMILY = "ridge"
INDEPENDENT = "independent"
# The loading without evidence, and by how many standard errors independence must be beaten.
RULES = {
    "from 0": (0.0, 0.0),
    "from 0, by one s.e.": (0.0, 1.0),
    f"from {TYPICAL_LOADING}": (TYPICAL_LOADING, 0.0),
    f"from {TYPICAL_LOADING}, by one s.e.": (TYPICAL_LOADING, 1.0),
}
SERVED = f"from {TYPICAL_LOADING}"


@dataclass(frozen=True, slots=True)
class Draw:
    """What one draw knows: cross-fitted P(success), success and folds; and of test rows the same.

    Shapes (n, T), (n, T), (n,), (m, T) and (m, T).
    """

    p_success: FloatArray
    success: FloatArray
    fold: npt.NDArray[np.int64]
    test_p_success: FloatArray
    test_success: FloatArray

    def made_independent(self, seed: int) -> Draw:
        """Outcomes drawn tier by tier from the predictions."""
        rng = np.random.default_rng(seed)
        success, test = (
            (rng.random(p.shape) < p).astype(float) for p in (self.p_success, self.test_p_success)
        )
        return Draw(self.p_success, success, self.fold, self.test_p_success, test)


def drawn(
    pool: OutcomeTable, test: OutcomeTable, vectors: Any, embedder: Embedder, n: int, seed: int
) -> Draw:
    """Fit the estimators on ``n`` requests of the pool; ``vectors`` are those of ``test``."""
    chosen = np.random.default_rng(seed).choice(pool.n_requests, n, replace=False)
    rows = pool.take(np.sort(chosen))
    queries, asked = rows.query.tolist(), test.query.tolist()
    fold = fold_ids(query_hashes(rows.query), N_FOLDS, seed)
    data, input_map, refs = inputs_of(queries, embed_queries(embedder, queries), fold, seed)
    fitted = fit_success(
        data,
        Design.of(data, refs.all),
        refs,
        rows.success,
        rows.observed,
        [FAMILY],
        other_success=rows.other_success,
    )[FAMILY]
    similarity = vectors @ refs.all.T
    p = fitted.estimator.predict(input_map.many(asked, vectors, similarity), similarity)
    return Draw(fitted.cross_fitted, rows.success, fold, p, test.success)


def losses(draw: Draw) -> dict[str, float]:
    """Log-loss after a failure on test rows, in nats, of independence and of every rule."""
    independent = np.zeros(draw.success.shape[1])
    found = {INDEPENDENT: independent}
    for typical in {typical for typical, _ in RULES.values()}:
        fitted = fit_escalation(draw.p_success, draw.success, draw.fold, typical)
        for name, (wanted, errors) in RULES.items():
            if wanted == typical:
                # An infinite error times 0 is no number, and keeps independence.
                least = errors * fitted.gain_error if errors else 0.0
                keeps = fitted.gain > least
                found[name] = fitted.candidate.loading if keeps else independent
    return {
        name: loss_after_failure(draw.test_p_success, draw.test_success, loading)
        for name, loading in found.items()
    }


def curve(
    table: OutcomeTable, embedder: Embedder, say: Say, draws: Mapping[int, int] | None = None
) -> dict[int, list[tuple[dict[str, float], dict[str, float]]]]:
    """Losses of every draw, as the tiers are and made independent, by number of requests."""
    table = table.take(table.complete)
    split = split_table(table)
    pool, test = table.take(split.train), table.take(split.test)
    test = test.take(np.arange(min(test.n_requests, MAX_TEST_ROWS)))
    vectors = embed_queries(embedder, test.query.tolist())
    found: dict[int, list[tuple[dict[str, float], dict[str, float]]]] = {}
    for n, times in (draws or DRAWS).items():
        if n > pool.n_requests:
            break
        say(f"{n} requests, {times} draws")
        for seed in range(times):
            with threadpool_limits(limits=1):
                draw = drawn(pool, test, vectors, embedder, n, seed)
                pair = losses(draw), losses(draw.made_independent(seed))
            found.setdefault(n, []).append(pair)
    return found


def rules_table(
    found: Mapping[str, Mapping[int, list[tuple[dict[str, float], dict[str, float]]]]],
) -> Table:
    """Mean losses by set and number of requests, and what the served rule gains."""
    names = (INDEPENDENT, *RULES)
    rows = []
    for made_independent, label in enumerate(("", ", made independent")):
        for name, by_n in found.items():
            for n, pairs in by_n.items():
                each = [pair[made_independent] for pair in pairs]
                gap = np.array([one[SERVED] - one["from 0, by one s.e."] for one in each])
                error = gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else float("nan")
                means = [f"{np.mean([one[rule] for one in each]):.4f}" for rule in names]
                rows.append((f"{name}{label}", f"{n}", *means, f"{gap.mean():+.4f} ({error:.4f})"))
    note = (
        "Log-loss on test rows of each tier's success where another one failed. Loadings are drawn "
        "to 0 or to what is usual, and kept where cross-validation finds them better than "
        f"independence, or better by more than one standard error; training does '{SERVED}'. Last: "
        "that less 'from 0, by one s.e.', with the standard error over draws."
    )
    columns = ("set", "requests", *names, f"'{SERVED}' less (s.e.)")
    return Table("How to read few requests", columns, rows, (note,))
