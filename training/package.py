"""Package a trained router: manifest, arrays, embedder, model card."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import router
from router.artifact import read_manifest, save_artifact
from router.costs import TierMeans
from router.embedding import (
    Embedder,
    StaticEmbedder,
    default_embedder_folder,
    embedder_spec,
    load_embedder,
    static_files,
)
from router.escalation import Escalation
from router.predictor import Predictor
from router.query_features import FEATURE_NAMES
from router.selection import CalibrationRows
from router.stored_query import Query
from router.tiers import TierSet
from training.model_card import model_card as model_card
from training.search import Choice, Objective, describe_policy
from training.split import text_hash
from training.table import OutcomeTable

MODEL_CARD = "MODEL_CARD.md"
# More calibration rows than this stay out of the artifact: a re-test after a price change then runs
# on a sample of them, which is as valid and a little less sharp.
MAX_CALIBRATION_ROWS_KEPT = 20_000

_CHUNK = 1024
_LIBRARIES = ("cps-router", "numpy", "scikit-learn", "tokenizers", "safetensors", "genai-prices")


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What the manifest says about the data and the fit."""

    name: str
    fingerprint: str
    query_hashes: npt.NDArray[np.uint64]
    tier_success: npt.NDArray[np.float64]
    tier_means: TierMeans
    counts: Mapping[str, int]
    feedback: Mapping[str, Any]
    split: Mapping[str, Any]
    read_report: Mapping[str, Any]
    family: str
    family_values: Mapping[str, float]
    seed: int
    price_date: str
    logged_price_ratio: Sequence[float | None]
    metrics: Mapping[str, float]
    synthetic: bool
    prior: Mapping[str, Any] | None


def save_router(
    out: Path,
    *,
    tiers: TierSet,
    predictor: Predictor,
    choice: Choice,
    objective: Objective,
    menu: Sequence[Mapping[str, Any]],
    calibration: CalibrationRows,
    calibration_tokens: Mapping[str, npt.NDArray[np.float64]],
    facts: TrainingFacts,
    embedder_files: Mapping[str, bytes],
    escalation: Escalation | None = None,
    key: str | bytes | None = None,
) -> dict[str, Any]:
    """Write the artifact and its model card to ``out``; returns the manifest as saved."""
    cost = predictor.cost
    manifest: dict[str, Any] = _jsonable(
        {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "prices_as_of": facts.price_date,
            "cps_router": router.__version__,
            "tiers": tiers.to_dicts(),
            "prices": {
                "basis": ["tokens" if by else "logged usd" for by in cost.by_tokens],
                "input_usd_per_mtok": list(
                    np.where(cost.by_tokens, cost.input_usd_per_mtok, np.nan)
                ),
                "output_usd_per_mtok": list(
                    np.where(cost.by_tokens, cost.output_usd_per_mtok, np.nan)
                ),
                "priced_over_logged": list(facts.logged_price_ratio),
            },
            "embedder": embedder_spec(predictor.embedder),
            "query_features": list(FEATURE_NAMES),
            "estimator": {
                "family": facts.family,
                "members": [member.kind for member in predictor.success.members],
                "decision_values": dict(facts.family_values),
                "n_references": len(predictor.references),
                "prior": facts.prior,
                "seed": facts.seed,
            },
            "objective": objective.describe(),
            "objective_kind": objective.kind,
            "objective_amount_usd": objective.amount_usd,
            "policy": {
                **choice.policy.to_dict(),
                "description": describe_policy(
                    choice.policy, tiers.names, confined=calibration.tried is not None
                ),
            },
            "certificate": choice.certificate.to_dict() if choice.certificate else None,
            "floor_menu": list(menu),
            "out_of_distribution": {"min_similarity": predictor.min_similarity},
            "feedback": dict(facts.feedback),
            "training": {
                "name": facts.name,
                "synthetic": facts.synthetic,
                "fingerprint": facts.fingerprint,
                "tier_success": list(facts.tier_success),
                "tier_means": facts.tier_means.to_dict(),
                **facts.counts,
                "split": dict(facts.split),
                # Counts only: neither where the file lay, nor text out of its columns.
                "read": {
                    name: value
                    for name, value in facts.read_report.items()
                    if name.startswith("n_") or name == "reasons"
                },
            },
            "metrics": dict(facts.metrics),
            "libraries": {name: _version(name) for name in _LIBRARIES},
        }
    )
    arrays = {
        **predictor.to_arrays(),
        **(escalation.to_arrays() if escalation else {}),
        **_calibration_arrays(calibration, calibration_tokens),
        "training.query_hashes": np.unique(facts.query_hashes),
    }
    save_artifact(out, manifest, arrays, embedder_files, key=key)
    manifest = read_manifest(out, key=key)
    # A card, not a part: without it the artifact is whole.
    with suppress(OSError):
        card = model_card(manifest).encode("utf-8", "backslashreplace")
        (out / MODEL_CARD).write_bytes(card)
    return manifest


