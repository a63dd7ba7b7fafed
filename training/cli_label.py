"""``cps-router label QUERIES --tiers TIERS --check CHECK --out OUTCOMES``: data to train on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli import emit
from router.errors import InputError
from training.cli_parts import JsonFlag, extra, print_json, progress, warn

if TYPE_CHECKING:
    from router.tiers import Tier
    from training.label import LabelReport
    from training.label_input import Pool


class Choose(StrEnum):
    """Which queries are labelled."""

    RANDOM = "random"
    VALUE = "value"


def label(
    queries: Annotated[
        Path | None,
        typer.Argument(
            help="JSON lines with query or messages; maybe request_id, task, expected, schema, "
            "test, split, max_output_tokens."
        ),
    ] = None,
    from_ledger: Annotated[
        str | None,
        typer.Option(help="Instead of a file: the queries of a ledger (a path or URL)."),
    ] = None,
    tiers: Annotated[
        Path | None, typer.Option(help="Tiers file (TOML): each query is run on every tier.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Outcomes (.jsonl), for train. What is paid is kept in OUT.journal."),
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            help="exact or contains (the row's expected; of a number, the answer's last number; of "
            "words no meaning: no stands in no doubt), regex:PATTERN, json-schema (the row's "
            "schema) or json-schema:FILE, unit-test:COMMAND (which gets the answer's code as "
            "{file}). Can be repeated: all must pass."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="PROVIDER/MODEL", help="A model that judges what passes the checks."),
    ] = None,
    judge_sample: Annotated[
        Path | None,
        typer.Option(
            help="Labelled answers (query, answer, success, maybe expected) to measure the judge "
            "on: Cohen's kappa, misses and false alarms."
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="So many queries.")] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(
            help="Dollars that are never exceeded, by all runs on this OUT together. Each call is "
            "bounded before it is made."
        ),
    ] = None,
    choose: Annotated[
        Choose,
        typer.Option(
            help="random, or value: those whose outcomes should change the artifact's policy most "
            "per dollar. Measured on real sets, value is not proven better: docs/labelling.md."
        ),
    ] = Choose.RANDOM,
    artifact: Annotated[
        str | None,
        typer.Option(help='With --choose value: an artifact of these tiers, or "default".'),
    ] = None,
    random_share: Annotated[
        float | None,
        typer.Option(
            help="With --choose value: share drawn at random all the same. [default: 0.3]"
        ),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(help="Outcomes of an earlier round: not paid again, and carried into OUT."),
    ] = None,
    batch: Annotated[
        bool,
        typer.Option(
            "--batch/--sync",
            help="In batches (half the price, up to a day; jobs are kept in OUT.ledger.db), or "
            "one by one now.",
        ),
    ] = True,
    max_output_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer of rows that do not say. [default: 2048]"),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Calls at the same time.")] = 8,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the random order.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Run queries on every tier, judge the answers, and write outcomes to train on.

    For example, 500 queries that have an expected answer, for at most 20 dollars:

      cps-router label queries.jsonl --tiers tiers.toml --check contains --n 500 --max-cost 20
      --out outcomes.jsonl

    and then: cps-router train outcomes.jsonl --tiers tiers.toml --out artifact

    A run that was interrupted goes on with the same command and pays for nothing twice. Answers
    that did not come or could not be judged are counted by reason, never taken for failures.
    Costs in OUT are what serving will cost: the tokens at standard prices.
    """
    if (queries is None) == (from_ledger is None):
        raise InputError(
            "expected QUERIES or --from-ledger, got "
            f"{'neither' if queries is None else 'both'}: give one of them."
        )
    if tiers is None or out is None:
        missing = " and ".join(
            name for name, value in (("--tiers", tiers), ("--out", out)) if value is None
        )
        raise InputError(f"expected {missing}, got none: see cps-router label --help.")
    if judge_sample is not None and judge is None:
        raise InputError(
            "expected --judge with --judge-sample, got none: say which model is to be measured."
        )
    if choose is Choose.RANDOM and (artifact is not None or random_share is not None):
        raise InputError(
            "expected --choose value with --artifact or --random-share, got random: a random "
            "choice asks no artifact."
        )
    for path in (queries, labelled):
        if path is not None and path.resolve() == out.resolve():
            raise InputError(
                f"expected --out to be another file than {path}, got the same: its outcomes are "
                "replaced, so name a new one."
            )
    with extra("train"):
        from router.routing import Router
        from router.tiers import TierSet
        from training.label import label as run_labelling
        from training.label_checks import check_of, needs_of
        from training.label_input import DEFAULT_MAX_OUTPUT_TOKENS
        from training.label_judge import read_judge_sample
        from training.label_select import RANDOM_SHARE, read_labelled
    tier_set = TierSet.from_toml(tiers)
    checks = [check_of(word) for word in check or ()]
    judging = None if judge is None else judge_tier(judge)
    sample = None if judge_sample is None else read_judge_sample(judge_sample)
    router = None
    if artifact is not None:
        router = Router.load(None if artifact == "default" else artifact)
    providers = _providers([*tier_set, *([] if judging is None else [judging])])
    with progress() as say:
        say("reading queries")
        longest = DEFAULT_MAX_OUTPUT_TOKENS if max_output_tokens is None else max_output_tokens
        pool = _pool(queries, from_ledger, needs_of(checks), longest)
        for example in pool.examples:
            warn(f"{queries}: {example}")
        ledger: Any = None
        try:
            if batch:
                from router.ledger import Ledger

                ledger = Ledger(out.with_name(out.name + ".ledger.db"))
            report = run_labelling(
                pool,
                tier_set,
                out,
                checks=checks,
                judge=judging,
                judge_sample=sample,
                providers=providers,
                choose=choose.value,
                router=router,
                n=n,
                max_cost_usd=max_cost,
                random_share=RANDOM_SHARE if random_share is None else random_share,
                labelled=read_labelled(labelled, tier_set),
                seed=seed,
                batch_ledger=ledger,
                n_calls=concurrency,
                on_progress=say,
            )
        except KeyboardInterrupt:
            warn("interrupted: the same command goes on where it stopped, and pays nothing twice.")
            raise
        finally:
            if ledger is not None:
                ledger.close()
    rejects = {} if sample is None else sample.rejects
    for reason in rejects:
        warn(f"{judge_sample}: {reason}")
    if as_json:
        where = None if pool.rejects_path is None else str(pool.rejects_path)
        print_json({**report.to_dict(), "rejects_path": where})
    else:
        emit(label_text(report))
    if not report.is_written:
        warn(f"nothing was labelled: {out} is left as it was.")
        raise typer.Exit(1)


