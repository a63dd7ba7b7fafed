"""``cps-router ledger``: what was spent and saved, feedback, and outcomes to train on again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from router.cli_parts import JsonFlag, emit, print_json, warn
from router.errors import InputError, LedgerError, OutcomeError
from router.ledger.place import DEFAULT_LEDGER, LEDGER_VARIABLE
from router.since import parse_since

if TYPE_CHECKING:
    from router.ledger import Ledger

ledger_app = typer.Typer(
    help="The ledger: what was spent and saved, feedback, and outcomes to train on again.",
    no_args_is_help=True,
)

Place = Annotated[
    str | None,
    typer.Argument(
        metavar="[LEDGER]",
        help=f"Path, sqlite:///PATH or postgresql://... [default: {LEDGER_VARIABLE}, else "
        f"{DEFAULT_LEDGER}]",
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        help="Only requests since this ISO 8601 date or time, or of the last 7d, 24h, ..."
    ),
]

_LINES_AT_A_TIME = 500
# What takes longer says so.
_SILENT_S = 2.0


@ledger_app.command()
def report(
    ledger: Place = None,
    since: Since = None,
    by: Annotated[
        str, typer.Option(help="Rows of the table: some of day, model and tier, with commas.")
    ] = "day,model,tier",
    confidence: Annotated[float, typer.Option(help="Of the discount's interval.")] = 0.95,
    as_json: JsonFlag = False,
) -> None:
    """Requests, success, cost and cost per success; and what was saved, part by part.

    The saving is against always using the strongest tier without prompt cache and batch, and its
    parts add up to the last nanodollar. What is unknown is counted, never taken for free.
    """
    moment = _moment(since)
    with _opened(ledger) as opened, _patience() as say:
        from router.ledger.report import report as add_up

        names = [name.strip() for name in by.split(",") if name.strip()]
        found = add_up(opened, since=moment, by=names, confidence=confidence, on_progress=say)
    if as_json:
        print_json(found.to_dict())
    else:
        from router.ledger.text import report_text

        emit(report_text(found))


@ledger_app.command()
def export(
    ledger: Place = None,
    out: Annotated[str, typer.Option(help='File of JSON lines; "-" is stdout.')] = "-",
    since: Since = None,
    accepted_is_success: Annotated[
        bool,
        typer.Option(
            "--accepted-is-success",
            help="Every answer is verified: without feedback, an accepted one is a success and a "
            "rejected one a failure.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what became of the attempts as JSON, on stderr.")
    ] = False,
) -> None:
    """Outcomes to train on: cps-router ledger export | cps-router train - --tiers T --out DIR.

    First attempts with a known success and query, on the tier that the router chose, at what they
    cost without a batch, or with their tokens where no price was known; what is
    left out is counted by reason on stderr.
    """
    moment = _moment(since)
    with _opened(ledger) as opened, _patience() as say:
        from router.ledger.export import Export

        rows = Export(opened, since=moment, accepted_is_success=accepted_is_success)
        if out == "-":
            for lines in _in_bundles(rows, say):
                emit("\n".join(lines))
        else:
            _write(Path(out), _in_bundles(rows, say))
    if as_json:
        counts = {
            "n_requests": rows.n_requests,
            "n_rows": rows.n_rows,
            "left_out": dict(rows.left_out.most_common()),
        }
        typer.echo(json.dumps(counts), err=True)
        return
    why = ", ".join(f"{n:,} x {reason}" for reason, n in rows.left_out.most_common())
    warn(f"{rows.n_rows:,} rows of {rows.n_requests:,} requests; left out: {why or 'nothing'}")


@ledger_app.command()
def feedback(
    ledger: Annotated[str, typer.Argument(help="Path or URL of the ledger.")],
    request_id: Annotated[str | None, typer.Argument(help="The request.")] = None,
    success: Annotated[
        bool | None, typer.Option("--success/--failure", help="Whether the answer succeeded.")
    ] = None,
    score: Annotated[float | None, typer.Option(help="A score beside it.")] = None,
    source: Annotated[
        str, typer.Option(help="Who says so; one feedback is kept per source.")
    ] = "user",
    at: Annotated[str | None, typer.Option(help="When, ISO 8601. [default: now]")] = None,
    file: Annotated[
        str | None,
        typer.Option(
            help="JSON lines with request_id and success (true, false or 0..1), and maybe score, "
            'source and at; "-" reads stdin.'
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say how far a request succeeded; the latest of each source counts."""
    one = request_id is not None
    if one == (file is not None) or one != (success is not None):
        raise InputError(
            "expected either a REQUEST_ID with --success or --failure, or --file: see cps-router "
            "ledger feedback --help."
        )
    if not one and (score is not None or at is not None):
        raise InputError(
            "expected --score and --at with one REQUEST_ID, got them with --file: write score and "
            "at into its lines."
        )
    rows: Iterable[tuple[int, dict[str, Any]]]
    if file is None:
        given = {"request_id": request_id, "success": success, "score": score, "at": at}
        rows = [(0, {**given, "source": source})]
    else:
        rows = _feedback_rows(file, source)
    n = n_unknown = 0
    with _opened(ledger) as opened, _patience() as say:
        for line, row in rows:
            known = _give(opened, row, line)
            n, n_unknown = n + 1, n_unknown + (not known)
            if n % 1000 == 0:
                say(f"feedback: {n:,} rows")
    if as_json:
        print_json({"n_feedback": n, "n_unknown_requests": n_unknown})
        return
    emit(f"{n:,} feedback kept")
    if n_unknown:
        emit(f"{n_unknown:,} of them on requests that are not recorded (yet)")


