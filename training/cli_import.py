"""``cps-router import FORMAT SOURCE --out FILE``: outcomes out of the logs people already keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli import emit
from router.errors import InputError
from training.cli_parts import JsonFlag, extra, print_json, progress

if TYPE_CHECKING:
    from router.embedding import Embedder
    from training.importers.core import ImportReport, Item
    from training.importers.verdicts import Rule

import_app = typer.Typer(
    help="Outcomes from LiteLLM, Langfuse, MLflow or OpenTelemetry, to train and evaluate on; or "
    "from outcomes, to leave their text out.",
    no_args_is_help=True,
)

Source = Annotated[Path, typer.Argument(help="The exported log.")]
Out = Annotated[Path, typer.Option(help="Outcomes as JSON lines (.jsonl).")]
Score = Annotated[
    str | None,
    typer.Option(
        help="Only scores of this name count. Of several on one call a person's goes before an "
        "automatic one, then the last by time counts."
    ),
]
Threshold = Annotated[float | None, typer.Option(help="A numeric score from here on is a success.")]
Labels = Annotated[
    list[str] | None,
    typer.Option(help="A label that is a success; others are failures. Can be repeated."),
]


class StoreAs(StrEnum):
    """What is written of a query."""

    TEXT = "text"
    VECTORS = "vectors"


Store = Annotated[
    StoreAs,
    typer.Option(
        help="What is written of a query: its text, or in place of it the vector, features and "
        "hashed words that training reads (no anonymisation: see docs/privacy.md)."
    ),
]
EmbedderName = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        help='With --store vectors: "static", a folder, or a sentence-transformers model; train '
        "with the same. [default: static]",
    ),
]


@import_app.command()
def litellm(
    source: Source,
    out: Out,
    feedback: Annotated[
        Path | None,
        typer.Option(
            help="Feedback, which LiteLLM does not log: JSON lines or CSV with id, request_id or "
            "litellm_call_id, and success or score (and maybe name, label, at, source)."
        ),
    ] = None,
    score: Score = None,
    success_threshold: Threshold = None,
    success_label: Labels = None,
    store: Store = StoreAs.TEXT,
    embedder: EmbedderName = None,
    as_json: JsonFlag = False,
) -> None:
    """LiteLLM: StandardLoggingPayload as JSON lines, or the table SpendLogs as CSV or Parquet.

    Prompts are only there if the proxy stored them (store_prompts_in_spend_logs).
    """
    if feedback is None:
        raise InputError(
            "expected --feedback FILE, since LiteLLM logs no feedback: give JSON lines or CSV with "
            "id, request_id or litellm_call_id, and success or score."
        )
    with extra("train"):
        from training.importers.core import check_out
        from training.importers.litellm import read_calls, read_feedback
    check_out(out, source, feedback)
    embeds = _embedder(store, embedder)
    with progress() as say:
        say(f"reading {feedback.name}: feedback")
        known, bad = read_feedback(feedback, _rule(score, success_threshold, success_label))
        report = _write(read_calls(source, known), out, source.name, say, embeds)
    _show(report, as_json, {"feedback": (len(known), bad)})


@import_app.command()
def langfuse(
    source: Source,
    out: Out,
    scores: Annotated[
        Path | None, typer.Option(help="The exported scores (JSON lines or a JSON array).")
    ] = None,
    score: Score = None,
    success_threshold: Threshold = None,
    success_label: Labels = None,
    store: Store = StoreAs.TEXT,
    embedder: EmbedderName = None,
    as_json: JsonFlag = False,
) -> None:
    """Langfuse: exported observations (JSON lines or a JSON array) and their scores.

    A score on the observation goes before one on its trace, and that before one on its session.
    """
    if scores is None:
        raise InputError(
            "expected --scores FILE, since an observation does not carry its scores: export them "
            "as JSON as well."
        )
    with extra("train"):
        from training.importers.core import check_out
        from training.importers.langfuse import read_calls, read_scores
    check_out(out, source, scores)
    embeds = _embedder(store, embedder)
    with progress() as say:
        say(f"reading {scores.name}: scores")
        known, bad = read_scores(scores, _rule(score, success_threshold, success_label))
        report = _write(read_calls(source, known), out, source.name, say, embeds)
    _show(report, as_json, {"scores": (len(known), bad)})


@import_app.command()
def mlflow(
    source: Annotated[
        str, typer.Argument(help="Tracking URI, or the path of a SQLite database of MLflow's.")
    ],
    out: Out,
    experiment: Annotated[
        str | None, typer.Option(help="Name of the experiment. [default: all of them]")
    ] = None,
    score: Score = None,
    success_threshold: Threshold = None,
    success_label: Labels = None,
    store: Store = StoreAs.TEXT,
    embedder: EmbedderName = None,
    as_json: JsonFlag = False,
) -> None:
    """MLflow: the traces of a tracking store, with the feedback among their assessments."""
    with extra("train"):
        from training.experiment import masked
        from training.importers.core import check_out
        from training.importers.mlflow import read_calls
    check_out(out, Path(source))
    embeds = _embedder(store, embedder)
    rule = _rule(score, success_threshold, success_label)
    with progress() as say:
        report = _write(read_calls(source, rule, experiment), out, masked(source), say, embeds)
    _show(report, as_json)


@import_app.command()
def otel(
    source: Source,
    out: Out,
    evaluations: Annotated[
        Path | None,
        typer.Option(help="Log records with gen_ai.evaluation.result, where in another file."),
    ] = None,
    score: Score = None,
    success_threshold: Threshold = None,
    success_label: Labels = None,
    store: Store = StoreAs.TEXT,
    embedder: EmbedderName = None,
    as_json: JsonFlag = False,
) -> None:
    """OpenTelemetry: GenAI or OpenInference spans as OTLP JSON, with their evaluations.

    The tokens are written, and priced by the tiers file or the price book when outcomes are read.
    """
    with extra("train"):
        from training.importers.core import check_out
        from training.importers.otel import evaluations_of, read_calls
    files = [source] if evaluations is None else [source, evaluations]
    check_out(out, *files)
    embeds = _embedder(store, embedder)
    with progress() as say:
        say("reading evaluations: log records")
        known = evaluations_of(_rule(score, success_threshold, success_label), *files)
        report = _write(read_calls(source, known), out, source.name, say, embeds)
    _show(report, as_json, {"evaluations": (len(known), {})})


@import_app.command()
def outcomes(
    source: Annotated[Path, typer.Argument(help="Outcomes: .jsonl, .csv or .parquet.")],
    out: Out,
    success_threshold: Annotated[
        float | None, typer.Option(help='Success is "score >= threshold" where a score is logged.')
    ] = None,
    store: Store = StoreAs.TEXT,
    embedder: EmbedderName = None,
    as_json: JsonFlag = False,
) -> None:
    """Outcomes that you already have, as JSON lines; with --store vectors, without their text.

    Rows that store their query already stay as they are. Columns of your own are left out.
    """
    with extra("train"):
        from training.importers.core import check_out
        from training.importers.outcomes import read_calls
    check_out(out, source)
    embeds = _embedder(store, embedder)
    with progress() as say:
        report = _write(read_calls(source, success_threshold), out, source.name, say, embeds)
    _show(report, as_json)


def _embedder(store: StoreAs, name: str | None) -> Embedder | None:
    """The embedder that queries are stored with; None where their text is written."""
    if store is StoreAs.TEXT:
        if name is not None:
            raise InputError(
                f"expected --store vectors with --embedder {name}, got --store text: add it, or "
                "leave the embedder out."
            )
        return None
    with extra("train"):
        from router.embedding import load_embedder
    return load_embedder("static" if name is None else name)


def _rule(name: str | None, threshold: float | None, labels: list[str] | None) -> Rule:
    from training.importers.verdicts import Rule

    return Rule(name, threshold, frozenset(label.strip().casefold() for label in labels or ()))


def _write(
    items: Iterable[Item], out: Path, source: str, say: object, embedder: Embedder | None
) -> ImportReport:
    from training.importers.core import write_outcomes

    assert callable(say)
    return write_outcomes(
        items,
        out,
        source=source,
        embedder=embedder,
        on_progress=lambda rows: say(f"importing {source}: {rows:,} rows"),
    )


def _show(
    report: ImportReport,
    as_json: bool,
    joined: Mapping[str, tuple[int, Mapping[str, int]]] | None = None,
) -> None:
    """The report; ``joined`` has, by name of a joined file, its ids and what it lost by reason."""
    joined = joined or {}
    if as_json:
        extra_keys: dict[str, object] = {}
        for name, (n_ids, lost) in joined.items():
            extra_keys |= {f"n_{name}": n_ids, f"{name}_rejected": dict(lost)}
        print_json({**report.to_dict(), **extra_keys})
        return
    lines = [
        f"outcomes: {report.n_outcomes:,} of {report.n_rows:,} rows, in {report.out}",
        f"  with a cost: {report.n_with_cost:,}, with a propensity: {report.n_with_propensity:,}",
    ]
    if report.n_not_calls:
        lines.append(f"passed over, no calls to a model: {report.n_not_calls:,} rows")
    if report.reasons:
        where = f", listed in {report.rejects_path}" if report.rejects_path else ""
        lines.append(f"not mapped: {report.n_rejected:,} rows{where}")
        lines += [f"  {count:>9,}  {reason}" for reason, count in report.reasons.items()]
    for name, (n_ids, lost) in joined.items():
        reasons = "; ".join(f"{count:,} rows: {reason}" for reason, count in lost.items())
        lines.append(f"{name}: on {n_ids:,} ids" + (f"; left out {reasons}" if reasons else ""))
    emit("\n".join(lines))
