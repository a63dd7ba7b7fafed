"""Training on one screen: table -> split -> embed -> fit -> policy -> artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from router.artifact import check_destination
from router.embedding import Embedder
from router.errors import InputError
from router.predictor import Predictor
from router.prices import PriceBook
from router.tiers import TierSet
from training import experiment, package
from training.costs import fit_cost
from training.coverage import coverage_of
from training.defaults import DEFAULT_CONFIDENCE
from training.design import Design
from training.feedback import read_feedback
from training.fit import (
    AUTO_FAMILIES,
    AUTO_FAMILIES_WITH_TASKS,
    FAMILIES,
    fit_metrics,
    fit_success,
)
from training.neighbours import NO_SIMILARITY, min_similarity
from training.prepare import prepare
from training.prior import Prior
from training.search import (
    Objective,
    choose_policy,
    floor_menu,
    pick_family,
)
from training.table import OutcomeTable

__all__ = ["TrainResult", "train"]

AUTO = "auto"
# About one query in a thousand of the training traffic itself counts as unlike the rest, half of it
# by similarity and half by its scripts and words: such queries go to the safe tier, which may cost
# thirty times the one they would get.
SHARE_OUTSIDE = 0.001
# Without a limit on similarity queries may be shorter than training's (one in seven hundred of the
# exam questions is), and a word or two that training had not tell of no other language.
MIN_WORDS_ANYWHERE = 3
Progress = Callable[[str], None]
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A trained, saved router: manifest, folder, what its owner should hear, and the logged run."""

    manifest: dict[str, Any]
    folder: Path
    warnings: list[str]
    run: experiment.RunInfo | None