def judge_tier(name: str) -> Tier:
    """The judge as a tier, so that it has a price.

    Raises:
        InputError: the name is not PROVIDER/MODEL.
    """
    from router.tiers import Tier

    provider, _, model = name.partition("/")
    if not provider or not model:
        raise InputError(
            f"expected --judge as PROVIDER/MODEL, got {name!r:.60}: for example openai/gpt-5-mini."
        )
    return Tier("judge", provider, model)


def _providers(tiers: list[Tier]) -> dict[str, Any]:
    import router.providers

    names = dict.fromkeys(tier.provider for tier in tiers)
    return {name: router.providers.make_provider(name) for name in names}


def _pool(
    queries: Path | None, from_ledger: str | None, needs: tuple[str, ...], longest: int
) -> Pool:
    from training.label_input import pool_of_ledger, read_pool

    if queries is not None:
        return read_pool(queries, needs=needs, max_output_tokens=longest)
    if needs:
        raise InputError(
            f"expected a file of queries with the field {needs[0]} for that check, got a ledger, "
            "which has none: choose regex, json-schema:FILE, unit-test or --judge, or give a file."
        )
    from router.ledger import Ledger

    with Ledger(from_ledger, create=False) as ledger:
        return pool_of_ledger(ledger, max_output_tokens=longest)


def label_text(report: LabelReport) -> str:
    """The report in words."""
    r = report
    copies = f", {r.n_copies:,} copies" if r.n_copies else ""
    kinds = f"{r.n_random:,} at random and {r.n_chosen:,} chosen"
    lines = [
        f"queries: {r.n_queries:,} different in {r.n_rows:,} rows{copies}",
        *(f"  left out: {count:>7,}  {reason}" for reason, count in r.rejected.items()),
        f"run on every tier: {r.n_begun:,} of {r.n_selected:,}, {kinds}",
    ]
    if r.budget_reached:
        lines.append(
            "  the limit was reached: what is left does not cover the longest answers to the next "
            "query"
        )
    if r.n_drawn_again:
        lines.append(f"  drawn at random, and labelled before: {r.n_drawn_again:,}")
    lines.append(
        f"outcomes: {r.n_outcomes:,}, of {r.n_labelled:,} queries on every tier, "
        + (f"in {r.out}" if r.is_written else f"nothing written to {r.out}")
        + (f" (with {r.n_carried:,} of earlier rounds)" if r.n_carried and r.is_written else "")
    )
    for tier, reasons in r.missing.items():
        lines += [f"  missing: {count:>7,}  {tier}: {why}" for why, count in reasons.items()]
    if r.n_cut_off:
        lines.append(f"  cut off at the longest answer allowed: {r.n_cut_off:,}")
    for tier, rate in r.success_rate.items():
        lines.append(f"  success of {tier}: {'unknown' if rate is None else format(rate, '.1%')}")
    judge = f", {r.spent_on_judge_usd:.4f} of it on the judge" if r.spent_on_judge_usd else ""
    lines.append(
        f"spent: ${r.spent_now_usd:.4f} now{judge}, ${r.spent_usd:.4f} in all; "
        f"{r.n_reused:,} answers were there already"
    )
    if r.agreement is not None:
        lines += _agreement_lines(r.agreement)
    return "\n".join(lines)


def _agreement_lines(found: Any) -> list[str]:
    def shown(value: float | None, interval: tuple[float, float] | None, form: str) -> str:
        if value is None or interval is None:
            return "unknown"
        low, high = (format(end, form) for end in interval)
        return f"{value:{form}} [{low}, {high}]"

    n = f"{found.n:,} labelled answers ({found.n_unjudged:,} more without a verdict)"
    missed = shown(found.miss_rate, found.miss_interval, ".1%")
    alarms = shown(found.false_alarm_rate, found.false_alarm_interval, ".1%")
    return [
        f"the judge on {n}, with {found.confidence:.0%} intervals:",
        f"  kappa:        {shown(found.kappa, found.kappa_interval, '.2f')}",
        f"  misses:       {missed} of wrong answers pass",
        f"  false alarms: {alarms} of right answers fail",
    ]
