"""What a comparison of routers found: plain records, their JSON and their text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from training.report_text import new_table, render, with_interval
from training.results import Estimate, finite

Verdict = Literal["better", "worse", "identical", "not proven", "refused"]

_LEFT_OUT = {
    "n_train_split": "marked train",
    "n_left_out_trained": "of texts that one of the artifacts was trained on",
    "n_incomplete": "without the outcome of some tier",
    "n_not_one_tier": "without the outcome of just one tier",
    "n_without_propensity": "without a propensity",
    "n_set_aside": "set aside to fix the maximum weight",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One of those compared; ``refusal`` says why a log cannot tell, and the numbers are None.

    ``mix_ratio`` is None where the mix of single tiers is not known, and unstable ``near_kink`` of
    the mixes' hull; ``above_best``: it succeeds more often than every tier, and is compared with
    the best one. ``share`` is that of every tier; ``effective_sample_size`` is that of a log.
    """

    label: str
    artifact_id: str | None
    success_rate: Estimate | None
    cost_usd_per_request: Estimate | None
    cps_usd: Estimate | None
    mix_ratio: Estimate | None
    share: dict[str, float]
    effective_sample_size: float | None = None
    refusal: str | None = None
    near_kink: bool = False
    above_best: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        out: dict[str, Any] = {"label": self.label, "artifact_id": self.artifact_id}
        unknown = Estimate(math.nan)
        (self.success_rate or unknown).put(out, "success_rate")
        (self.cost_usd_per_request or unknown).put(out, "cost_usd_per_request")
        (self.cps_usd or unknown).put(out, "cps_usd")
        (self.mix_ratio or unknown).put(out, "mix_ratio")
        out["mix_ratio_near_kink"] = self.near_kink
        out["mix_ratio_above_best"] = self.above_best
        out["share"] = dict(self.share)
        out["effective_sample_size"] = self.effective_sample_size
        out["refusal"] = self.refusal
        return out


@dataclass(frozen=True, slots=True)
class Difference:
    """One entry less the first, on the same texts; every interval allows for the other entries.

    ``loss_usd`` is the difference of cost - success value * success, whose interval gives the
    ``verdict``. ``differ`` is the (effective) number of texts on which the two differ.
    """

    label: str
    against: str
    verdict: Verdict
    sentence: str
    success_rate: Estimate | None
    cost_usd_per_request: Estimate | None
    cps_usd: Estimate | None
    loss_usd: Estimate | None
    loss_range_usd: float
    differ: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; an infinite end of an interval is None."""
        out: dict[str, Any] = {
            "label": self.label,
            "against": self.against,
            "verdict": self.verdict,
            "sentence": self.sentence,
        }
        unknown = Estimate(math.nan)
        (self.success_rate or unknown).put(out, "success_rate_difference")
        (self.cost_usd_per_request or unknown).put(out, "cost_usd_per_request_difference")
        (self.cps_usd or unknown).put(out, "cps_usd_difference")
        (self.loss_usd or unknown).put(out, "loss_usd_difference")
        out["loss_range_usd"] = finite(self.loss_range_usd)
        out["differ"] = self.differ
        return out


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Entries in the order asked for, and each but the first against the first."""

    data: str
    feedback: Literal["full", "logged"]
    entries: tuple[Entry, ...]
    differences: tuple[Difference, ...]
    success_value_usd: float
    success_value_of: str
    confidence: float
    n_bootstrap: int
    seed: int
    n_texts: int
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``cps-router compare --json``: no NaN, no infinity, no query text."""
        return {
            "data": self.data,
            "feedback": self.feedback,
            **self.counts,
            "n_texts": self.n_texts,
            "success_value_usd": self.success_value_usd,
            "success_value_of": self.success_value_of,
            "confidence": self.confidence,
            "n_bootstrap": self.n_bootstrap,
            "seed": self.seed,
            "entries": [entry.to_dict() for entry in self.entries],
            "differences": [difference.to_dict() for difference in self.differences],
        }


def comparison_text(found: SideBySide) -> str:
    """The comparison for a terminal: what was compared, the entries, differences, verdicts."""
    counts = found.counts
    left_out = [f"{counts[key]:,} {what}" for key, what in _LEFT_OUT.items() if counts.get(key)]
    lines = [
        f"{found.data}: {found.feedback} feedback on {counts['n_requests']:,} of "
        f"{counts['n_rows']:,} requests, {found.n_texts:,} different texts, each counted once"
        + (f"; left out: {', '.join(left_out)}" if left_out else ""),
        "",
        _entries(found),
        "",
        _differences(found),
    ]
    lines += [f"{e.label}: no estimate: {e.refusal}" for e in found.entries if e.refusal]
    for what, marked in (
        ("near a kink of the mixes' hull, where it is unstable", "near_kink"),
        ("above the best single tier's success rate", "above_best"),
    ):
        labels = [entry.label for entry in found.entries if getattr(entry, marked)]
        if labels:
            lines.append(f"mix ratio of {', '.join(labels)}: {what}")
    lines.append("")
    lines += [difference.sentence for difference in found.differences]
    n = len(found.differences)
    lines.append(
        f"(a further success is worth ${found.success_value_usd:.3g}, from "
        f"{found.success_value_of}; {100 * found.confidence:g} % confidence for all {n} "
        f"comparison{'s' if n > 1 else ''} together)"
    )
    return "\n".join(lines)


def _entries(found: SideBySide) -> str:
    tiers = list(found.entries[0].share)
    numbers = ("success", "$ per 1,000", "CPS $", "CPS interval", "mix ratio")
    table = new_table("On the same texts", ("",), (*numbers, *(f"to {tier}" for tier in tiers)))
    for entry in found.entries:
        interval = None if entry.cps_usd is None else entry.cps_usd.interval
        table.add_row(
            entry.label,
            _cell(entry.success_rate, "{:.3f}"),
            _cell(entry.cost_usd_per_request, "{:.4g}", 1000),
            _cell(entry.cps_usd, "{:.3g}"),
            "" if interval is None else f"{interval[0]:.3g} .. {interval[1]:.3g}",
            _cell(entry.mix_ratio, "{:.3f}"),
            *(f"{share:.0%}" if share else "" for share in entry.share.values()),
        )
    return render(table)


def _differences(found: SideBySide) -> str:
    numbers = ("success", "$ per 1,000", "CPS $", "texts that differ")
    table = new_table(f"Less {found.entries[0].label}", ("",), numbers)
    for each in found.differences:
        table.add_row(
            each.label,
            _ranged(each.success_rate, "{:+.3f}"),
            _ranged(each.cost_usd_per_request, "{:+.4g}", 1000),
            _ranged(each.cps_usd, "{:+.3g}"),
            f"{each.differ:,.0f}",
        )
    return render(table)


def _cell(estimate: Estimate | None, form: str, times: float = 1.0) -> str:
    return "" if estimate is None else form.format(times * estimate.value)


def _ranged(estimate: Estimate | None, form: str, times: float = 1.0) -> str:
    if estimate is None:
        return ""
    interval = estimate.interval
    scaled = None if interval is None else (times * interval[0], times * interval[1])
    return with_interval(Estimate(times * estimate.value, scaled), form)
