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
from router.errors import InputError
from router.predictor import Predictor, inputs
from router.prices import PriceBook
from router.query_features import query_features_many
from training import experiment, package
from training.costs import fit_cost
from training.features import embed_queries
from training.fit import FAMILIES, fit_metrics, fit_success
from training.inputs import Inputs
from training.neighbours import References
from training.search import (
    DEFAULT_CONFIDENCE,
    Objective,
    Rows,
    choose_policy,
    floor_menu,
    pick_family,
)
from training.split import fitting_calibration, fold_ids, query_hashes, split_table
from training.table import OutcomeTable

AUTO = "auto"
# Candidates of `auto`, the simplest first.
AUTO_FAMILIES = ("logistic", "knn", "mlp", "blend")
N_FOLDS = 5
# One query in a thousand of the training traffic itself counts as unlike the rest: such queries go
# to the safe tier, which may cost thirty times the one they would get.
SHARE_OUTSIDE = 0.001
# Fewer rows could neither be fitted and cross-fitted nor tested.
MIN_COMPLETE_REQUESTS = 30

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
        table: Outcomes; its ``split`` column is respected where there is one.
        out: Folder of the artifact; an older artifact there is replaced atomically.
        objective: What to optimise; by default a floor 5 points below the strongest tier.
        confidence: Of the floor's certificate.
        embedder: "static", a folder, or the name of a sentence-transformers model.
        estimator: "auto" (by cross-validated decision value) or a family's name.
        safe_tier: Tier for queries unlike the training ones; by default the strongest.
        seed: Of folds, centroids and networks.
        price_book: Where today's prices of token-priced tiers come from.
        key: Signs the artifact's manifest.
        name: Of the data, for the manifest.
        synthetic: Whether the outcomes are made up, for the manifest.
        track: Log the run to MLflow.
        on_progress: Told each stage as it begins.

    Raises:
        InputError: too few requests with every tier's outcome, a missing cost, an unknown name.
    """
    say = on_progress or (lambda message: None)
    objective = objective or Objective()
    _check_options(estimator, confidence)
    objective.floor(table.tiers, 0)  # refuses an unknown tier now rather than later
    asked_safe_tier = None if safe_tier is None else table.tiers.index(safe_tier)
    check_destination(out)
    if track:
        experiment.tracking_store()  # fails before the work, not after it
    embed, embedder_files = package.open_embedder(embedder)

    # Split: test rows are not looked at; of the training rows, some only calibrate.
    split = split_table(table)
    train_rows = table.take(split.train)
    train_rows.require_costs()
    hashes = query_hashes(train_rows.query)
    # An order that knows nothing of outcomes, nor of the file's order.
    order = np.lexsort((query_hashes(train_rows.request_id), hashes))
    train_rows, hashes = train_rows.take(order), hashes[order]
    calibrates = fitting_calibration(hashes)
    _check_enough(train_rows, hashes, calibrates)
    fitting, fit_hashes = train_rows.take(~calibrates), hashes[~calibrates]
    held = train_rows.take(calibrates & train_rows.complete)

    # Embed.
    say(f"embedding {train_rows.n_requests:,} queries")
    vectors = embed_queries(embed, list(train_rows.query))
    features = query_features_many(list(train_rows.query))
    folds = fold_ids(fit_hashes, min(N_FOLDS, len(np.unique(fit_hashes))), seed)
    data = Inputs(
        vectors[~calibrates], inputs(vectors[~calibrates], features[~calibrates]), folds, seed
    )
    refs = References.of(data)

    # Fit costs, then success: the family whose predictions decide best.
    say(f"fitting costs on {fitting.n_requests:,} requests")
    costs = fit_cost(data, fitting, price_book or PriceBook())
    complete = fitting.complete
    tier_success = fitting.success[complete].mean(axis=0)
    strongest = int(tier_success.argmax())
    floor = objective.floor(table.tiers, strongest)
    families = AUTO_FAMILIES if estimator == AUTO else (estimator,)
    fitted = fit_success(data, refs, fitting.success, fitting.observed, families, say)
    candidates = {
        family: Rows(
            fitted[family].cross_fitted[complete],
            costs.cross_fitted[complete],
            fitting.success[complete],
            fitting.cost_usd[complete],
        )
        for family in families
    }
    log_losses = {family: fitted[family].log_loss for family in families}
    family, values = pick_family(objective, floor, candidates, log_losses, seed)
    predictor = Predictor(
        embed,
        fitted[family].estimator,
        costs.estimator,
        refs.all,
        refs.min_similarity(data, SHARE_OUTSIDE),
    )

    # Choose the policy on rows that nothing above has seen.
    say(f"certifying on {held.n_requests:,} calibration requests")
    kept = calibrates & train_rows.complete
    predictions = predictor.predict_embedded(vectors[kept], features[kept])
    calibration = package.calibration_rows(predictions, held.success, held.cost_usd)
    options: dict[str, Any] = {
        "tiers": table.tiers,
        "tier_success": tier_success,
        "tier_cost_usd": costs.means.dollars(costs.estimator),
        "strongest": strongest,
        "safe_tier": strongest if asked_safe_tier is None else asked_safe_tier,
        "confidence": confidence,
    }
    choice = choose_policy(objective, calibration, **options)
    menu = floor_menu(objective, calibration, **options)

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
            predictor, inputs(vectors[kept], features[kept])
        ),
        facts=package.TrainingFacts(
            name=name,
            fingerprint=package.fingerprint(train_rows, hashes),
            query_hashes=hashes,
            tier_success=tier_success,
            tier_means=costs.means,
            counts={
                "n_fitting": fitting.n_requests,
                "n_calibration": held.n_requests,
                "n_test": int(split.test.sum()),
                "n_left_out_as_leaked": split.n_leaked,
            },
            split={"source": split.source},
            read_report=table.report.to_dict(),
            family=family,
            family_values=values,
            seed=seed,
            price_date=datetime.now(UTC).date().isoformat(),
            logged_price_ratio=costs.priced_over_logged,
            metrics=fit_metrics(fitted[family].cross_fitted, costs.cross_fitted, fitting),
            synthetic=synthetic,
        ),
        embedder_files=embedder_files,
        key=key,
    )
    run = None
    if track:
        say("logging the run to MLflow")
        run = log_run(manifest, Path(out))
    return TrainResult(manifest, Path(out), [*costs.warnings, *choice.warnings], run)


def log_run(manifest: dict[str, Any], folder: Path) -> experiment.RunInfo:
    """Log a saved artifact to MLflow: everything comes from its manifest."""
    training, certificate = manifest["training"], manifest["certificate"] or {}
    metrics = {**manifest["metrics"]}
    for name in ("success_rate", "cost_usd_per_request"):
        if certificate:
            metrics[f"calibration.{name}"] = certificate[name]
    summary = {name: value for name, value in training.items() if name.startswith("n_")}
    return experiment.log_training(
        parameters={
            "objective": manifest["objective"],
            "confidence": certificate.get("confidence"),
            "estimator": manifest["estimator"]["family"],
            "embedder": manifest["embedder"]["id"],
            "seed": manifest["estimator"]["seed"],
            "policy": manifest["policy"]["description"],
        },
        metrics=metrics,
        dataset_name=training["name"],
        dataset_fingerprint=training["fingerprint"],
        dataset_summary=summary,
        manifest=manifest,
        artifact_dir=folder,
        floor_menu=manifest["floor_menu"],
    )


def _check_options(estimator: str, confidence: float) -> None:
    if estimator != AUTO and estimator not in FAMILIES:
        raise InputError(
            f"expected an estimator among {AUTO}, {', '.join(FAMILIES)}, got {estimator!r}: "
            "choose one of them."
        )
    if not 0.5 <= confidence < 1.0:
        raise InputError(f"expected a confidence from 0.5 to 1, got {confidence:g}: try 0.95.")


def _check_enough(train_rows: OutcomeTable, hashes: Any, calibrates: Any) -> None:
    if train_rows.n_requests == 0:
        raise InputError(
            "expected training requests, got none: every request is in the test split, or shares "
            "its text with one; mark rows as train in the split column or log other queries."
        )
    complete = train_rows.complete
    if complete.sum() < MIN_COMPLETE_REQUESTS:
        raise InputError(
            f"expected at least {MIN_COMPLETE_REQUESTS} training requests with the outcome of "
            f"every tier ({', '.join(train_rows.tiers.names)}), got {int(complete.sum())} of "
            f"{train_rows.n_requests}: without them no policy can be compared or certified; "
            "run the same queries on every tier."
        )
    fits, texts = ~calibrates, len(np.unique(hashes))
    divided = (complete & fits).any() and (complete & calibrates).any()
    if not divided or len(np.unique(hashes[fits])) < 2:  # a text is on one side only
        raise InputError(
            f"expected different queries to fit on and to certify on, got {texts} different texts "
            f"in {train_rows.n_requests} training requests: log more different queries."
        )
