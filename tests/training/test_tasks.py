"""The posterior over the log's tasks: what it learns, when there is none, and that it is served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from router.errors import ArtifactError, InputError
from router.inputs import InputMap
from router.routing import Router
from tests.artifacts import sample_table, tiny_embedder, train_tiny
from training import tasks
from training.design import Design
from training.fit import AUTO_FAMILIES, AUTO_FAMILIES_WITH_TASKS, fit_success
from training.prepare import inputs_of
from training.table import OutcomeTable
from training.tasks import MIN_QUERIES, fit_tasks

FloatArray = npt.NDArray[np.float64]
WORDS = {"sums": "add the numbers", "code": "write a function", "poem": "a verse about autumn"}


def queries(n: int = 120) -> tuple[list[str], npt.NDArray[np.object_]]:
    names = [list(WORDS)[i % 3] for i in range(n)]
    texts = [f"{WORDS[name]} {i * 37 % 101} {chr(97 + i % 26)}" for i, name in enumerate(names)]
    return texts, np.array(names, object)


def embedded(n: int) -> npt.NDArray[np.float32]:
    rows = np.random.default_rng(0).normal(size=(n, 6))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def prepared(
    task: npt.NDArray[np.object_] | None, n: int = 120
) -> tuple[InputMap, FloatArray, int]:
    texts, _ = queries(n)
    data, input_map, _ = inputs_of(texts, embedded(n), np.arange(n) % 5, 0, task=task)
    return input_map, data.tasks, data.n_tasks


def test_a_query_is_told_its_task_by_its_words() -> None:
    _, names = queries()
    input_map, posterior, n_tasks = prepared(names)
    assert n_tasks == 3
    np.testing.assert_allclose(posterior.sum(axis=1), 1.0)
    order = sorted(WORDS)
    assert [order[i] for i in posterior.argmax(axis=1)] == list(names)
    # Of queries that it has not seen, too.
    new = ["add the numbers 5000 and 7000", "a verse about autumn in Rome"]
    similarity = np.zeros((2, 120), np.float32)
    x = input_map.many(new, embedded(2), similarity)
    assert [order[i] for i in x[:, -3:].argmax(axis=1)] == ["sums", "poem"]


def test_a_fitting_rows_posterior_has_not_seen_its_own_label() -> None:
    """Labels that mean nothing are no better told than by chance."""
    rng = np.random.default_rng(1)
    names = np.array(rng.choice(["a", "b"], 120), object)
    _, posterior, _ = prepared(names)
    told = (posterior.argmax(axis=1) == (names == "b")).mean()
    assert 0.35 < told < 0.65


@pytest.mark.parametrize(
    "names",
    [
        [None] * 120,
        ["only"] * 120,
        ["a"] * (120 - MIN_QUERIES + 1) + ["b"] * (MIN_QUERIES - 1),
        [str(i) for i in range(120)],
    ],
)
def test_fewer_than_two_frequent_tasks_are_none(names: list[str | None]) -> None:
    input_map, posterior, n_tasks = prepared(np.array(names, object))
    assert (input_map.tasks, posterior.shape, n_tasks) == (None, (120, 0), 0)


def test_rows_without_a_frequent_task_get_a_posterior_too() -> None:
    _, names = queries()
    known = names.copy()
    known[::4] = None
    known[1] = "a rare one"
    _, posterior, n_tasks = prepared(known)
    assert n_tasks == 3
    order = sorted(WORDS)
    assert [order[i] for i in posterior[::4].argmax(axis=1)] == list(names[::4])


def test_only_the_most_frequent_tasks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MAX_TASKS", 4)
    names = np.array([f"t{i % 6}" for i in range(6 * MIN_QUERIES)], object)
    texts = [f"{name} {name}" for name in names]
    data, _, refs = inputs_of(texts, embedded(len(names)), np.arange(len(names)) % 5, 0)
    found = fit_tasks(names, data, Design.of(data, refs.all))
    assert found is not None
    posterior, held_out = found
    assert held_out.shape == (len(names), 4) and posterior.bias.shape == (4,)


def with_tasks(n: int = 400) -> OutcomeTable:
    table = sample_table(n)
    kinds = np.array([query.split()[0].lower()[:1] < "m" for query in table.query])
    return replace(table, task=np.where(kinds, "early", "late").astype(object))


def test_what_is_served_is_what_was_fitted(tmp_path: Path) -> None:
    table = with_tasks()
    embedder = tiny_embedder(tmp_path / "embedder", list(table.query))
    for family in ("ridge", "task", "ridge-task"):
        out = tmp_path / family
        manifest = train_tiny(table, out, embedder, estimator=family).manifest
        assert manifest["estimator"]["members"] == ["ridge"]
        router = Router.load(out)
        assert router.predictor.input_map.tasks is not None
        texts = list(table.query[:20])
        many = router.predict(texts)
        x = router.predictor.inputs(texts, router.predictor.embedder.embed(texts))
        similarity = router.predictor.embedder.embed(texts) @ router.predictor.references.T
        np.testing.assert_allclose(
            many.p_success, router.predictor.success.predict(x, similarity), atol=1e-9
        )
        one = [list(router.route(text).p_success.values()) for text in texts]
        np.testing.assert_allclose(one, many.p_success, atol=1e-6)
        if family == "task":
            # Nothing but the task counts.
            assert not router.predictor.success.members[0].linear[0][:-2].any()


def test_auto_tries_tasks_where_the_log_names_them(tmp_path: Path) -> None:
    table = with_tasks(150)
    embedder = tiny_embedder(tmp_path / "embedder", list(table.query))
    for log, families in (
        (table, AUTO_FAMILIES_WITH_TASKS),
        (replace(table, task=np.full(150, None, object)), AUTO_FAMILIES),
    ):
        manifest = train_tiny(log, tmp_path / "router", embedder, estimator="auto").manifest
        assert set(manifest["estimator"]["decision_values"]) == set(families)


def test_a_family_of_tasks_needs_tasks(tmp_path: Path) -> None:
    table = sample_table(120)
    table = replace(table, task=np.full(120, None, object))
    data, _, refs = inputs_of(list(table.query), embedded(120), np.arange(120) % 5, 0)
    design = Design.of(data, refs.all)
    for family in ("task", "ridge-task"):
        with pytest.raises(InputError, match="tasks"):
            fit_success(data, design, refs, table.success, table.observed, [family])


def test_a_posterior_that_does_not_fit_is_refused() -> None:
    _, names = queries()
    input_map, _, _ = prepared(names)
    arrays = input_map.to_arrays()
    again = InputMap.from_arrays(arrays)
    assert again.tasks is not None and again.sizes(6, 120) == input_map.sizes(6, 120)
    weight, bias = arrays["inputs.task_weight"], arrays["inputs.task_bias"]
    broken = {
        "no bias": {"inputs.task_bias": None},
        "no weight": {"inputs.task_weight": None},
        "wrong type": {"inputs.task_weight": weight.astype(np.float32)},
        "not finite": {"inputs.task_bias": np.where(bias == bias[0], np.nan, bias)},
        "other tasks": {"inputs.task_bias": bias[:-1]},
        "flat": {"inputs.task_weight": weight.ravel()},
        "too many": {
            "inputs.task_weight": np.zeros((len(weight), 1025)),
            "inputs.task_bias": np.zeros(1025),
        },
        "none": {"inputs.task_weight": weight[:, :0], "inputs.task_bias": bias[:0]},
    }
    for change in broken.values():
        changed = {name: a for name, a in {**arrays, **change}.items() if a is not None}
        with pytest.raises(ArtifactError, match=r"inputs\.task"):
            InputMap.from_arrays(changed)
    fewer = InputMap.from_arrays({**arrays, "inputs.task_weight": weight[:-1]})
    with pytest.raises(ArtifactError, match="task_weight"):
        fewer.sizes(6, 120)
