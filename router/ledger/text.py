"""A ledger's report to read on a terminal."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from router.ledger.report import Group, Report, Total
from router.records import NANOUSD_PER_USD
from router.savings import MIN_CLUSTERS, MIN_COVERED, Savings

# More than three names of the greatest length and their figures: a table is as wide as its cells.
_WIDTH = 10_000

_SCOPE = (
    "\nThe interval covers which sessions came by chance, and not that the baseline is estimated, "
    "nor what is left out."
)


def report_text(report: Report) -> str:
    """Tables of what was spent and of what was saved, and what they leave out."""
    since = "" if report.since is None else f" since {report.since:%Y-%m-%d %H:%M} UTC"
    if report.total.n_requests == 0:
        return f"no requests{since}"
    parts = [_groups(report), *_savings(report), *_notes(report)]
    return f"{report.total.n_requests:,} requests{since}\n\n" + "\n".join(parts)


def _groups(report: Report) -> str:
    table = Table(box=None, pad_edge=False)
    for name in report.by:
        table.add_column(name, no_wrap=True)
    for name in ("requests", "attempts", "success", "unrated", "cost", "cost unknown", "CPS"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in report.groups:
        table.add_row(*group.key.values(), *_cells(group, group.n_answers))
    if report.by:
        first = ["all", *[""] * (len(report.by) - 1)]
        table.add_row(*first, *_cells(report.total, report.total.n_requests), style="bold")
    else:
        table.add_row(*_cells(report.total, report.total.n_requests))
    return _drawn(table)


def _cells(of: Group | Total, n_answers: int) -> list[str]:
    facts = of.to_dict()
    cps = facts["cps_usd"]
    unknown = "inf" if facts["cps_is_infinite"] else "-"
    return [
        f"{of.n_requests:,}",
        f"{of.n_attempts:,}",
        "-" if facts["success_rate"] is None else f"{100 * facts['success_rate']:.1f}%",
        f"{n_answers - of.n_known:,}",
        "-" if of.n_attempts and of.n_unknown_cost == of.n_attempts else _usd(of.cost_nanousd),
        f"{of.n_unknown_cost:,}",
        unknown if cps is None else f"${cps:.6f}",
    ]


def _savings(report: Report) -> list[str]:
    s = report.savings
    if s.n_requests == 0:
        return ["Nothing can be said of what was saved: see what is left out."]
    table = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("left", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    kinds = [f"{name} {_usd(nanousd)}" for name, nanousd in s.further_nanousd.items() if nanousd]
    which = f" ({', '.join(kinds)})" if kinds else ""
    basis = s.to_dict()["basis"]
    for name, part, nanousd in (
        ("baseline: always the strongest tier, no cache, no batch", "baseline", s.baseline_nanousd),
        ("less routing saving", "routing_saving", s.routing_nanousd),
        ("less cache saving, net of dearer writes", "cache_saving", s.cache_nanousd),
        ("less batch saving", "batch_saving", s.batch_nanousd),
        (f"plus further attempts{which}", "escalation_cost", s.escalation_nanousd),
        ("plus exploration", "exploration_cost", s.exploration_nanousd),
        ("cost", "cost", s.cost_nanousd),
    ):
        table.add_row(name, basis[part], _exact(nanousd))
    of_attempts = report.n_covered_attempts / report.n_answered_attempts
    covers = (
        f"Of {s.n_requests:,} requests of which every part is known "
        f"({100 * (report.covered or 0):.1f}% of those answered, {100 * of_attempts:.1f}% of their "
        "attempts):"
    )
    return [
        covers,
        _drawn(table),
        _said(report),
    ]


def _said(report: Report) -> str:
    s = report.savings
    if s.discount is None:
        return "Without a baseline there is no discount."
    if report.discount is None:
        return (
            f"No discount is given: less than {100 * MIN_COVERED:g}% of the answered requests are "
            "covered, and those need not be like the others."
        )
    if report.interval is None:
        reach = f"no interval with fewer than {MIN_CLUSTERS} sessions or requests of none"
    else:
        low, high = report.interval
        reach = (
            f"{100 * report.confidence:g}% interval {100 * low:.1f}% to {100 * high:.1f}%, over "
            f"{report.n_clusters:,} sessions or requests of none"
        )
    if s.saved_nanousd < 0:
        return (
            f"NOTHING WAS SAVED: always the strongest tier would have been cheaper by "
            f"{_usd(-s.saved_nanousd)} ({-100 * s.discount:.1f}%; {reach} of the discount)."
        )
    return f"Effective discount {100 * s.discount:.1f}% ({reach}).{_SCOPE * bool(report.interval)}"


def _notes(report: Report) -> list[str]:
    s, total = report.savings, report.total
    lines = []
    if s.n_requests:
        lines.append(_estimated(s))
    lines += [
        f"Left out of the saving: {n:,} requests, {why}." for why, n in report.left_out.items()
    ]
    if report.left_out_nanousd:
        lines.append(f"What is known of their cost: {_usd(report.left_out_nanousd)}.")
    if total.n_unknown_cost:
        lines.append(
            f"The cost of {total.n_unknown_cost:,} attempts is unknown: the true bill is higher."
        )
    if total.n_feedback_without_request:
        lines.append(
            f"{total.n_feedback_without_request:,} requests have feedback and no record (yet)."
        )
    return lines


def _estimated(s: Savings) -> str:
    n, nanousd = s.n_requests - s.n_measured, s.baseline_nanousd - s.measured_nanousd
    return (
        f"The baseline is measured for {s.n_measured:,} requests ({_usd(s.measured_nanousd)}: the "
        f"strongest tier served them), estimated for {n:,} ({_usd(nanousd)})."
    )


def _usd(nanousd: int) -> str:
    sign = "-" if nanousd < 0 else ""
    return f"{sign}${abs(nanousd) / NANOUSD_PER_USD:,.4f}"


def _exact(nanousd: int) -> str:
    """To the last nanodollar, so that whoever adds the lines up gets the sum."""
    whole, rest = divmod(abs(nanousd), NANOUSD_PER_USD)
    return f"{'-' if nanousd < 0 else ''}${whole:,}.{rest:09d}"


def _drawn(table: Table) -> str:
    drawn = io.StringIO()
    # Plain and wide: what is piped is read by programs too.
    Console(file=drawn, width=_WIDTH, no_color=True, highlight=False, markup=False).print(table)
    return "\n".join(line.rstrip() for line in drawn.getvalue().splitlines()) + "\n"
