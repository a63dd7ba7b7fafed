"""``cps-router batch``: hand in prompts that can wait, look, collect, cancel."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli_parts import JsonFlag, emit, print_json, warn
from router.errors import InputError
from router.ledger.place import DEFAULT_LEDGER, LEDGER_VARIABLE

if TYPE_CHECKING:
    from router.batch import BatchJobs
    from router.batch.report import JobStatus

batch_app = typer.Typer(
    help="Prompts that can wait: half the price, routed, durable, never paid twice.",
    no_args_is_help=True,
)

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])\Z", re.ASCII)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
# What takes longer says so, and again so often.
_SILENT_S = 2.0

LedgerFlag = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        help=f"Path, sqlite:///PATH or postgresql://... [default: {LEDGER_VARIABLE}, else "
        f"{DEFAULT_LEDGER}]",
    ),
]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Its id, as submit prints it.")]
Prices = Annotated[
    str | None, typer.Option("--prices", help="A price file with dates (docs/prices.md).")
]


@batch_app.command()
def submit(
    rows: Annotated[
        str,
        typer.Argument(
            metavar="IN.jsonl",
            help='JSON lines with "query" or "messages", and maybe "request_id", "session", '
            '"task", "tools", "temperature" and "max_output_tokens".',
        ),
    ],
    artifact: Annotated[
        str | None,
        typer.Option(help='Router that chooses each row\'s tier; "default" is the one that ships.'),
    ] = None,
    tier: Annotated[str | None, typer.Option(help="Send every row to this tier.")] = None,
    tiers: Annotated[
        str | None, typer.Option(help="Tiers file that --tier is of, without an artifact.")
    ] = None,
    deadline: Annotated[
        str,
        typer.Option(
            help="When answers are wanted (30m, 6h, 24h, 2d). A provider whose batches have been "
            "taking longer is asked one by one."
        ),
    ] = "24h",
    max_cost: Annotated[
        float | None,
        typer.Option(
            "--max-cost", help="Dollars that the job may cost, by what its rows are expected to."
        ),
    ] = None,
    max_attempts: Annotated[int, typer.Option(help="How often a row is tried.")] = 3,
    name: Annotated[
        str, typer.Option(help="Tells apart jobs of one input, which are otherwise the same job.")
    ] = "",
    prices: Prices = None,
    ledger: LedgerFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Route rows at batch prices, hand them in, and return.

    The same input with the same options is the same job: after an interruption say it again. Of
    --max-cost and --max-attempts the latest hold, so that a limit can be raised.

      cps-router batch submit prompts.jsonl --artifact my-router --deadline 24h

      cps-router batch resume JOB --wait

      cps-router batch results JOB --out answers.jsonl
    """
    seconds = _seconds(deadline)
    if (artifact is None) == (tier is None) or (tier is None and tiers is not None):
        raise InputError(
            "expected either --artifact A, or --tier T with --tiers TIERS.toml, got "
            f"{'neither' if artifact is None and tier is None else 'another combination'}: see "
            "cps-router batch submit --help."
        )
    options: dict[str, Any] = {}
    if artifact is not None:
        from router.routing import Router

        where = None if artifact == "default" else artifact
        options["router"] = Router.load(where, price_book=_book(prices))
    else:
        if tiers is None:
            raise InputError("expected --tiers TIERS.toml with --tier, got none: name the file.")
        from router.tiers import TierSet

        options["tiers"] = TierSet.from_toml(tiers)
    with _jobs(ledger, prices, create=True, **options) as jobs:
        status = jobs.submit(
            rows,
            tier=tier,
            deadline_s=seconds,
            max_cost_usd=max_cost,
            max_attempts=max_attempts,
            name=name,
        )
    _show(status, as_json)


@batch_app.command()
def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="One job.")] = None,
    ledger: LedgerFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """How a job stands, or all of them, as it was last looked at; asks no provider."""
    with _jobs(ledger) as jobs:
        found = jobs.jobs() if job is None else [jobs.status(job)]
    if as_json and job is None:
        print_json({"jobs": [one.to_dict() for one in found]})
    elif job is not None:
        _show(found[0], as_json)
    else:
        for one in found:
            n = sum(one.rows.values())
            emit(f"{one.job_id}  {one.created:%Y-%m-%d %H:%M}  {one.state}  {n:,} rows")
        if not found:
            emit("no jobs")


