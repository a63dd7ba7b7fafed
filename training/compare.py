"""Routers side by side on the same outcomes: ``cps-router compare``.

Everything is paired, and each different text counts once, as it does for ``promote``. Fixed before
an outcome is looked at: lambda, the dollars that one more success is worth (asked for, or that of
the first artifact at today's prices); the rows, without those that *any* of the artifacts was
trained on; the ranges of the tests (``training.contest`` says how, for both kinds of feedback).

Each entry is compared with the first one. With K - 1 comparisons each has its intervals at the
level 1 - alpha / (K - 1) (Bonferroni), so that the verdicts hold together. The verdict is that of a
linear test, the interval by betting of the mean difference of cost - lambda success: *better* where
it lies below 0, *worse* where above, else *not proven*. The other intervals are by bootstrap over
texts (full feedback); of a log, by betting for success and by empirical likelihood for cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from router.errors import InputError
from router.keyword import KeywordRouter
from router.routing import Router
from router.stored_query import Query
from router.tiers import TierSet
from training.compare_full import Asked, compare_full
from training.compare_logged import compare_logged
from training.compare_results import SideBySide
from training.contenders import Field, heuristic_of, keyword_habits, keyword_play
from training.contest_rows import Progress, Selected
from training.defaults import DEFAULT_CONFIDENCE
from training.known_outcomes import Habits
from training.split import query_hashes
from training.table import OutcomeTable

__all__ = ["ALWAYS", "KEYWORD", "Contender", "compare_routers", "shared_tiers"]

FloatArray = npt.NDArray[np.float64]

KEYWORD = "keyword"
ALWAYS = "always:"


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """What is compared: an artifact where there is a ``router``, else KEYWORD or ALWAYS + tier."""

    label: str
    router: Router | None = None

    @property
    def tier(self) -> str | None:
        """The single tier that it always takes, if that is what it is."""
        alone = self.router is None and self.label.startswith(ALWAYS)
        return self.label.removeprefix(ALWAYS) if alone else None


def shared_tiers(contenders: Sequence[Contender]) -> TierSet:
    """The tiers that all of them choose between, as the first artifact has them.

    Raises:
        InputError: fewer than two, two of one name, no artifact, or tiers that differ.
    """
    labels = [contender.label for contender in contenders]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InputError(
            f"expected two or more different entries to compare, got {', '.join(labels) or 'none'}:"
            ' name artifact folders, "keyword" or "always:TIER", each once.'
        )
    artifacts = [(each.label, each.router) for each in contenders if each.router is not None]
    if not artifacts:
        raise InputError(
            f"expected an artifact among those compared, got {' and '.join(labels)}: the tiers, "
            "and what a success is worth, come from one."
        )
    label, first = artifacts[0]
    models = {tier.name: {tier.model, *tier.aliases} for tier in first.tiers}
    for other, router in artifacts[1:]:
        if set(router.tiers.names) != set(models):
            raise InputError(
                f"expected artifacts of the same tiers, got {', '.join(first.tiers.names)} in "
                f"{label} and {', '.join(router.tiers.names)} in {other}: compare those that "
                "choose between the same tiers; cps-router promote takes two that do not."
            )
        for tier in router.tiers:
            if not models[tier.name] & {tier.model, *tier.aliases}:
                raise InputError(
                    f"expected the tier {tier.name} to be one model, got "
                    f"{first.tiers[first.tiers.index(tier.name)].model} in {label} and "
                    f"{tier.model} in {other}: compare artifacts of the same models."
                )
    for each in contenders:
        if each.tier is not None and each.tier not in models:
            raise InputError(
                f"expected {ALWAYS} with one of the tiers {', '.join(models)}, got {each.tier}: "
                "name one of them."
            )
    return first.tiers


def compare_routers(
    contenders: Sequence[Contender],
    table: OutcomeTable,
    *,
    success_value_usd: float | None = None,
    confidence: float = DEFAULT_CONFIDENCE,
    n_bootstrap: int = 1000,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> SideBySide:
    """Compare each contender with the first one, on requests that none was trained on.

    Args:
        contenders: Two or more over the same tiers; at least one artifact.
        table: Outcomes of their tiers; full or logged feedback.
        success_value_usd: Lambda; by default that of the first artifact.
        confidence: Of all comparisons together.
        n_bootstrap: Resamples for intervals from full feedback; 0 for none but the verdict's.
        seed: Of resamples and shuffles.
        on_progress: Called with a stage, requests done, and of how many.

    Raises:
        InputError: no request is left, tiers differ, something is missing or out of range.
    """
    if not 0.5 < confidence < 1.0:
        raise InputError(
            f"expected a confidence above 0.5 and below 1, got {confidence}: choose for example "
            f"{DEFAULT_CONFIDENCE}."
        )
    names = shared_tiers(contenders).names
    routers = [each.router for each in contenders if each.router is not None]
    value, source = _success_value(contenders, success_value_usd)
    field = Field(routers, names)
    rule = heuristic_of(routers[0])
    habits = [_habits(each, field, rule) for each in contenders]
    chosen = Selected.of(routers, names, table)
    progress: Progress = on_progress or (lambda stage, done, total: None)
    queries = table.query[chosen.rows].tolist()
    dists, p_success, expected_usd = field.play(queries, progress)
    played = _played(contenders, dists, rule, queries, names)
    level = 1.0 - (1.0 - confidence) / (len(contenders) - 1)
    asked = Asked(
        [(each.label, _id(each)) for each in contenders],
        names,
        value,
        confidence,
        level,
        n_bootstrap,
        seed,
    )
    known = field.known()
    if chosen.full:
        texts = query_hashes(table.query[chosen.rows])
        at = np.ix_(chosen.rows, chosen.columns)
        entries, differences, n_texts = compare_full(
            asked, known, habits, played, table.success[at], table.cost_usd[at], texts, progress
        )
    else:
        predicted = p_success, expected_usd
        entries, differences, n_texts = compare_logged(
            asked, table, chosen, known, habits, played, predicted
        )
    return SideBySide(
        data=Path(table.report.path).name,
        feedback="full" if chosen.full else "logged",
        entries=tuple(entries),
        differences=tuple(differences),
        success_value_usd=value,
        success_value_of=source,
        confidence=confidence,
        n_bootstrap=n_bootstrap if chosen.full else 0,
        seed=seed,
        n_texts=n_texts,
        counts=chosen.counts | {"n_requests": len(chosen.rows)},
    )


def _id(contender: Contender) -> str | None:
    return None if contender.router is None else contender.router.artifact_id


def _success_value(contenders: Sequence[Contender], asked: float | None) -> tuple[float, str]:
    """Lambda, and where it comes from."""
    if asked is not None:
        value, source = asked, "what was asked for"
    else:
        label, router = next((c.label, c.router) for c in contenders if c.router is not None)
        value, source = router.policy.success_value_usd, label
    if not (math.isfinite(value) and value >= 0):
        raise InputError(
            f"expected a success value in USD that is finite and not negative, got {value} from "
            f"{source}: say with --success-value what one more success is worth."
        )
    return value, source


def _habits(contender: Contender, field: Field, rule: KeywordRouter) -> Habits:
    if contender.router is not None:
        return field.habits(contender.router)
    if contender.tier is None:
        return keyword_habits(rule, field.names)
    alone = np.array([name == contender.tier for name in field.names])
    return Habits(alone.astype(float), alone)


def _played(
    contenders: Sequence[Contender],
    dists: list[FloatArray],
    rule: KeywordRouter,
    queries: list[Query],
    names: tuple[str, ...],
) -> list[FloatArray]:
    """What each would do, (n, T); ``dists`` are those of the artifacts, in order."""
    artifacts = iter(dists)
    played = []
    for each in contenders:
        if each.router is not None:
            played.append(next(artifacts))
        elif each.tier is not None:
            row = np.array([float(name == each.tier) for name in names])
            played.append(np.tile(row, (len(queries), 1)))
        else:
            played.append(keyword_play(rule, queries, names))
    return played
