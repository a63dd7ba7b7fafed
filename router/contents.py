"""From a verified artifact to what routes: refused here, on loading, if it could fail later.

Digests say that an artifact is what was saved; this says that what was saved fits together, so that
no decision meets an array of another shape or a tier that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from router.artifact import Artifact
from router.costs import CostEstimator, TierMeans
from router.embedding import Embedder, SentenceTransformerEmbedder, StaticEmbedder
from router.encoder import check_model
from router.errors import ArtifactError, EmbeddingError, InputError, MissingExtraError
from router.escalation import Escalation
from router.policy import Policy
from router.predictor import Predictor
from router.query_features import FEATURE_NAMES
from router.selection import Certificate
from router.support import MIN_PROPENSITY
from router.tiers import TierSet

FloatArray = npt.NDArray[np.float64]

_KINDS = ("value", "tier", "mix")
# Far beyond any dollars or tokens, and far from overflow when multiplied and squared.
_MOST = 1e30
# A cosine; in single precision it may be a little more than 1.
_MOST_SIMILAR = 1.001
_CALIBRATION = ("p_success", "success", "realised_cost_usd", "input_tokens", "output_tokens", "usd")


@dataclass(frozen=True, slots=True)
class Contents:
    """What an artifact says: tiers, how to predict, what to do, and what of it is certified.

    ``escalation`` is None where tries count as independent.
    """

    tiers: TierSet
    predictor: Predictor
    policy: Policy
    certificate: Certificate | None
    escalation: Escalation | None


def read_contents(artifact: Artifact) -> Contents:
    """Raises ArtifactError where anything is missing or does not fit the rest."""
    try:
        return _read(artifact.manifest, artifact.arrays, artifact.embedder_files)
    except (ArtifactError, MissingExtraError):
        raise
    except (InputError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ArtifactError(
            f"expected a complete artifact of format {artifact.manifest['format']}, got one "
            f"with wrong content ({type(error).__name__}): train it again."
        ) from error


def tested_prices(manifest: Mapping[str, Any]) -> tuple[FloatArray, FloatArray]:
    """Input and output prices (T,) in USD per million tokens that the policy was tested at.

    NaN where a tier's cost is predicted in dollars.
    """
    prices = manifest["prices"]
    return _numbers(prices["input_usd_per_mtok"]), _numbers(prices["output_usd_per_mtok"])


def _read(
    manifest: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    embedder_files: Mapping[str, bytes],
) -> Contents:
    tiers = TierSet.from_dicts(manifest["tiers"])
    prices = tested_prices(manifest)
    for price in prices:
        odd = (price < 0) | (price > _MOST)
        _require(price.shape == (len(tiers),) and not odd.any(), "a price of every tier")
    # The estimators' inputs stand in this order.
    _require(
        manifest["query_features"] == list(FEATURE_NAMES), f"the query features {FEATURE_NAMES}"
    )
    min_similarity = manifest["out_of_distribution"]["min_similarity"]
    _require(
        _is_number(min_similarity) and abs(min_similarity) <= _MOST_SIMILAR, "a least similarity"
    )
    predictor = Predictor.from_arrays(
        arrays,
        embedder=_embedder(manifest["embedder"], embedder_files),
        dimension=manifest["embedder"]["dimension"],
        members=manifest["estimator"]["members"],
        min_similarity=float(min_similarity),
        input_usd_per_mtok=prices[0],
        output_usd_per_mtok=prices[1],
    )
    policy = Policy.from_dict(manifest["policy"])
    _require(_is_policy(policy, len(tiers)), "a policy over its tiers")
    certificate = None
    if manifest["certificate"] is not None:
        certificate = Certificate.from_dict(manifest["certificate"])
        _require(_is_certificate(certificate, len(tiers)), "a certificate over its tiers")
    _check_training(manifest["training"], predictor.cost)
    _check_calibration(arrays, predictor.cost, max_weight(manifest))
    escalation = Escalation.from_arrays(arrays, len(tiers))
    return Contents(tiers, predictor, policy, certificate, escalation)


def _embedder(spec: Mapping[str, Any], files: Mapping[str, bytes]) -> Embedder:
    _require(
        isinstance(spec["id"], str) and type(spec["dimension"]) is int, "an embedder's id and size"
    )
    if spec["kind"] == "static":
        embedder = StaticEmbedder.from_files(files, id=spec["id"])
        if embedder.digest != spec["digest"] or embedder.dimension != spec["dimension"]:
            raise ArtifactError(
                "expected the embedder that the estimators were fitted on, got another one: "
                "train the artifact again."
            )
        return embedder
    _require(
        spec["kind"] == "sentence-transformers" and isinstance(spec["digest"], str),
        "an embedder of kind static or sentence-transformers",
    )
    # Weights stay outside the artifact: loaded, and their digest compared, on first use. That they
    # are there at all is known now, and so is whether anything can read them.
    try:
        check_model(spec["id"])
    except EmbeddingError as error:
        raise ArtifactError(str(error)) from error
    return SentenceTransformerEmbedder(spec["id"], expected_digest=spec["digest"])


def _is_policy(policy: Policy, n_tiers: int) -> bool:
    ends = (policy.low, policy.high)
    return (
        policy.kind in _KINDS
        and _is_number(policy.success_value_usd)
        and policy.success_value_usd >= 0
        and _is_tier(policy.safe_tier, n_tiers)
        and _is_tier(policy.strongest, n_tiers)
        and _is_number(policy.share_high)
        and 0 <= policy.share_high <= 1
        and (policy.kind == "value" or all(_is_tier(tier, n_tiers) for tier in ends))
        and (policy.kind != "tier" or policy.low == policy.high)
    )


def _is_certificate(certificate: Certificate, n_tiers: int) -> bool:
    relative = certificate.relative_to is not None
    return (
        type(certificate.certified) is bool
        and _is_number(certificate.confidence)
        and 0 < certificate.confidence < 1
        and _is_number(certificate.margin)
        and -1 < certificate.margin <= 0
        and (_is_tier(certificate.relative_to, n_tiers) if relative else True)
        and (certificate.rate is None if relative else _is_number(certificate.rate))
    )


def _check_training(training: Mapping[str, Any], cost: CostEstimator) -> None:
    means = TierMeans.from_dict(training["tier_means"])
    success = _numbers(training["tier_success"])
    shapes = {m.shape for m in (success, means.input_tokens, means.output_tokens, means.usd)}
    _require(
        shapes == {cost.by_tokens.shape}
        and _within(success, 1.0)
        and _known_where_predicted(cost, means.input_tokens, means.output_tokens, means.usd),
        "means of every tier",
    )


def max_weight(manifest: Mapping[str, Any]) -> float:
    """Largest importance weight in the calibration rows; 1 where their outcomes are known.

    Raises ArtifactError where it is no such number.
    """
    feedback = manifest.get("feedback", {"kind": "full"})
    if feedback["kind"] == "full":
        return 1.0
    found = feedback["max_weight"]
    _require(
        feedback["kind"] == "logged"
        and type(feedback["approximate"]) is bool
        and _is_number(found)
        and 1.0 <= found <= 1.0 / MIN_PROPENSITY,
        "feedback that is full, or logged with a largest weight",
    )
    return float(found)


def _check_calibration(
    arrays: Mapping[str, npt.NDArray[Any]], cost: CostEstimator, weight: float
) -> None:
    """The rows that a price change is tested on, and the hashes that evaluation leaves out."""
    n_tiers = len(cost.by_tokens)
    rows = {name: arrays[f"calibration.{name}"] for name in _CALIBRATION}
    outside, hashes = arrays["calibration.out_of_distribution"], arrays["training.query_hashes"]
    realised, tried = rows["realised_cost_usd"], arrays.get("calibration.tried")
    n = len(outside)
    _require(
        all(a.dtype == np.float64 and a.shape == (n, n_tiers) for a in rows.values())
        and _within(rows["p_success"], 1.0)
        # Pseudo-outcomes lie within the largest weight of what can be, on either side.
        and _within(rows["success"] + (weight - 1.0), 2.0 * weight - 1.0)
        and _within(np.abs(rows["realised_cost_usd"]) if weight > 1.0 else realised, _MOST)
        and (
            tried is None
            or (
                tried.dtype == np.uint8
                and tried.shape == (n, n_tiers)
                # A query has a tier to go to.
                and bool(tried.any(axis=1).all())
            )
        )
        and _known_where_predicted(
            cost, *(rows[n] for n in ("input_tokens", "output_tokens", "usd"))
        )
        and outside.dtype == np.uint8
        and outside.ndim == 1
        and hashes.dtype == np.uint64
        and hashes.ndim == 1,
        "calibration rows of every tier",
    )


def _known_where_predicted(
    cost: CostEstimator, input_tokens: FloatArray, output_tokens: FloatArray, usd: FloatArray
) -> bool:
    """Whether amounts (..., T) are usable; NaN only for tiers without a head that predicts them."""
    return all(
        bool((((values >= 0) & (values <= _MOST)) | (np.isnan(values) & ~head.fitted)).all())
        for head, values in (
            (cost.input_tokens, input_tokens),
            (cost.output_tokens, output_tokens),
            (cost.usd, usd),
        )
    )


def _within(values: FloatArray, most: float) -> bool:
    """Whether all are numbers from 0 to ``most``; NaN is none."""
    return bool(((values >= 0) & (values <= most)).all())


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ArtifactError(
            f"expected {what} in the artifact, got something else: train it again, or upgrade "
            "cps-router if a newer one made it."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def _is_tier(value: object, n_tiers: int) -> bool:
    return type(value) is int and 0 <= value < n_tiers


def _numbers(values: Sequence[float | None]) -> FloatArray:
    """JSON's null is NaN."""
    return np.array([np.nan if value is None else float(value) for value in values], dtype=float)