@batch_app.command()
def results(
    job: Job,
    out: Annotated[str, typer.Option(help='File of JSON lines; "-" is stdout.')] = "-",
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Then erase the job's prompts and answers from the ledger."),
    ] = False,
    ledger: LedgerFlag = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the counts as JSON, on stderr.")
    ] = False,
) -> None:
    """Write what came of each row, in the order of the input; rows that are open are left out."""
    with _jobs(ledger) as jobs:
        state = jobs.status(job)
        if forget and not state.is_done:
            raise InputError(
                f"expected a job that is done with --forget, got {job}, of which "
                f"{state.n_open:,} rows are open: resume or cancel it first."
            )
        if out == "-":
            for row in jobs.results(job):
                emit(json.dumps(row.to_dict(), allow_nan=False))
            n = state.n_rows - state.n_open
        else:
            n = _write(Path(out), jobs, job)
        if forget:
            jobs.forget(job)
    if as_json:
        typer.echo(json.dumps({"n_rows": n, "n_open": state.n_open}), err=True)
    elif state.n_open:
        warn(f"{n:,} rows written; {state.n_open:,} are still open")


@batch_app.command()
def cancel(
    job: Job, prices: Prices = None, ledger: LedgerFlag = None, as_json: JsonFlag = False
) -> None:
    """End a job: cancel what is with a provider, hand in nothing more; then resume collects."""
    with _jobs(ledger, prices) as jobs:
        found = jobs.cancel(job)
    _show(found, as_json)


@batch_app.command()
def resume(
    job: Job,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the job is done, rather than one round.")
    ] = False,
    prices: Prices = None,
    ledger: LedgerFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Go on with a job: collect what has ended, try again what failed, hand in what waits.

    After an interruption of any kind this is what to say; it can be said at any time.

      cps-router batch resume JOB --wait
    """
    with _jobs(ledger, prices) as jobs:
        found = jobs.resume(job, wait=wait)
    _show(found, as_json)


@contextmanager
def _jobs(
    place: str | None, prices: str | None = None, *, create: bool = False, **options: Any
) -> Iterator[BatchJobs]:
    from router.batch import BatchJobs
    from router.ledger import Ledger

    with Ledger(place, create=create) as ledger, _patience() as say:
        yield BatchJobs(ledger, price_book=_book(prices), on_progress=say, **options)


def _book(prices: str | None) -> Any:
    from router.prices import PriceBook

    return PriceBook(prices)


def _show(status: JobStatus, as_json: bool) -> None:
    if as_json:
        print_json(status.to_dict())
    else:
        emit("\n".join(_in_words(status)))
    for sentence in status.troubles:
        warn(f"{sentence}; resume the job to try again")
    if status.troubles:
        raise SystemExit(1)


def _in_words(status: JobStatus) -> Iterator[str]:
    yield f"job {status.job_id}: {status.state}"
    counts = ", ".join(f"{n:,} {state}" for state, n in status.rows.items())
    yield f"{status.n_rows:,} rows: {counts or 'none'}"
    for tier, ways in status.ways.items():
        yield f"  {tier}: " + ", ".join(f"{n:,} {way}" for way, n in ways.items())
    if status.batches:
        yield "batches: " + ", ".join(f"{n:,} {state}" for state, n in status.batches.items())
    for reason, n in status.reasons.items():
        yield f"failed: {n:,} x {reason}"
    if status.n_rejected:
        where = f", listed in {status.rejects_path}" if status.rejects_path else ""
        yield f"{status.n_rejected:,} bad rows{where}"
        for reason, n in status.rejects.items():
            yield f"  {n:,} x {reason}"
    unknown = f", of which {status.n_unknown_cost:,} attempts as expected, their cost being unknown"
    yield f"spent ${status.spent_usd:.6f}{unknown if status.n_unknown_cost else ''}"


def _write(out: Path, jobs: BatchJobs, job: str) -> int:
    partial = out.with_name(out.name + ".partial")
    n = 0
    try:
        with partial.open("w", encoding="ascii", newline="\n") as file:
            for row in jobs.results(job):
                file.write(json.dumps(row.to_dict(), allow_nan=False) + "\n")
                n += 1
        partial.replace(out)
    except OSError as error:
        raise InputError(
            f"expected to write results to {out}, got {error.strerror or 'an error'}: choose "
            "another file, or make room."
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return n


def _seconds(text: str) -> float:
    found = _SPAN.match(text.strip())
    if found is None or not float(found[1]):
        raise InputError(
            f"expected --deadline as a span above 0, got {text[:40]!r}: give for example 30m, 6h, "
            "24h or 2d."
        )
    return float(found[1]) * _SECONDS[found[2]]


@contextmanager
def _patience() -> Iterator[Any]:
    """A function that is told what is being done; what takes long is said on stderr."""
    stage = ["working"]
    over = threading.Event()

    def speak() -> None:
        said = ""
        while not over.wait(_SILENT_S):
            if stage[0] != said:
                said = stage[0]
                warn(f"{said} ...")

    def say(message: str) -> None:
        stage[0] = message

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield say
    finally:
        over.set()
        thread.join()