def _on_one_thread(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Linear algebra on one thread: these matrices are small, results then do not depend on the
    number of cores, and a busy machine does not spend its time on threads waiting for each other.
    """

    @wraps(function)
    def limited(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with threadpool_limits(limits=1):
            return function(*args, **kwargs)

    return limited


@_on_one_thread
def train(
    table: OutcomeTable,
    out: str | Path,
    *,
    objective: Objective | None = None,
    confidence: float = DEFAULT_CONFIDENCE,
    embedder: str | Path = "static",
    estimator: str = AUTO,
    safe_tier: str | None = None,
    warm_start: bool = True,
    similarity_limit: bool = True,
    seed: int = 0,
    price_book: PriceBook | None = None,
    key: str | bytes | None = None,
    name: str = "outcomes",
    synthetic: bool = False,
    track: bool = True,
    on_progress: Progress | None = None,
) -> TrainResult:
    """Train a router on the training rows of ``table`` and save its artifact in ``out``.

    Args:
        table: Outcomes; its ``split`` column is respected where there is one. Where most requests
            show one tier's outcome only, it is read as a log (``training/feedback.py``).
        out: Folder of the artifact; an older artifact there is replaced atomically.
        objective: What to optimise; by default a floor 5 points below the strongest tier.
        confidence: Of the floor's certificate.
        embedder: "static", a folder, or the name of a sentence-transformers model.
        estimator: "auto" (by cross-validated decision value) or a family's name.
        safe_tier: Tier for queries unlike the training ones; by default the strongest.
        warm_start: Start from what public outcomes of many models say of a query's difficulty
            (``training/prior.py``); of use with the default embedder only.
        similarity_limit: Whether a query is out of distribution for being unlike all training
            queries; without, only for its scripts and, if it has three or more, its words.
        seed: Of folds, centroids and networks.
        price_book: Where today's prices of token-priced tiers come from.
        key: Signs the artifact's manifest.
        name: Of the data, for the manifest.
        synthetic: Whether the outcomes are made up, for the manifest.
        track: Log the run to MLflow.
        on_progress: Told each stage as it begins.

    Raises:
        InputError: too few requests that can be used, a missing cost, an unknown name.
    """
    say = on_progress or (lambda message: None)
    objective = objective or Objective()
    embed, embedder_files = check_options(
        table.tiers,
        out,
        objective=objective,
        confidence=confidence,
        embedder=embedder,
        estimator=estimator,
        safe_tier=safe_tier,
        track=track,
    )

    # Split and embed; test rows are not looked at, and some training rows only certify.
    prior = Prior.for_embedder(embed) if warm_start else None
    cold: list[str] = []
    if prior is not None and prior.has_seen(table.query):
        prior = None
        cold.append(
            "some of these queries are among those that the prior on difficulty was fitted on; it "
            "was left out, since it would flatter the certificate and the evaluation."
        )
    rows = prepare(table, embed, seed, say, None if prior is None else prior.gram_weight)
    data, fitting = rows.data, rows.fitting
    refs = rows.refs
    design = Design.of(data, refs.all, None if prior is None else prior.weight)

    # Fit costs, then success: the family whose predictions decide best.
    say(f"fitting costs on {fitting.n_requests:,} requests")
    feedback = read_feedback(rows, seed)
    costs = fit_cost(data, design, fitting, price_book or PriceBook(), feedback.weight)
    automatic = AUTO_FAMILIES_WITH_TASKS if data.n_tasks else AUTO_FAMILIES
    families = feedback.families(automatic if estimator == AUTO else (estimator,))
    fitted = fit_success(
        data,
        design,
        refs,
        fitting.success,
        fitting.observed,
        families,
        say,
        other_success=fitting.other_success,
        weight=feedback.weight,
    )
    candidates = {
        family: feedback.compared(fitted[family].cross_fitted, costs.cross_fitted)
        for family in families
    }
    # Pseudo-outcomes of a log may stray beyond 0 and 1.
    tier_success = candidates[families[0]].success.mean(axis=0).clip(0.0, 1.0)
    tier_cost = costs.means.dollars(costs.estimator)
    strongest = int(np.lexsort((tier_cost, -tier_success))[0])  # of equals the cheapest
    floor = objective.floor(table.tiers, strongest)
    family, values = pick_family(objective, floor, candidates, seed)
    escalation = feedback.escalation(fitted[family].cross_fitted, data.fold)
    similarity = refs.similarity(data) if similarity_limit else None
    predictor = Predictor(
        embed,
        rows.input_map,
        fitted[family].estimator,
        costs.estimator,
        refs.all,
        NO_SIMILARITY if similarity is None else min_similarity(similarity, SHARE_OUTSIDE / 2),
        coverage_of(
            fitting.query.tolist(),
            data.fold,
            SHARE_OUTSIDE / 2,
            similarity,
            MIN_WORDS_ANYWHERE if similarity is None else 1,
        ),
        feedback.support,
    )

    # Choose the policy on rows that nothing above has seen.
    held = rows.held.query.tolist()
    say(f"certifying on {len(held):,} calibration requests")
    predictions = predictor.predict_embedded(held, rows.held_vectors)
    calibration, kept = feedback.calibration(predictions)
    options: dict[str, Any] = {
        "tiers": table.tiers,
        "tier_success": tier_success,
        "tier_cost_usd": tier_cost,
        "strongest": strongest,
        "safe_tier": strongest if safe_tier is None else table.tiers.index(safe_tier),
        "confidence": confidence,
    }
    choice = choose_policy(objective, calibration, **options)
    menu = floor_menu(objective, calibration, **options)
    feedback_facts, heard = feedback.facts(choice.policy)

    # Package.
    say("writing the artifact")
    manifest = package.save_router(
        Path(out),
        tiers=table.tiers,
        predictor=predictor,
        choice=choice,
        objective=objective,
        menu=menu,
        calibration=calibration,
        calibration_tokens=package.calibration_tokens(
            predictor, [held[row] for row in kept], rows.held_vectors[kept]
        ),
        facts=package.TrainingFacts(
            name=name,
            fingerprint=package.fingerprint(rows.train, rows.hashes),
            # Evaluation leaves out what either was made from.
            query_hashes=rows.hashes
            if prior is None
            else np.concatenate((rows.hashes, prior.query_hashes)),
            tier_success=tier_success,
            tier_means=costs.means,
            counts={**rows.counts, "n_calibration": len(calibration)},
            feedback=feedback_facts,
            split={"source": rows.split.source},
            read_report=table.report.to_dict(),
            family=family,
            family_values=values,
            seed=seed,
            price_date=datetime.now(UTC).date().isoformat(),
            logged_price_ratio=costs.priced_over_logged,
            metrics=fit_metrics(fitted[family].cross_fitted, costs.cross_fitted, fitting)
            | escalation.metrics,
            synthetic=synthetic,
            prior=None if prior is None else {"sha256": prior.digest, "sets": list(prior.sets)},
        ),
        embedder_files=embedder_files,
        escalation=escalation.estimator,
        key=key,
    )
    run = None
    if track:
        say("logging the run to MLflow")
        run = experiment.log_artifact(manifest, Path(out))
    said = (*cold, *costs.warnings, *rows.warnings(table.tiers), *heard, *choice.warnings)
    return TrainResult(manifest, Path(out), list(said), run)


def check_options(
    tiers: TierSet,
    out: str | Path,
    *,
    objective: Objective,
    confidence: float,
    embedder: str | Path,
    estimator: str,
    safe_tier: str | None,
    track: bool,
) -> tuple[Embedder, dict[str, bytes]]:
    """Refuse what cannot be trained with, before hours of work; gives the embedder and its files.

    Worth asking before a long log is read, too. Raises InputError.
    """
    if estimator != AUTO and estimator not in FAMILIES:
        raise InputError(
            f"expected an estimator among {AUTO}, {', '.join(FAMILIES)}, got {estimator!r}: "
            "choose one of them."
        )
    if not 0.5 <= confidence < 1.0:
        raise InputError(f"expected a confidence from 0.5 to 1, got {confidence:g}: try 0.95.")
    objective.floor(tiers, 0)  # refuses an unknown tier
    if safe_tier is not None:
        tiers.index(safe_tier)
    check_destination(out)
    if track:
        experiment.tracking_store()
    return package.open_embedder(embedder)
