"""Compiled estimators against scikit-learn's own pipelines, and calibration on held-out rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from router.embedding import StaticEmbedder
from router.estimators import SuccessEstimator
from router.tiers import Tier, TierSet
from router.word_grams import N_GRAMS
from tests.minilm import static_folder
from training import fit, neighbours
from training.design import Design
from training.fit import (
    FAMILIES,
    LOGISTIC_STRENGTHS,
    MLP_PENALTIES,
    RIDGE_PENALTIES,
    TASK_FAMILIES,
    fit_success,
)
from training.inputs import Inputs, Scale
from training.metrics import calibration_error
from training.neighbours import References
from training.prepare import inputs_of
from training.split import fold_ids, query_hashes
from training.synthetic import make_world, sample
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Calibration = Callable[[FloatArray], FloatArray]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(limits=1):
        yield


TASKLESS = [family for family in FAMILIES if family not in TASK_FAMILIES]


@dataclass(frozen=True)
class World:
    """Rows to fit on and new rows, with outcomes of five awkward tiers."""

    data: Inputs
    refs: References
    design: Design
    success: FloatArray
    observed: BoolArray
    other_success: FloatArray
    new_x: FloatArray
    new_embedding: FloatArray

    @classmethod
    def make(cls, n: int = 240, seed: int = 0) -> World:
        """Tiers: ordinary; fractional success; half observed; always succeeds; never observed."""
        rng = np.random.default_rng(seed)
        embedding = unit(rng.normal(size=(n + 60, 6)))
        # Of the further inputs one is constant, one is on another scale.
        extra = np.column_stack([np.full(n + 60, 3.0), 500 + 40 * rng.normal(size=n + 60)])
        # Seven words, of which the first makes a request easy for the first tier.
        words = np.random.default_rng(seed + 100).random((n + 60, 7)) < 0.3
        grams = np.zeros((n + 60, N_GRAMS))
        grams[:, 100:800:100] = words / np.sqrt(np.maximum(words.sum(axis=1, keepdims=True), 1))
        logits = 4 * embedding[:, :5] + 0.3
        logits[:, 0] += 1.5 * words[:, 0] - 0.5
        p = 1 / (1 + np.exp(-logits))
        success = (rng.random((n + 60, 5)) < p).astype(float)
        success[:, 1] = np.round(p[:, 1], 2)
        success[::7, 1] = 1.0
        success[:, 3] = 1.0
        observed = np.ones((n, 5), dtype=bool)
        observed[:, 2] = rng.random(n) < 0.5
        observed[:, 4] = False
        # Models that are no tier, each known on some of the requests.
        others = (rng.random((n, 3)) < p[:n, [0, 0, 4]]).astype(float)
        others[rng.random((n, 3)) < 0.4] = np.nan
        folds = fold_ids(np.arange(n, dtype=np.uint64), 5, 0)
        refs = References.of(Inputs(embedding[:n], embedding[:n], folds, seed))
        kernel = np.exp(4.0 * (embedding @ refs.all.T - 1.0))
        x = np.hstack([embedding, extra, grams, kernel])
        data = Inputs(embedding[:n], x[:n], folds, seed, n_dense=8)
        design = Design.of(data, refs.all)
        known = np.where(observed, success[:n], np.nan)
        return cls(data, refs, design, known, observed, others, x[n:], embedding[n:])

    def predict(self, estimator: SuccessEstimator) -> FloatArray:
        return estimator.predict(self.new_x, self.new_embedding @ self.refs.all.T)

    def fit(
        self, *families: str, say: Callable[[str], None] | None = None
    ) -> dict[str, fit.Fitted]:
        return fit_success(
            self.data,
            self.design,
            self.refs,
            self.success,
            self.observed,
            families,
            say,
            other_success=self.other_success,
        )


def unit(x: FloatArray) -> FloatArray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def logit(p: FloatArray) -> FloatArray:
    return np.log(p / (1 - p))


# What follows says once more, with scikit-learn's own parts, what an estimator should predict.


def as_classes(
    x: FloatArray, success: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.int64], FloatArray]:
    """Every row as a success and as a failure, weighted by how much of either it was."""
    labels = np.repeat([1, 0], len(x))
    weights = np.concatenate([success, 1 - success])
    kept = weights > 0
    return np.vstack([x, x])[kept], labels[kept], weights[kept]


def scores_of(
    kind: str, option: float, rows: FloatArray, success: FloatArray, asked: FloatArray
) -> FloatArray:
    """Logits of one tier for the rows asked for; ``rows`` and ``success`` are the observed ones."""
    if len(success) == 0 or (np.ptp(success) == 0 and success[0] in (0, 1)):
        return np.full(len(asked), logit((success.sum() + 0.5) / (len(success) + 1)))
    x, labels, weights = as_classes(rows, success)
    if kind == "logistic":
        last: LogisticRegression | MLPClassifier = LogisticRegression(
            C=option / rows.shape[1], max_iter=500
        )
    else:
        last = MLPClassifier(
            (16,), solver="lbfgs", alpha=option, max_iter=fit.MLP_ITERATIONS, random_state=0
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        last.fit(x, labels, sample_weight=weights)
    if kind == "logistic":
        return np.asarray(last.decision_function(asked))
    return logit(last.predict_proba(asked)[:, 1])


def neighbour_scores(
    refs: FloatArray,
    rows: FloatArray,
    success: FloatArray,
    observed: BoolArray,
    asked: FloatArray,
    prior: FloatArray,
) -> FloatArray:
    """Logits (n, T): k weighted neighbours among the references by KNeighborsRegressor, shrunk."""
    n_tiers = success.shape[1]
    home = KNeighborsRegressor(1).fit(refs, np.arange(len(refs))).predict(rows).astype(int)
    totals = np.zeros((len(refs), 2 * n_tiers))
    for row, reference in enumerate(home):
        totals[reference] += np.r_[np.where(observed[row], success[row], 0), observed[row]]
    k = max(5, min(40, round(40 * len(refs) / len(rows))))

    def fading(distance: FloatArray) -> FloatArray:
        return 1 - distance**2 / (distance**2).max(axis=1, keepdims=True)

    found = KNeighborsRegressor(k + 1, weights=fading).fit(refs, totals).predict(asked)
    p = (k * found[:, :n_tiers] + 10 * prior) / (k * found[:, n_tiers:] + 10)
    return logit(p)


def calibrated(score: FloatArray, success: FloatArray, observed: BoolArray) -> list[Calibration]:
    """Per tier, a function from scores to calibrated logits, fitted on held-out scores."""
    functions: list[Calibration] = []
    for tier in range(score.shape[1]):
        seen = observed[:, tier]
        s, y = score[seen, tier], success[seen, tier]
        if len(y) == 0 or (np.ptp(y) == 0 and y[0] in (0, 1)):
            functions.append(lambda asked: asked)
            continue
        x, labels, weights = as_classes(s[:, None], y)
        platt = LogisticRegression(C=100.0, max_iter=500).fit(x, labels, sample_weight=weights)
        if platt.coef_[0, 0] > 0:
            functions.append(lambda asked, platt=platt: platt.decision_function(asked[:, None]))
        else:  # a score that points the wrong way says nothing
            mean = logit(y.mean())
            functions.append(lambda asked, mean=mean: np.full(len(asked), mean))
    return functions


def apply(functions: list[Calibration], score: FloatArray) -> FloatArray:
    return np.column_stack([f(score[:, t]) for t, f in enumerate(functions)])


def reference_scores(
    kind: str,
    option: float,
    world: World,
    inside: BoolArray,
    refs: FloatArray,
    asked: tuple[FloatArray, FloatArray],
) -> FloatArray:
    """Uncalibrated logits (n, T) of rows (inputs, embeddings), from the rows ``inside``."""
    data, x, embedding = world.data, *asked
    if kind == "knn":
        known, seen = world.success[inside], world.observed[inside]
        prior = (np.where(seen, known, 0).sum(axis=0) + 0.5) / (seen.sum(axis=0) + 1)
        return neighbour_scores(refs, data.embedding[inside], known, seen, embedding, prior)
    scale = StandardScaler().fit(data.x[:, :8])
    z, asked_z = scale.transform(data.x[:, :8]), scale.transform(x[:, :8])
    columns = []
    for tier in range(world.success.shape[1]):
        rows = inside & world.observed[:, tier]
        columns.append(scores_of(kind, option, z[rows], world.success[rows, tier], asked_z))
    return np.column_stack(columns)


def design_rows(world: World, x: FloatArray) -> FloatArray:
    """Inputs as the ridge regression sees them, each block scaled by its share."""
    scale = StandardScaler().fit(world.data.x[:, 6:8])
    kernel = x[:, 8 + N_GRAMS :] @ world.design.whitening
    features = scale.transform(x[:, 6:8]) * np.sqrt(0.3 / 2)
    return np.hstack([x[:, :6] * np.sqrt(0.5), features, x[:, 8 : 8 + N_GRAMS], kernel])


def reference_difficulty(world: World) -> FloatArray:
    """By request the mean, over the models seen on it, of success less the model's mean."""
    cells = np.hstack([world.success, world.other_success])
    means = [np.nanmean(column) if np.isfinite(column).any() else 0.0 for column in cells.T]
    return np.array([np.nanmean(row - means) for row in cells])


