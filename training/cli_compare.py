"""``cps-router compare A B [C...] OUTCOMES``: artifacts side by side on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli_parts import emit
from router.errors import InputError
from router.outcomes import STDIN
from training.cli_parts import JsonFlag, extra, print_json, progress, warn
from training.defaults import DEFAULT_CONFIDENCE, MAX_BAD_SHARE

if TYPE_CHECKING:
    from training.compare import Contender


def compare(
    entries: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C...] OUTCOMES",
            help='Artifact folders, "default" for the one that ships, "keyword" or "always:TIER"; '
            'then the outcomes: .jsonl, .csv or .parquet, or "-" for JSON lines on stdin.',
        ),
    ],
    success_value: Annotated[
        float | None,
        typer.Option(
            help="Dollars that one more success is worth. [default: what the first artifact says]"
        ),
    ] = None,
    tiers: Annotated[
        Path | None,
        typer.Option(help="Tiers file, where the log names models otherwise than the artifacts."),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Of all comparisons together; above 0.5.")
    ] = DEFAULT_CONFIDENCE,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the resamples.")] = 0,
    max_bad_share: Annotated[
        float, typer.Option(help="Stop when more than this share of rows is bad.")
    ] = MAX_BAD_SHARE,
    success_threshold: Annotated[
        float | None, typer.Option(help='Success is "score >= threshold" where a score is logged.')
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare routers on the same requests: each with the first one, paired, with a verdict.

    Requests that any of the artifacts was trained on are left out for all and counted; each
    different text counts once. A is the one to compare with. BETTER or WORSE is said where the
    interval of the difference in cost, less the value of the difference in success, lies on one
    side of 0; intervals and verdicts allow for the number of comparisons. On a log of one tier's
    outcome per request the differences are estimated from recorded propensities, or refused.
    """
    if len(entries) < 3:
        raise InputError(
            f"expected two or more artifacts and then the outcomes, got {len(entries)} "
            "arguments: see cps-router compare --help."
        )
    with extra("train"):
        from router.tiers import TierSet
        from training.compare import compare_routers, shared_tiers
        from training.compare_results import comparison_text
        from training.table import read_outcomes
    outcomes = Path(entries[-1])
    contenders = _contenders(entries[:-1])
    shared = shared_tiers(contenders)
    shown = "standard input" if outcomes == STDIN else outcomes.name
    with progress() as say:
        table = read_outcomes(
            outcomes,
            shared if tiers is None else TierSet.from_toml(tiers),
            max_bad_share=max_bad_share,
            success_threshold=success_threshold,
            on_progress=lambda rows: say(f"reading {shown}: {rows:,} rows"),
        )
        found = compare_routers(
            contenders,
            table,
            success_value_usd=success_value,
            confidence=confidence,
            seed=seed,
            on_progress=lambda stage, done, total: say(f"{stage}: {done:,} of {total:,}"),
        )
    for warning in table.report.warnings():
        warn(warning)
    if as_json:
        print_json(found.to_dict())
    else:
        emit(comparison_text(found))


def _contenders(entries: list[str]) -> list[Contender]:
    from router.routing import Router
    from training.compare import ALWAYS, KEYWORD, Contender

    # Folders go by their last name, as long as that tells them apart.
    last = [Path(entry).name or entry for entry in entries]
    found = []
    for entry, name in zip(entries, last, strict=True):
        if entry == KEYWORD or entry.startswith(ALWAYS):
            found.append(Contender(entry))
            continue
        router = Router.load(None if entry == "default" else entry)
        # Nor may a folder be called like something that is none.
        plain = last.count(name) == 1 and name != KEYWORD and not name.startswith(ALWAYS)
        found.append(Contender(name if plain else entry, router))
    return found