@ledger_app.command()
def erase(
    ledger: Annotated[str, typer.Argument(help="Path or URL of the ledger.")],
    before: Annotated[
        str, typer.Option(help="ISO 8601 date or time, or 30d: what is older than 30 days.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Erase the queries of older requests; costs and feedback stay.

    Prompts and answers of batch jobs stay too: cps-router batch results JOB --forget erases them.
    """
    moment = _moment(before, "--before")
    assert moment is not None
    with _opened(ledger) as opened:
        n = opened.erase_queries(before=moment)
        n_batch = opened.n_batch_texts()
    if as_json:
        print_json({"n_erased": n, "before": moment.isoformat(), "n_batch_texts_left": n_batch})
        return
    emit(f"{n:,} queries erased")
    if n_batch:
        emit(
            f"{n_batch:,} rows of batch jobs keep their prompt or answer: cps-router batch results "
            "JOB --forget erases those of a job"
        )


@ledger_app.command()
def reprice(
    ledger: Place = None,
    prices: Annotated[
        str | None, typer.Option(metavar="FILE", help="A price file (docs/prices.md).")
    ] = None,
    tiers: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="The tiers file: prices of its own, and which tier is what."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fill in costs that were unknown for want of a price; those that were recorded stay.

    At the prices of each attempt's day, of attempts whose usage is known; then baselines. It may be
    repeated.
    """
    from router.prices import PriceBook
    from router.tiers import TierSet

    book = PriceBook(prices)
    tier_set = None if tiers is None else TierSet.from_toml(tiers)
    with _opened(ledger) as opened, _patience() as say:
        from router.ledger.reprice import reprice as fill_in

        say("pricing what has no cost")
        found = fill_in(opened, book, tier_set)
    if as_json:
        print_json(found.to_dict())
        return
    emit(f"{found.n_costs:,} attempts got a cost, {found.n_baselines:,} requests a baseline")
    for model, n in found.no_price.most_common():
        emit(f"{n:,} attempts have no price yet: {model}")
    if found.n_no_usage:
        emit(f"{found.n_no_usage:,} attempts stay unknown: nobody said what they used")


@ledger_app.command()
def replay(
    ledger: Annotated[str, typer.Argument(help="Path or URL of the ledger.")],
    spill: Annotated[Path, typer.Argument(help="File that a client spilled records to.")],
    as_json: JsonFlag = False,
) -> None:
    """Take in what a client had to spill to a file while the ledger was down.

    The file stays as it is, and may be taken in again: delete it when you like.
    """
    from router.client.spill import replay_spill

    with _opened(ledger) as opened, _patience() as say:
        say(f"replaying {spill.name}")
        n = replay_spill(spill, opened)
    if as_json:
        print_json({"n_records": n})
    else:
        emit(f"{n:,} records taken in")


@contextmanager
def _opened(place: str | None) -> Iterator[Ledger]:
    """A ledger that is there already: a mistyped name makes none."""
    from router.ledger import Ledger

    with Ledger(place, create=False) as ledger:
        yield ledger


def _moment(text: str | None, option: str = "--since") -> datetime | None:
    if text is None:
        return None
    found = parse_since(text, "now", option)
    if isinstance(found, timedelta):
        try:
            found = datetime.now(UTC) - found
        except OverflowError:
            found = datetime.min.replace(tzinfo=UTC)
    return max(found, datetime(1970, 1, 1, tzinfo=UTC))


@contextmanager
def _patience() -> Iterator[Any]:
    """A function that says on stderr what is being done, once it has taken a while."""
    stage = ["reading the ledger"]
    loud = threading.Event()

    def speak() -> None:
        loud.set()
        warn(f"{stage[0]} ...")

    def say(message: str) -> None:
        stage[0] = message
        if loud.is_set():
            warn(f"{message} ...")

    timer = threading.Timer(_SILENT_S, speak)
    timer.daemon = True
    timer.start()
    try:
        yield say
    finally:
        timer.cancel()


def _in_bundles(rows: Any, say: Any) -> Iterator[list[str]]:
    """Lines of some outcomes at a time."""
    lines: list[str] = []
    for outcome in rows:
        # ASCII, so that every text survives.
        lines.append(json.dumps(outcome.to_mapping(), allow_nan=False))
        if len(lines) == _LINES_AT_A_TIME:
            yield lines
            lines = []
            if rows.n_rows % 100_000 == 0:
                say(f"exporting: {rows.n_rows:,} rows")
    if lines:
        yield lines


def _write(out: Path, bundles: Iterable[list[str]]) -> None:
    partial = out.with_name(out.name + ".partial")
    try:
        with partial.open("w", encoding="ascii", newline="\n") as file:
            for lines in bundles:
                file.write("\n".join(lines) + "\n")
        partial.replace(out)
    except OSError as error:
        raise InputError(
            f"expected to write outcomes to {out}, got {error.strerror or 'an error'}: choose "
            "another file, or make room."
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _feedback_rows(file: str, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    from router.outcomes import STDIN, open_binary, unreadable

    path = STDIN if file == "-" else Path(file)
    try:
        with open_binary(path) as lines:
            yield from _parse(lines, source)
    except OSError as error:
        raise unreadable(path, error, "feedback") from None


def _parse(lines: IO[bytes], source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(
                f"expected a JSON object in line {number} of the feedback, got something else: "
                "mend the line; those before it were kept, and may be given again."
            )
        given = row.get("source")
        yield number, {**row, "source": source if given is None else given}


def _give(ledger: Ledger, row: dict[str, Any], line: int) -> bool:
    from router.outcomes import label, number_of, success_of, time_of

    try:
        success, _ = success_of(row)
        return ledger.feedback(
            label(row.get("request_id"), "request_id") or "",
            success,
            score=number_of(row.get("score"), "score", low=float("-inf")),
            source=label(row.get("source"), "source") or "user",
            at=time_of(row.get("at")),
        )
    except LedgerError:
        raise
    except InputError as error:
        where = f"line {line}: " if line else ""
        told = f"expected feedback that can be kept, but {error}: correct it."
        raise InputError(f"{where}{told if isinstance(error, OutcomeError) else error}") from None