def ridge_scores(
    world: World, y: FloatArray, asked: FloatArray
) -> tuple[FloatArray, FloatArray, float]:
    """Held-out values (n,), values of the rows asked for, and the penalty; y is NaN if unknown."""
    data, matrix, known = world.data, design_rows(world, world.data.x), np.isfinite(y)
    if not known.any():
        return np.zeros(len(y)), np.zeros(len(asked)), np.nan

    def predicted(rows: BoolArray, penalty: float, asked: FloatArray) -> FloatArray:
        mean = y[rows].mean()
        model = Ridge(penalty, fit_intercept=False, solver="cholesky")
        return np.asarray(mean + model.fit(matrix[rows], y[rows] - mean).predict(asked))

    best = None
    for penalty in RIDGE_PENALTIES:
        held_out = np.empty(len(y))
        for fold in np.unique(data.fold):
            out = data.fold == fold
            held_out[out] = predicted(known & ~out, penalty, matrix[out])
        error = ((held_out - y)[known] ** 2).sum()
        if best is None or error < best[0]:
            best = error, penalty, held_out
    assert best is not None
    return best[2], predicted(known, best[1], asked), best[1]


def reference_ridge(world: World) -> tuple[FloatArray, FloatArray]:
    """A tier's own success and the shared difficulty, calibrated, averaged, calibrated again."""
    success, observed, n_tiers = world.success, world.observed, world.success.shape[1]
    asked = design_rows(world, world.new_x)
    own = [ridge_scores(world, success[:, tier], asked) for tier in range(n_tiers)]
    shared = [ridge_scores(world, reference_difficulty(world), asked)] * n_tiers
    held_out, new = [], []
    for parts in (own, shared):
        scores = np.column_stack([held for held, _, _ in parts])
        functions = calibrated(scores, success, observed)
        held_out.append(apply(functions, scores))
        new.append(apply(functions, np.column_stack([values for _, values, _ in parts])))
    mean = (held_out[0] + held_out[1]) / 2
    functions = calibrated(mean, success, observed)
    for tier in range(n_tiers):
        y = success[observed[:, tier], tier]
        if len(y) == 0 or np.ptp(y) == 0:
            constant = logit((y.sum() + 0.5) / (len(y) + 1))
            functions[tier] = lambda asked, constant=constant: np.full(len(asked), constant)
    return apply(functions, mean), apply(functions, (new[0] + new[1]) / 2)


