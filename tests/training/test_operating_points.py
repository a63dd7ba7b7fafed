"""Every floor: certified as training certifies it, and played as it would be served."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from router.certificate import Floor
from router.routing import Router
from tests.artifacts import resave, sample_table
from training.details import Asked
from training.evaluate import evaluate
from training.operating_points import N_STEPS, floors_around, operating_points


@pytest.fixture(scope="module")
def router(small_artifact: Path) -> Router:
    return Router.load(small_artifact)


def test_the_asked_floor_is_the_artifact_and_its_evaluation(router: Router) -> None:
    report = evaluate(router, sample_table(200, 11), details=Asked(), n_bootstrap=100, seed=3)
    assert report.details is not None
    points = report.details.floors.points
    assert N_STEPS + 1 <= len(points) <= N_STEPS + 2
    (asked,) = (point for point in points if point.asked)
    assert asked.certificate == router.certificate
    assert asked.policy == router.policy
    # Value for value what the evaluation says of the router, intervals included.
    assert asked.measured == report.policies["router"]
    assert asked.share == report.policies["router"].share


def test_floors_are_those_of_the_menu(router: Router) -> None:
    found = operating_points(router, router.predict(["hello"]), None)
    by_words = {point.certificate.floor: point for point in found.points}
    for row in router.manifest["floor_menu"]:
        point = by_words[row["floor"]]
        assert point.certificate.certified == row["certified"]
        assert point.certificate.success_rate == row["success_rate"]
        assert point.certificate.cost_usd_per_request == row["cost_usd_per_request"]
        assert point.certificate.rows_needed == row["rows_needed"]
        assert point.measured is None


def test_a_lower_floor_never_costs_more(router: Router) -> None:
    found = operating_points(router, router.predict(["hello"]), None)
    levels = [point.level for point in found.points]
    assert levels == sorted(levels)
    cps = [
        point.certificate.cost_usd_per_request / point.certificate.success_rate
        for point in found.points
        if point.certificate.certified
    ]
    assert all(low <= high * (1 + 1e-9) for low, high in pairwise(cps))
    assert cps[0] < cps[-1]


def test_floors_of_an_absolute_one_are_rates() -> None:
    floors = floors_around(Floor(rate=0.873), np.array([0.6, 0.91]), 1)
    rates = [floor.rate for floor in floors if floor.rate is not None]
    assert len(rates) == N_STEPS + 2 and 0.873 in rates
    assert all(0 < rate < 1 for rate in rates)
    assert min(rates) <= 0.6 and max(rates) >= 0.91
    # The asked floor is there once, whatever its last digit.
    near = floors_around(Floor(margin=-0.05 + 1e-12, relative_to=0), np.array([0.6, 0.91]), 1)
    assert len(near) == N_STEPS + 1
    assert {floor.relative_to for floor in near} == {0}


def test_without_a_floor_they_are_relative_to_the_strongest(
    small_artifact: Path, tmp_path: Path
) -> None:
    def no_floor(manifest: dict[str, object]) -> None:
        manifest["certificate"] = None
        manifest["objective_kind"] = "value"

    router = Router.load(resave(small_artifact, tmp_path / "other", manifest=no_floor))
    found = operating_points(router, router.predict(["hello"]), None)
    assert found.relative_to == found.strongest
    assert not any(point.asked for point in found.points)
