"""The prior on difficulty: fitted, stored, and folded into weights without a trace at routing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save

from router import Router
from router.embedding import StaticEmbedder, load_embedder
from router.errors import ArtifactError
from router.query_features import N_FEATURES
from router.word_grams import N_GRAMS
from tests.artifacts import tiny_embedder
from training import prior as module
from training.default_artifact import pooled
from training.design import Design
from training.pipeline import train
from training.prepare import inputs_of
from training.prior import Prior, fit_prior
from training.synthetic import make_world, sample
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]


def world(n: int, seed: int) -> OutcomeTable:
    return sample(make_world(3), n, seed).table


@pytest.fixture(scope="module")
def fitted() -> tuple[Prior, FloatArray]:
    return fit_prior({"one": world(1200, 1), "two": world(400, 2)}, load_embedder("static"))


def scores(prior: Prior, queries: list[str]) -> FloatArray:
    embedder = load_embedder("static")
    vectors = embedder.embed(queries)
    data, _, _ = inputs_of(queries, vectors, np.arange(len(queries)) % 5, 0, prior.gram_weight)
    out: FloatArray = data.x[:, : len(prior.weight)] @ prior.weight
    return out


def test_the_shipped_prior_is_whole_and_of_the_shipped_embedder() -> None:
    embedder = load_embedder("static")
    prior = Prior.for_embedder(embedder)
    assert prior is not None and prior.embedder_digest == embedder.digest
    assert prior.weight.shape == (embedder.dimension + N_FEATURES + N_GRAMS, len(module.SCORES))
    assert prior.sets == module.SETS


def test_it_explains_difficulty_and_cost_of_queries_it_has_not_seen(
    fitted: tuple[Prior, FloatArray],
) -> None:
    prior, explained = fitted
    assert (explained > 0.05).all()
    fresh = world(600, 9)
    found = scores(prior, fresh.query.tolist())
    assert np.corrcoef(found[:, 0], fresh.success.mean(axis=1))[0, 1] > 0.2
    assert np.corrcoef(found[:, 1], np.log(fresh.cost_usd).mean(axis=1))[0, 1] > 0.5


def test_a_file_keeps_it(fitted: tuple[Prior, FloatArray], tmp_path: Path) -> None:
    prior, _ = fitted
    prior.save(tmp_path / "p.safetensors")
    again = Prior.load(tmp_path / "p.safetensors")
    np.testing.assert_allclose(again.weight, prior.weight, rtol=1e-6)
    assert (again.sets, again.embedder_digest) == (("one", "two"), prior.embedder_digest)
    assert len(again.digest) == 64


@pytest.mark.parametrize(
    "content", [None, b"", b"nonsense", "shape", "number", "cut", "negative", "facts"]
)
def test_a_damaged_file_is_refused_in_a_sentence(
    content: bytes | str | None, tmp_path: Path
) -> None:
    path = tmp_path / "p.safetensors"
    facts = {"embedder_digest": "d", "sets": "one"}
    arrays: dict[str, npt.NDArray[Any]] = {
        "weight": np.ones((N_FEATURES + N_GRAMS + 4, 2)),
        "gram_weight": np.ones(N_GRAMS),
        "query_hashes": np.arange(3, dtype=np.uint64),
    }
    if content == "shape":
        arrays["gram_weight"] = np.ones(5)
    elif content == "number":
        arrays["weight"][0, 0] = np.nan
    elif content == "cut":
        arrays["weight"] = arrays["weight"][:100]
    elif content == "negative":
        arrays["gram_weight"][0] = -1.0
    elif content == "facts":
        facts.pop("sets")
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else save(arrays, facts))
    with pytest.raises(ArtifactError, match="expected the prior on difficulty in p"):
        Prior.load(path)


def test_another_embedder_has_no_prior(tmp_path: Path) -> None:
    other = tiny_embedder(tmp_path / "tiny", ["a few words"])
    assert Prior.for_embedder(StaticEmbedder.load(other)) is None


def test_its_scores_are_folded_into_the_weights(fitted: tuple[Prior, FloatArray]) -> None:
    prior, _ = fitted
    queries = world(80, 3).query.tolist()
    vectors = load_embedder("static").embed(queries)
    data, _, refs = inputs_of(queries, vectors, np.arange(80) % 5, 0, prior.gram_weight)
    design = Design.of(data, refs.all, prior.weight)
    assert design.matrix.shape[1] == Design.of(data, refs.all).matrix.shape[1] + 2
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(design.matrix.shape[1], 3)), rng.normal(size=3)
    raw, raw_bias = design.unfold(weight, bias)
    np.testing.assert_allclose(
        data.x @ raw + raw_bias, design.matrix @ weight + bias, rtol=1e-7, atol=1e-7
    )


def test_training_names_it_and_can_do_without(tmp_path: Path) -> None:
    table = world(200, 4)
    options = {"estimator": "ridge", "track": False}
    warm = train(table, tmp_path / "warm", **options)
    cold = train(table, tmp_path / "cold", warm_start=False, **options)
    shipped = Prior.load()
    assert warm.manifest["estimator"]["prior"] == {
        "sha256": shipped.digest,
        "sets": list(shipped.sets),
    }
    assert cold.manifest["estimator"]["prior"] is None
    # Evaluation leaves out what the prior was fitted on, as it does the training queries.
    known = [set(Router.load(tmp_path / name).trained_query_hashes) for name in ("warm", "cold")]
    assert known[0] == known[1] | set(shipped.query_hashes)
    # Nothing of it is left to do when routing: the same arrays, other numbers.
    routers = [Router.load(tmp_path / name) for name in ("warm", "cold")]
    assert {n: a.shape for n, a in routers[0].predictor.to_arrays().items()} == {
        n: a.shape for n, a in routers[1].predictor.to_arrays().items()
    }
    queries = table.query[:20].tolist()
    warm_p, cold_p = (router.predict(queries).p_success for router in routers)
    assert not np.allclose(warm_p, cold_p)
    assert "prior" in json.loads((tmp_path / "warm" / "manifest.json").read_text())["estimator"]


def test_it_is_left_out_where_it_has_seen_a_query(
    fitted: tuple[Prior, FloatArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, _ = fitted
    monkeypatch.setattr(Prior, "load", lambda path=None: prior)
    seen, fresh = world(1200, 1), world(200, 11)
    assert prior.has_seen(seen.query[:1]) and not prior.has_seen(fresh.query)
    options: dict[str, Any] = {"estimator": "ridge", "track": False}
    warm = train(fresh, tmp_path / "fresh", **options)
    assert warm.manifest["estimator"]["prior"] is not None
    query = fresh.query.copy()
    query[7] = f"  {seen.query[3].upper()} "  # the same text, as far as splits are concerned
    cold = train(replace(fresh, query=query), tmp_path / "seen", **options)
    assert cold.manifest["estimator"]["prior"] is None
    assert any("prior on difficulty" in warning for warning in cold.warnings)
    assert not any("prior on difficulty" in warning for warning in warm.warnings)


def test_pooled_tables_keep_their_rows_apart() -> None:
    one, two = world(30, 5), world(20, 6)
    one = replace(one, other_success=np.ones((30, 2)))
    two = replace(two, other_success=np.zeros((20, 1)))
    both = pooled([one, two])
    assert both.n_requests == 50 and len(set(both.request_id)) == 50
    np.testing.assert_array_equal(both.success, np.vstack((one.success, two.success)))
    np.testing.assert_array_equal(both.cost_usd, np.vstack((one.cost_usd, two.cost_usd)))
    assert (
        np.isnan(both.other_success[:30, 2]).all() and np.isnan(both.other_success[30:, :2]).all()
    )
    assert (both.other_success[:30, :2] == 1).all() and (both.other_success[30:, 2] == 0).all()