def reference_member(kind: str, world: World) -> tuple[FloatArray, FloatArray]:
    """Calibrated held-out logits (n, T), and calibrated logits of the new rows."""
    if kind == "ridge":
        return reference_ridge(world)
    data, success, observed, refs = world.data, world.success, world.observed, world.refs
    best = None
    options = {"logistic": LOGISTIC_STRENGTHS, "mlp": MLP_PENALTIES, "knn": (0.0,)}[kind]
    for option in options:
        held_out = np.zeros(success.shape)
        for fold in np.unique(data.fold):
            out = data.fold == fold
            others = refs.without_fold[int(fold)]
            asked = data.x[out], data.embedding[out]
            held_out[out] = reference_scores(kind, option, world, ~out, others, asked)
        functions = calibrated(held_out, success, observed)
        held_out = apply(functions, held_out)
        everyone = np.ones(len(data.x), dtype=bool)
        asked = world.new_x, world.new_embedding
        new = apply(functions, reference_scores(kind, option, world, everyone, refs.all, asked))
        loss = reference_log_loss(1 / (1 + np.exp(-held_out)), success, observed)
        if best is None or loss < best[0]:
            best = loss, held_out, new
    assert best is not None
    return best[1], best[2]


def reference_log_loss(p: FloatArray, success: FloatArray, observed: BoolArray) -> float:
    twice, labels, weights = as_classes(p[observed][:, None], success[observed])
    return float(sklearn_log_loss(labels, twice[:, 0], sample_weight=weights, labels=[0, 1]))


