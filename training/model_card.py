"""The model card of an artifact, with the card of its data: every word of fact from the manifest.

The card is no part of the artifact: the manifest does not name it, nothing reads it, and it can be
written again at any time. Manifests of older formats lack some facts; their cards do too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_LIMITS = (
    (
        "A success floor holds on average over requests like those that it was certified on, not "
        "for each request, language or task among them, and no longer where traffic has changed."
    ),
    "Success means what the training log called so.",
    "Queries unlike the training ones go to the safe tier, and the decision says so.",
    "Only the query's text is read: no images, no tools, no conversation before it.",
)


def model_card(manifest: Mapping[str, Any]) -> str:
    """The card in Markdown."""
    parts = [
        *_head(manifest),
        "",
        *_tiers(manifest),
        "",
        *_menu(manifest),
        "",
        *_use(manifest),
        "",
        *_data(manifest),
        "",
        *_metrics(manifest),
        "## Limits",
        "",
        *(f"- {limit}" for limit in _LIMITS),
        "",
        *_made_with(manifest),
        "",
    ]
    return "\n".join(parts)


def _head(manifest: Mapping[str, Any]) -> Iterator[str]:
    training, certificate = manifest["training"], manifest["certificate"]
    yield f"# Router {manifest['artifact_id']}"
    yield ""
    made_by, created = manifest["cps_router"], manifest["created"]
    yield f"Made by cps-router {made_by} on {created}, from its manifest."
    yield ""
    yield f"- **Objective**: {manifest['objective']}"
    yield f"- **Policy**: {manifest['policy']['description']}"
    yield f"- **Certificate**: {certificate['sentence'] if certificate else 'none was asked for'}"
    yield f"- **Estimator**: {manifest['estimator']['family']}, on {manifest['embedder']['id']}"
    yield (
        f"- **Trained on**: {training['name']}"
        + (" (synthetic)" if training["synthetic"] else "")
        + (" (one tier's outcome per request)" if _is_logged(manifest) else "")
        + f", {training['n_fitting']:,} fitting and {training['n_calibration']:,} calibration "
        f"requests, fingerprint {training['fingerprint'][:16]}"
    )
    yield (
        "- **Holds**: estimators, calibration outcomes, hashes of training queries; no query text"
    )


def _use(manifest: Mapping[str, Any]) -> Iterator[str]:
    names = [tier["name"] for tier in manifest["tiers"]]
    policy = manifest["policy"]
    yield "## Intended use"
    yield ""
    yield (
        f"- Choosing one of the tiers {', '.join(names)} for a query like those that it was "
        "trained on, before the query is sent."
    )
    safe = _safe(policy, names)
    yield f"- Queries unlike those, and requests that it cannot judge, go to {safe}."
    certificate = manifest["certificate"]
    if certificate is None or not certificate.get("certified"):
        yield "- It promises no success rate: every decision says `certified: false`."
    if manifest["training"]["synthetic"]:
        yield "- It learned from synthetic outcomes: for trying things out, not for production."
    yield "- Not for judging people, nor for deciding whether an answer is right."


def _safe(policy: Mapping[str, Any], names: Sequence[str]) -> str:
    tier = policy.get("safe_tier", policy.get("strongest"))
    return names[tier] if isinstance(tier, int) else "its safe tier"


def _data(manifest: Mapping[str, Any]) -> Iterator[str]:
    """The data card: what was read, what became of it, and how to know it again."""
    training = manifest["training"]
    read, split = training.get("read", {}), training.get("split", {})
    yield "## Training data"
    yield ""
    yield "| | |"
    yield "|---|---|"
    facts = {
        "name": training["name"],
        "feedback": "one tier's outcome per request" if _is_logged(manifest) else "every tier's",
        "rows read": _count(read.get("n_rows")),
        "outcomes": _count(read.get("n_outcomes")),
        "bad rows": _count(read.get("n_bad")),
        "rows of models that are no tier": _count(read.get("n_not_a_tier")),
        "split": _split(split),
        "requests fitted": _count(training["n_fitting"]),
        "requests for calibration": _count(training["n_calibration"]),
        "requests left for testing": _count(training.get("n_test")),
        "left out, since their text is in test": _count(training.get("n_left_out_as_leaked")),
        "fingerprint (SHA-256)": f"`{training['fingerprint']}`",
    }
    for name, value in facts.items():
        if value is not None:
            yield f"| {name} | {value} |"
    for reason, n in read.get("reasons", {}).items():
        yield f"| bad: {_cell(reason)} | {n:,} |"


def _split(split: Mapping[str, Any]) -> str | None:
    source = split.get("source")
    if source is None:
        return None
    known = {"column": "as the log's split column says", "hash": "by a hash of the query's text"}
    return known.get(source, str(source))


def _metrics(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What was measured in training, out of fold, on fitting rows; nothing where it was not."""
    metrics = manifest.get("metrics") or {}
    names = [tier["name"] for tier in manifest["tiers"]]
    kinds = {
        "auc": "AUC of P(success)",
        "log_loss": "log loss of P(success)",
        "cost_ratio": "expected over actual dollars",
    }
    shown = [kind for kind in kinds if any(f"{kind}.{name}" in metrics for name in names)]
    if not shown:
        return
    yield "## Metrics, out of fold on the fitting requests"
    yield ""
    yield f"| tier | {' | '.join(kinds[kind] for kind in shown)} |"
    yield f"|---|{'---|' * len(shown)}"
    for name in names:
        values = (_number(metrics.get(f"{kind}.{name}")) for kind in shown)
        yield f"| {_cell(name)} | {' | '.join(values)} |"
    yield ""


def _tiers(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "| tier | model | success on fitting rows | cost at decision time |"
    yield "|---|---|---|---|"
    rates, bases = manifest["training"]["tier_success"], manifest["prices"]["basis"]
    for tier, rate, basis in zip(manifest["tiers"], rates, bases, strict=True):
        yield f"| {_cell(tier['name'])} | {_cell(tier['model'])} | {_number(rate)} | {basis} |"


def _menu(manifest: Mapping[str, Any]) -> Iterator[str]:
    columns = ("floor", "certified", "policy", "success", "USD per 1,000")
    yield f"| {' | '.join(columns)} | saved against always strongest |"
    yield f"|{'---|' * (len(columns) + 1)}"
    for row in manifest["floor_menu"]:
        saved = row["saving_vs_always_strongest"]
        yield (
            f"| {_cell(row['floor'])} | {'yes' if row['certified'] else 'no'} "
            f"| {_cell(row['policy'])} | {row['success_rate']:.3f} "
            f"| {1000 * row['cost_usd_per_request']:.4g} "
            f"| {'' if saved is None else f'{saved:.1%}'} |"
        )
    yield ""
    yield "Success and cost in the second table are on the calibration requests."


def _made_with(manifest: Mapping[str, Any]) -> Iterator[str]:
    libraries = manifest.get("libraries") or {}
    found = ", ".join(f"{name} {version}" for name, version in libraries.items() if version)
    yield f"Prices as of {manifest['prices_as_of']}; seed {manifest['estimator']['seed']}; {found}."


def _is_logged(manifest: Mapping[str, Any]) -> bool:
    return bool(manifest.get("feedback", {}).get("kind") == "logged")


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _cell(text: str) -> str:
    """Text of the user's in a table: a bar must not end the cell, nor a line break the row."""
    return " ".join(text.replace("|", "/").split())
