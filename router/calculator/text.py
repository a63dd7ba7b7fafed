"""What the savings calculator found, as a table for people and as an object for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from router.calculator.workload import Line, ModelLine, Workload

_COLUMNS = ("fresh input", "cache read", "cache write", "output", "a day", "a month", "saved")


def as_object(workload: Workload, lines: tuple[Line, ...], source: str) -> dict[str, Any]:
    """The lines as a JSON-serialisable object; money is USD a day unless a name says a month."""
    days = workload.days_per_month
    today = lines[0].bill.total_usd
    return {
        "workload": asdict(workload),
        "prices": source,
        "lines": [
            {
                "name": line.name,
                "includes": line.includes,
                **_bill_object(line),
                "usd_per_month": line.bill.total_usd * days,
                "saved_usd_per_month": (today - line.bill.total_usd) * days,
                "saved_share": 1 - line.bill.total_usd / today if today > 0 else 0.0,
                "models": [_model_object(model) for model in line.models],
            }
            for line in lines
        ],
        "notes": notes(workload, lines),
    }


def _bill_object(part: Line | ModelLine) -> dict[str, float]:
    bill = part.bill
    return {
        "fresh_input_usd_per_day": bill.fresh_usd,
        "cache_read_usd_per_day": bill.cache_read_usd,
        "cache_write_usd_per_day": bill.cache_write_usd,
        "input_usd_per_day": bill.input_usd,
        "output_usd_per_day": bill.output_usd,
        "request_fees_usd_per_day": bill.request_fees_usd,
        "usd_per_day": bill.total_usd,
    }


def _model_object(model: ModelLine) -> dict[str, Any]:
    return {
        "model": model.model,
        "share": model.share,
        "requests_per_day": model.requests_per_day,
        "batch_requests_per_day": model.batch_requests_per_day,
        "cached_tokens": model.cached_tokens,
        "hit_rate": model.hit_rate,
        "break_even_hit_rate": model.break_even_hit_rate,
        "caching_loses_usd_per_day": model.caching_loses_usd,
        "not_cached_because": model.why_not,
        **_bill_object(model),
    }


def in_words(workload: Workload, lines: tuple[Line, ...], source: str) -> str:
    """The lines as a table, with what each includes and what to mind."""
    today = lines[0].bill.total_usd
    rows: list[tuple[str, ...]] = [("", *_COLUMNS)]
    for line in lines:
        bill = line.bill
        saved = (today - bill.total_usd) * workload.days_per_month
        parts = (bill.fresh_usd, bill.cache_read_usd, bill.cache_write_usd, bill.output_usd)
        total = bill.total_usd
        shown = [*parts, total, total * workload.days_per_month]
        share = f" ({saved / (today * workload.days_per_month):.0%})" if today > 0 and saved else ""
        rows.append((line.name, *map(usd, shown), "-" if line is lines[0] else usd(saved) + share))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    asked = (
        f"{workload.requests_per_day:,.6g} requests a day, {workload.days_per_month:g} days a "
        f"month; {workload.system_tokens:,} system + {workload.user_tokens:,} user tokens in, "
        f"{workload.output_tokens:,} out"
    )
    blocks = [
        [asked, f"USD a day by part, in all, and a month; {source}"],
        table,
        [*(f"{line.name}: {line.includes}" for line in lines), *_hit_rates(lines)],
        [f"Mind: {note}." for note in notes(workload, lines)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _hit_rates(lines: tuple[Line, ...]) -> list[str]:
    return [
        f"  {line.name}: {model.model} finds {model.cached_tokens:,} tokens cached in "
        f"{model.hit_rate:.1%} of {model.requests_per_day - model.batch_requests_per_day:,.6g} "
        "requests a day"
        for line in lines
        for model in line.models
        if model.cached_tokens
    ]


def notes(workload: Workload, lines: tuple[Line, ...]) -> list[str]:
    """What a reader should know before believing the lines; each said once."""
    found: dict[str, None] = {}
    days = workload.days_per_month
    for line in lines:
        for model in line.models:
            if model.why_not:
                found[model.why_not] = None
            elif model.caching_loses_usd > 0:
                lost = usd(model.caching_loses_usd * days)
                found[
                    f"in {line.name!r}, caching on {model.model} loses {lost} a month: "
                    f"{model.hit_rate:.1%} of its requests find the prompt warm, and it pays above "
                    f"{model.break_even_hit_rate or 1:.1%}"
                ] = None
            elif model.cached_tokens and model.bill.total_usd >= model.uncached.total_usd:
                found[f"caching on {model.model} saves nothing at these prices"] = None
    by_name = {line.name: line.bill.total_usd for line in lines}
    cached = by_name.get("caching+routing", by_name.get("caching", 0.0))
    more = by_name.get("everything", cached) - cached
    if more > 1e-9 * cached:
        found[
            f"here batch costs {usd(more * days)} a month more than serving the same requests "
            "from the cache: what is batched does not read it"
        ] = None
    if any(len(line.models) > 1 for line in lines):
        found[
            "every model is taken to get and to write the same tokens, and whether the cheaper "
            "ones succeed is not asked here: cps-router evaluate measures it"
        ] = None
    thinned = any(
        model.cached_tokens and model.hit_rate != workload.hit_rate
        for line in lines
        for model in line.models
    )
    if workload.hit_rate is not None and thinned:
        found[
            f"the hit rate of {workload.hit_rate:.1%} is that of the whole traffic; a share s of "
            "it hits in 1 - (1 - h)^s where hits keep a prompt alive, since fewer requests come "
            "in time: run the command for one model alone at the rate that you measured there"
        ] = None
    if any(line.bill.cache_read_usd for line in lines) and workload.hit_rate is None:
        found[
            "hit rates are those of requests that come independently, of one shared system prompt "
            "in one cache; bursts do better, several prompts or nights without traffic differ"
        ] = None
    return list(found)


def usd(amount: float) -> str:
    """An amount for people; one that is too small to show is not shown as nothing.

    >>> usd(1234.5), usd(0.00123), usd(-3.0), usd(1e30), usd(0.0), usd(1e-9)
    ('$1,234.50', '$0.0012', '-$3.00', '$1e+30', '$0.00', '<$0.0001')
    """
    sign, size = ("-" if amount < 0 else ""), abs(amount)
    if size >= 1e12:
        return f"{sign}${size:.4g}"
    if size >= 0.1 or size == 0:
        return f"{sign}${size:,.2f}"
    return f"{sign}${size:.4f}" if size >= 0.00005 else f"{sign}<$0.0001"