@pytest.fixture(scope="module")
def world() -> World:
    return World.make()


@pytest.mark.parametrize("kind", ["ridge", "logistic", "knn", "mlp"])
def test_a_member_predicts_what_scikit_learn_predicts(world: World, kind: str) -> None:
    fitted = world.fit(kind)[kind]
    held_out, new = reference_member(kind, world)
    got = world.predict(fitted.estimator)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-new)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(fitted.cross_fitted, 1 / (1 + np.exp(-held_out)), rtol=0, atol=1e-6)
    # The tier that always succeeds, and the one never seen.
    always = (240 + 0.5) / 241
    if kind == "knn":  # the neighbours say so too
        always = (40 + 10 * always) / 50
    np.testing.assert_allclose(got[:, 3], always, rtol=0, atol=1e-6)
    np.testing.assert_allclose(got[:, 4], 0.5, rtol=0, atol=1e-6)
    # Of the others something was learned, so that the comparison above is of more than constants.
    assert (got[:, :3].std(axis=0) > 0.05).all()
    assert fit.log_loss(fitted.cross_fitted, world.success, world.observed) == pytest.approx(
        reference_log_loss(fitted.cross_fitted, world.success, world.observed)
    )


def test_a_blend_is_the_calibrated_mean_of_its_members_logits(world: World) -> None:
    fitted = world.fit("blend")["blend"]
    members = [reference_member(kind, world) for kind in FAMILIES["blend"]]
    assert len(members) == 2
    held_out = np.mean([held for held, _ in members], axis=0)
    functions = calibrated(held_out, world.success, world.observed)
    expected = apply(functions, np.mean([new for _, new in members], axis=0))
    got = world.predict(fitted.estimator)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-expected)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        logit(fitted.cross_fitted), apply(functions, held_out), rtol=0, atol=1e-6
    )


def test_neighbours_among_centroids_are_scikit_learns_among_the_same_centroids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "MAX_REFERENCE_ROWS", 100)
    monkeypatch.setattr(neighbours, "N_CENTROIDS", 50)
    world = World.make(300, seed=3)
    refs = world.refs
    assert {len(refs.all), *map(len, refs.without_fold.values())} == {50}
    fitted = world.fit("knn")["knn"]
    _, new = reference_member("knn", world)
    got = world.predict(fitted.estimator)
    # Centroids are stored as float32, so that their lengths are 1 to 7 digits only.
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-new)), rtol=0, atol=1e-6)


def test_a_shared_member_is_fitted_once_and_the_same(world: World) -> None:
    said: list[str] = []
    families = ["ridge", "logistic", "knn", "mlp", "blend"]
    together = world.fit(*families, say=said.append)
    assert [s.split()[-1] for s in said] == ["ridge", "logistic", "knn", "mlp"]
    assert list(together) == families
    for family in ("ridge", "logistic"):
        alone = world.fit(family)[family]
        np.testing.assert_array_equal(together[family].cross_fitted, alone.cross_fitted)
        a, b = together[family].estimator.to_arrays(), alone.estimator.to_arrays()
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)


