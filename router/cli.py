"""The command line: what serving needs. ``training/cli.py`` adds train, evaluate and data.

Exit codes: 0 done, 1 a run-time failure, 2 bad usage or bad input, 3 ``promote`` refused; an error
is one sentence on stderr. With ``--json``, stdout carries JSON and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli_batch import batch_app
from router.cli_ledger import ledger_app
from router.cli_parts import emit as emit
from router.cli_savings import HELP as SAVINGS_HELP
from router.cli_savings import savings
from router.errors import CpsRouterError, InputError, OutcomeError, RoutingError
from router.outcomes import label

if TYPE_CHECKING:
    from router.decision import Decision
    from router.routing import Router

app = typer.Typer(
    name="cps-router",
    help="Route each LLM call to the tier with the lowest cost per success.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Queries read and routed at a time: enough to be fast, few enough to stream.
_BATCH = 1024

# Line number, request id, query.
_Row = tuple[int, str | None, str]


@app.callback()
def _root() -> None:
    """Route each LLM call to the tier with the lowest cost per success.

    Train a router from logged outcomes, evaluate it, then route queries with it:

      cps-router data fetch paretobandit
      cps-router train OUTCOMES --tiers TIERS.toml --out my-router
      cps-router evaluate my-router OUTCOMES
      cps-router route my-router "Summarize briefly: ..."
    """


# More arguments are refused by the command itself: they may be words of a query.
@app.command(context_settings={"allow_extra_args": True})
def route(
    context: typer.Context,
    artifact: Annotated[
        str, typer.Argument(help='Artifact folder, or "default" for the one that ships.')
    ],
    query: Annotated[str | None, typer.Argument(help="One query.")] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", help='JSON lines with "query" and maybe "request_id"; "-" reads stdin.'
        ),
    ] = None,
    explore: Annotated[
        float | None,
        typer.Option(
            "--explore",
            metavar="SHARE",
            help="Try other tiers that keep the floor on the query with this probability (0 to 1).",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", help="With --explore: another seed, other requests explore.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON decision a line (the default with --file).")
    ] = False,
) -> None:
    """Say where a query should go: one decision a line, in the order of the input."""
    from router.exploration import Exploration
    from router.routing import Router

    if context.args:
        # Not click's own message, which repeats the words.
        context.fail(
            f"expected one QUERY, got {1 + len(context.args)} arguments: put the query in quotes."
        )
    if (query is None) == (file is None):
        raise InputError(
            "expected either one QUERY or --file IN.jsonl, got "
            f"{'neither' if query is None else 'both'}: see cps-router route --help."
        )
    exploration = None if explore is None else Exploration(epsilon=explore, seed=seed)
    router = Router.load(None if artifact == "default" else artifact).exploring(exploration)
    if query is not None:
        decision = router.route(query)
        emit(_dumps(decision.to_dict()) if as_json else _in_words(decision))
        return
    assert file is not None
    batch: list[_Row] = []
    # A pipe gets its answers line by line: who writes to it may wait for them.
    size = 1 if file == "-" else _BATCH
    try:
        for row in _read_queries(file):
            batch.append(row)
            if len(batch) == size:
                full, batch = batch, []
                _route_batch(router, full)
    finally:
        # Also where a line was bad: those before it are routed.
        _route_batch(router, batch)


app.command(help=SAVINGS_HELP)(savings)
app.add_typer(ledger_app, name="ledger")
app.add_typer(batch_app, name="batch")


def _route_batch(router: Router, batch: list[_Row]) -> None:
    try:
        decisions = router.route_many([row[2] for row in batch], [row[1] for row in batch])
    except RoutingError:
        # One by one, up to the one that no tier can take.
        for number, request_id, query in batch:
            try:
                decision = router.route(query, request_id=request_id)
            except RoutingError as error:
                raise RoutingError(f"line {number}: {error}") from None
            emit(_dumps(decision.to_dict()))
        return
    for decision in decisions:
        emit(_dumps(decision.to_dict()))


def _read_queries(file: str) -> Iterator[_Row]:
    if file == "-":
        if sys.stdin is None:
            raise InputError(
                "expected JSON lines on standard input, which is closed: pipe them in or name a "
                "file."
            )
        yield from _parse_queries(sys.stdin.buffer, "standard input")
        return
    try:
        with Path(file).open("rb") as lines:
            yield from _parse_queries(lines, file)
    except OSError as error:
        raise InputError(
            f"expected a file of JSON lines at {file}, got {error.strerror or 'an error'}: "
            "check the path."
        ) from None


def _parse_queries(lines: Iterable[bytes], name: str) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        query = row.get("query") if isinstance(row, dict) else None
        if not isinstance(query, str):
            raise InputError(
                f'expected a JSON object with a text "query" in line {number} of {name}, got '
                "something else: mend the line; the lines before it were routed."
            )
        try:
            request_id = label(row.get("request_id"), "request_id")
        except OutcomeError:
            raise InputError(
                f'expected a text or a whole number as "request_id" in line {number} of {name}, '
                "got something else: mend the line; the lines before it were routed."
            ) from None
        yield number, request_id, query


def _dumps(value: dict[str, Any]) -> str:
    # ASCII, so that a lone surrogate in a request id cannot break the output.
    return json.dumps(value, allow_nan=False)


def _in_words(decision: Decision) -> str:
    lines = [f"{decision.tier}  ({decision.model}), reason: {decision.reason}"]
    if decision.propensity < 1:
        how = "explored" if decision.explored else "drawn"
        lines[0] += f", {how} with probability {decision.propensity:.4g}"
    for name, p in decision.p_success.items():
        cost = decision.cost_usd[name]
        mark = ">" if name == decision.tier else " "
        lines.append(f"{mark} {name:<12} success {p:.3f}   ${cost:.6f}")
    if not decision.certified:
        lines.append("no success floor is certified for this decision")
    return "\n".join(lines)


def run(application: typer.Typer) -> None:
    """Run the command line, turning deliberate errors into one sentence and an exit code."""
    try:
        application(prog_name="cps-router")
    except CpsRouterError as error:
        typer.echo(f"cps-router: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        # What could be foreseen has a sentence of its own; a disk that is full has this one.
        where = f" {error.filename}" if error.filename else ""
        typer.echo(
            f"cps-router: expected to read and write files{where}, got "
            f"{error.strerror or 'an error'}: check the place and try again.",
            err=True,
        )
        raise SystemExit(1) from None


def main() -> None:
    """What the script cps-router does, training commands included, where it is installed."""
    from importlib.metadata import entry_points

    for script in entry_points(group="console_scripts", name="cps-router"):
        script.load()()
        return
    run(app)


if __name__ == "__main__":
    main()