def open_embedder(name: str | Path) -> tuple[Embedder, dict[str, bytes]]:
    """An embedder and the files that an artifact carries of it (none for contextual encoders)."""
    if str(name) == "static":
        name = default_embedder_folder()
    embedder = load_embedder(name)
    if not isinstance(embedder, StaticEmbedder):
        return embedder, {}
    files = static_files(name)
    return StaticEmbedder.from_files(files), files


def _calibration_arrays(
    rows: CalibrationRows, tokens: Mapping[str, npt.NDArray[np.float64]]
) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {
        "calibration.p_success": rows.p_success,
        "calibration.success": rows.success,
        "calibration.realised_cost_usd": rows.realised_cost_usd,
        "calibration.out_of_distribution": rows.out_of_distribution.astype(np.uint8),
        **({} if rows.tried is None else {"calibration.tried": rows.tried.astype(np.uint8)}),
        **{f"calibration.{name}": values for name, values in tokens.items()},
    }
    # Rows come in hash order, so the first ones are a random sample.
    return {name: values[:MAX_CALIBRATION_ROWS_KEPT] for name, values in arrays.items()}


def fingerprint(table: OutcomeTable, hashes: npt.NDArray[np.uint64]) -> str:
    """SHA-256 of what was learned from, in any order: hashed queries and all that was logged."""
    tasks = [0 if name is None else text_hash(name) for name in table.task]
    # What a log does not have leaves its fingerprint as it was before that was read.
    recorded = np.isfinite(table.propensity).any()
    columns = np.column_stack(
        [
            *([np.array(tasks, np.uint64).view(np.float64)] if any(tasks) else []),
            *([np.nan_to_num(table.propensity)] if recorded else []),
            hashes.view(np.float64),
            table.success,
            table.cost_usd,
            table.input_tokens,
            table.output_tokens,
            # Models that are no tier, in whatever order: how many were seen, and how they did.
            np.isfinite(table.other_success).sum(axis=1),
            np.nansum(table.other_success, axis=1),
        ]
    )
    rows = np.ascontiguousarray(columns).view([("", np.uint64)] * columns.shape[1])
    return hashlib.sha256(np.sort(rows, axis=0).tobytes()).hexdigest()


def calibration_tokens(
    predictor: Predictor, queries: Sequence[Query], embeddings: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Predicted tokens and dollars (n, T) of the calibration rows, so that prices can change."""
    heads = {
        name: getattr(predictor.cost, name) for name in ("input_tokens", "output_tokens", "usd")
    }
    parts: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in heads}
    # Piece by piece, since a query is some 2,600 numbers here.
    for start in range(0, max(len(queries), 1), _CHUNK):
        x = predictor.inputs(queries[start : start + _CHUNK], embeddings[start : start + _CHUNK])
        for name, head in heads.items():
            parts[name].append(head.predict(x))
    return {name: np.concatenate(found) for name, found in parts.items()}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _jsonable(value: Any) -> Any:
    """Plain JSON types; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