def test_other_models_outcomes_help_where_a_tiers_own_are_few() -> None:
    """Twelve models succeed on the same requests; the tier is known on a tenth of them."""
    rng = np.random.default_rng(0)
    n = 500
    embedding = unit(rng.normal(size=(2 * n, 8)))
    p = 1 / (1 + np.exp(-4 * embedding[:, 0]))
    success = (rng.random((2 * n, 1)) < p[:, None]).astype(float)
    others = (rng.random((n, 12)) < p[:n, None]).astype(float)
    observed = rng.random((n, 1)) < 0.1
    data = Inputs(embedding[:n], embedding[:n], np.arange(n) % 5, 0)
    refs = References.of(data)
    design = Design.of(data, refs.all)

    def quality(other_success: FloatArray | None) -> tuple[float, FloatArray]:
        known = np.where(observed, success[:n], np.nan)
        fitted = fit_success(
            data, design, refs, known, observed, ["ridge"], other_success=other_success
        )["ridge"]
        new = fitted.estimator.predict(embedding[n:], embedding[n:] @ refs.all.T)
        return float(np.corrcoef(new[:, 0], p[n:])[0, 1]), fitted.cross_fitted

    alone, kept = quality(None)
    helped, _ = quality(others)
    assert helped > alone + 0.05
    assert helped > 0.95
    # None known is the same as none there.
    nothing, same = quality(np.full((n, 3), np.nan))
    assert nothing == alone
    np.testing.assert_array_equal(same, kept)
    np.testing.assert_array_equal(quality(np.empty((n, 0)))[1], kept)


def test_constant_inputs_leave_each_tier_its_base_rate() -> None:
    rng = np.random.default_rng(1)
    n = 100
    embedding = np.tile(unit(np.ones((1, 4))), (n, 1))
    success = (rng.random((n, 2)) < (0.3, 0.9)).astype(float)
    data = Inputs(embedding, np.hstack([embedding, np.zeros((n, 2))]), np.arange(n) % 5, 0)
    refs = References.of(data)
    design = Design.of(data, refs.all)
    observed = np.ones((n, 2), dtype=bool)
    for family, fitted in fit_success(data, design, refs, success, observed, TASKLESS).items():
        p = fitted.estimator.predict(data.x, embedding @ refs.all.T)
        np.testing.assert_allclose(p, [success.mean(axis=0)] * n, atol=0.03, err_msg=family)


@pytest.mark.parametrize("rare", [1, 3])
def test_few_successes_in_few_rows_do_not_break_a_fold(rare: int) -> None:
    # Some folds then hold one class only, inside or outside.
    rng = np.random.default_rng(2)
    embedding = unit(rng.normal(size=(40, 4)))
    success = np.zeros((40, 2))
    success[:rare, 0] = 1.0
    success[:, 1] = 1.0 - success[:, 0]
    data = Inputs(embedding, embedding, np.arange(40) % 5, 0)
    refs = References.of(data)
    design = Design.of(data, refs.all)
    observed = np.ones((40, 2), dtype=bool)
    for fitted in fit_success(data, design, refs, success, observed, TASKLESS).values():
        p = fitted.estimator.predict(embedding, embedding @ refs.all.T)
        assert np.isfinite(p).all() and (p > 0).all() and (p < 1).all()
        np.testing.assert_allclose(p.mean(axis=0), success.mean(axis=0), atol=0.1)


def noise(copies: int, seed: int = 0) -> tuple[Inputs, FloatArray, FloatArray]:
    """Labels that have nothing to do with 40 inputs, each row ``copies`` times in other folds."""
    rng = np.random.default_rng(seed)
    embedding = np.tile(unit(rng.normal(size=(200, 40))), (copies, 1))
    success = np.tile((rng.random((200, 2)) < (0.35, 0.8)).astype(float), (copies, 1))
    fold = (np.arange(200 * copies) + np.arange(200 * copies) // 200) % 5
    return Inputs(embedding, embedding, fold, 0), success, unit(rng.normal(size=(400, 40)))


@pytest.mark.parametrize("family", TASKLESS)
def test_what_cannot_be_predicted_is_not_predicted(family: str) -> None:
    def spread(copies: int) -> tuple[FloatArray, FloatArray]:
        data, success, new = noise(copies)
        refs = References.of(data)
        observed = np.ones(success.shape, dtype=bool)
        design = Design.of(data, refs.all)
        fitted = fit_success(data, design, refs, success, observed, [family])[family]
        p = fitted.estimator.predict(new, new @ refs.all.T)
        # A calibrated estimator cannot be surer of the rows it was fitted on either.
        seen = fitted.estimator.predict(data.x, data.embedding @ refs.all.T)
        return p.mean(axis=0) - success.mean(axis=0), seen.std(axis=0)

    off, sure = spread(1)
    assert np.abs(off).max() < 0.03
    assert sure.max() < 0.07
    # Copies in several folds let the calibration see rows that were fitted on: the same estimator
    # is then sure of what is chance. This is what held-out predictions protect from.
    _, sure_of_copies = spread(2)
    assert sure_of_copies.max() > 0.1


@dataclass(frozen=True)
class Synthetic:
    """Every family fitted on 1,200 requests; 4,000 fresh ones and what can be known of them."""

    fitted: dict[str, fit.Fitted]
    fitted_on: OutcomeTable
    p_success: dict[str, FloatArray]
    success: FloatArray
    p_readable: FloatArray


@pytest.fixture(scope="module")
def synthetic() -> Synthetic:
    embedder = StaticEmbedder.load(static_folder())

    drawn, fresh = sample(make_world(), 1200, 1), sample(make_world(), 4000, 2)
    queries, asked = list(drawn.table.query), list(fresh.table.query)
    folds = fold_ids(query_hashes(queries), 5, 0)
    with threadpool_limits(limits=1):
        table = drawn.table
        data, input_map, refs = inputs_of(
            queries, embedder.embed(queries), folds, 0, task=table.task
        )
        design = Design.of(data, refs.all)
        fitted = fit_success(data, design, refs, table.success, table.observed, FAMILIES)
    vectors = embedder.embed(asked)
    similarity = vectors @ refs.all.T
    x = input_map.many(asked, vectors, similarity)
    p = {name: found.estimator.predict(x, similarity) for name, found in fitted.items()}
    return Synthetic(fitted, drawn.table, p, fresh.table.success, fresh.p_readable)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_probabilities_hold_on_fresh_data(synthetic: Synthetic, family: str) -> None:
    p, success = synthetic.p_success[family], synthetic.success
    for tier in range(3):
        assert calibration_error(p[:, tier], success[:, tier]) < 0.05
        assert p[:, tier].mean() == pytest.approx(success[:, tier].mean(), abs=0.03)
        # ... while they tell queries apart: about as the truth does.
        assert np.corrcoef(p[:, tier], synthetic.p_readable[:, tier])[0, 1] > 0.5
    # Cross-fitted predictions promise no more than fresh data keep.
    kept = fit.log_loss(p, success, np.ones_like(p, dtype=bool))
    table = synthetic.fitted_on
    promised = fit.log_loss(synthetic.fitted[family].cross_fitted, table.success, table.observed)
    assert promised == pytest.approx(kept, abs=0.05)


def test_metrics_are_scikit_learns(world: World) -> None:
    rng = np.random.default_rng(0)
    tiers = TierSet([Tier(f"t{i}", "p", f"m{i}") for i in range(5)])
    n = len(world.success)
    cost = rng.uniform(1, 2, (n, 5))
    table = OutcomeTable.from_arrays(
        tiers, [f"q{i}" for i in range(n)], world.success, cost, observed=world.observed
    )
    p, predicted = rng.uniform(0.05, 0.95, (n, 5)), rng.uniform(1, 2, (n, 5))
    metrics = fit.fit_metrics(p, predicted, table)
    seen = world.observed[:, 2]
    assert metrics["auc.t2"] == pytest.approx(roc_auc_score(world.success[seen, 2], p[seen, 2]))
    assert metrics["log_loss.t2"] == pytest.approx(
        sklearn_log_loss(world.success[seen, 2], p[seen, 2])
    )
    assert metrics["cost_ratio.t2"] == pytest.approx(predicted[seen, 2].sum() / cost[seen, 2].sum())
    assert "auc.t3" not in metrics  # one class only
    assert not [name for name in metrics if name.endswith("t4")]  # never seen


def test_standardisation_leaves_a_constant_column_and_folds_into_weights() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(5, 3, 50), np.full(50, 7.0), rng.normal(0, 1e-4, 50)])
    scale = Scale.of(x)
    z = scale(x)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(z.std(axis=0), [1, 0, 1], atol=1e-9)
    weight, bias = rng.normal(size=(3, 2)), rng.normal(size=2)
    raw, raw_bias = scale.fold(weight, bias)
    np.testing.assert_allclose(x @ raw + raw_bias, z @ weight + bias, atol=1e-8)
    np.testing.assert_allclose(z, make_pipeline(StandardScaler()).fit_transform(x), atol=1e-9)
