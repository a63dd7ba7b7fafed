"""What a router makes of languages that it was not trained on, and what its fallback costs there.

The same requests are written in several languages (:mod:`benchmarks.language_phrases`). Arithmetic,
extraction, classification and translation come with the right answer. How likely each tier is to
succeed, and at what cost, follows from the request alone and is the same in every language: that of
its English wording in the world of :mod:`training.synthetic_world`. So whatever differs between
languages is the router's reading of them. A second truth has the tiers do worse outside English,
the cheaper ones most: what the router was certified for then says nothing of those queries.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.language_phrases import ENGLISH, LANGUAGES, NAMES, Phrases
from benchmarks.results import Say, Section, Table
from benchmarks.told import auc_per_tier
from router.decision import Predictions
from router.routing import Router
from training.metrics import calibration_error, expected_outcome
from training.pipeline import SHARE_OUTSIDE, train
from training.search import Objective
from training.split import split_table
from training.synthetic import make_world
from training.synthetic_queries import SyntheticQuery, write_queries
from training.synthetic_world import (
    World,
    cost_of_tokens_usd,
    mean_output_tokens,
    success_probabilities,
)
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]

MIXED = "English + Chinese"
LEFT_OUT = "Portuguese"
N_TRAIN, N_TEST, N_WORLDS = 3_000, 1_000, 5
# The pipeline's default objective.
MARGIN = 0.05
_TASKS = ("mathematics", "extraction", "classification", "translation", "qa", "analysis")
_KINDS = len(ENGLISH["label"])
# Seeds of what is asked lie this far from those of what is trained on.
_OTHERS = 1_000_003


@dataclass(frozen=True, slots=True)
class Item:
    """One request, in no language yet: which lines it takes and what fills their slots."""

    task: str
    core: int
    further: tuple[int, ...]
    numbers: Mapping[str, str]
    index: Mapping[str, int]

    @property
    def is_hard(self) -> bool:
        """Whether it asks for something that is hard whatever fills it."""
        return ENGLISH[self.task][self.core].startswith("!")

    def text(self, language: str) -> str:
        """The request in one of LANGUAGES, or as MIXED: told in English what follows in Chinese."""
        if language == MIXED:
            return f"Please answer in English: {self.text('Chinese')}"
        phrases = LANGUAGES[language]
        lines = [
            phrases[self.task][self.core].removeprefix("!"),
            *(phrases[f"{self.task}, further"][i] for i in self.further),
        ]
        space = "" if language == "Chinese" else " "
        return space.join(lines).format(**self.numbers, **self._words(phrases))

    def answer(self, language: str) -> str | None:
        """The one right answer where there is one: a number, a code, a label, a sentence."""
        a, b, c, d = (int(self.numbers[name]) for name in "abcd")
        if self.task == "mathematics":
            return str((a + b, a + c * d, b * c, 52 * a * c - d)[self.core])
        if self.task == "extraction":
            return self.numbers["code"]
        if self.task == "classification":
            return LANGUAGES[language]["label"][self.index["message"] % _KINDS]
        if self.task == "translation":
            target = tuple(LANGUAGES)[self.index["tongue"]]
            return LANGUAGES[target]["sentence"][self.index["sentence"]]
        return None

    def _words(self, phrases: Phrases) -> dict[str, str]:
        words = {name: phrases[name][self.index[name]] for name in _SLOTS}
        other = (self.index["topic"] + 1 + self.index["city"]) % len(phrases["topic"])
        return {**words, "other": phrases["topic"][other], "name": NAMES[self.index["name"]]}


_SLOTS = ("topic", "city", "message", "sentence", "tongue")


def write_items(n: int, seed: int) -> list[Item]:
    """Draw ``n`` requests; the same arguments give the same ones."""
    rng = random.Random(seed)

    def pick(size: int) -> int:
        return int(rng.random() * size)

    items = []
    for _ in range(n):
        task = _TASKS[pick(len(_TASKS))]
        index = {name: pick(len(ENGLISH[name])) for name in _SLOTS}
        items.append(
            Item(
                task,
                pick(len(ENGLISH[task])),
                ((), (0,), (1,), (0, 1))[pick(4)],
                {
                    "a": str(11 + pick(88)),
                    "b": str(60 + pick(180)),
                    "c": str(2 + pick(7)),
                    "d": str(2 + pick(8)),
                    "code": f"TK{1024 + pick(8976)}",
                },
                {**index, "name": pick(len(NAMES))},
            )
        )
    return items


def as_synthetic(item: Item, *, tiers_do_worse: bool = False) -> SyntheticQuery:
    """The request's English wording with what can be read in it, whatever language it comes in.

    Where tiers do worse outside English, they do by as much as the world has it for Spanish.
    """
    language = "es" if tiers_do_worse else "en"
    return SyntheticQuery(
        item.text("English"), item.task, language, len(item.further), int(item.is_hard)
    )


@dataclass(frozen=True, slots=True)
class Truth:
    """P(success) and E[cost in USD] (n, T) of requests, and outcomes drawn from them."""

    p_success: FloatArray
    cost_usd: FloatArray
    success: FloatArray

    @classmethod
    def of(cls, world: World, queries: Sequence[SyntheticQuery], seed: int) -> Truth:
        """``p_success`` is what the best router can know; outcomes have a hidden part besides."""
        rng = np.random.default_rng([world.seed, seed])
        given, readable = success_probabilities(world, queries, rng.standard_normal(len(queries)))
        tokens_in = np.array([[float(query.input_tokens)] for query in queries])
        cost = cost_of_tokens_usd(world, tokens_in, mean_output_tokens(world, queries))
        return cls(readable, cost, (rng.random(given.shape) < given).astype(np.float64))

    def table(self, world: World, texts: Sequence[str]) -> OutcomeTable:
        """The outcomes as training rows, with these wordings (n)."""
        split = ["train"] * len(texts)
        return OutcomeTable.from_arrays(
            world.tiers, texts, self.success, self.cost_usd, split=split
        )


def training_table(world: World, languages: Sequence[str], n: int, seed: int) -> OutcomeTable:
    """``n`` rows: half the synthetic sample's English queries, half requests, in turn in
    ``languages``.
    """
    sample = write_queries(n // 2, seed, spanish_share=0.0)
    items = write_items(n - n // 2, seed)
    texts = [item.text(languages[i % len(languages)]) for i, item in enumerate(items)]
    truth = Truth.of(world, [*sample, *map(as_synthetic, items)], seed)
    return truth.table(world, [*(query.text for query in sample), *texts])


@dataclass(frozen=True, slots=True)
class Played:
    """What the policy does, in true expectation: rates 0..1 and dollars per request.

    With the fallback of flagged queries to the safe tier, and as if nothing was flagged. The floor
    is the strongest tier's success rate less MARGIN.
    """

    floor: float
    success: float
    success_without: float
    cost_usd: float
    cost_usd_without: float

    @classmethod
    def of(cls, router: Router, predicted: Predictions, truth: Truth) -> Played:
        """On requests with this truth."""
        blind = replace(predicted, out_of_distribution=np.zeros_like(predicted.out_of_distribution))
        dist, dist_without = router.action_dist(predicted), router.action_dist(blind)
        return cls(
            float(truth.p_success[:, router.policy.strongest].mean()) - MARGIN,
            float(expected_outcome(dist, truth.p_success).mean()),
            float(expected_outcome(dist_without, truth.p_success).mean()),
            float(expected_outcome(dist, truth.cost_usd).mean()),
            float(expected_outcome(dist_without, truth.cost_usd).mean()),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """One router on one language; shares 0..1, dollars per request.

    ``flagged`` is out of distribution, ``by_similarity`` and ``by_text`` (scripts and words) are
    its parts, which may overlap. ``calibration_error`` is the mean over tiers. ``worse`` is what is
    played where tiers do worse outside English.
    """

    flagged: float
    by_similarity: float
    by_text: float
    auc: list[float]
    calibration_error: float
    safe_tier_usd: float
    played: Played
    worse: Played

    @property
    def fallback_usd(self) -> float:
        """What flagged queries cost: their share times the safe tier's mean price."""
        return self.flagged * self.safe_tier_usd


Measured = dict[tuple[str, str], list[Found]]


def measure_language(
    router: Router, language: str, items: Sequence[Item], truth: Truth, worse: Truth
) -> Found:
    """How ``router`` reads and routes the same requests in one language."""
    texts = [item.text(language) for item in items]
    predicted = router.predict(texts)
    by_similarity, by_text = readings(router, texts)
    assert np.array_equal(predicted.out_of_distribution, by_similarity | by_text)
    errors = [
        calibration_error(p, s) for p, s in zip(predicted.p_success.T, truth.success.T, strict=True)
    ]
    return Found(
        float(predicted.out_of_distribution.mean()),
        float(by_similarity.mean()),
        float(by_text.mean()),
        auc_per_tier(predicted.p_success, truth.success),
        float(np.mean(errors)),
        float(truth.cost_usd[:, router.safe_tier].mean()),
        Played.of(router, predicted, truth),
        Played.of(router, predicted, truth if language == "English" else worse),
    )


def readings(
    router: Router, texts: Sequence[str]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which texts (n,) are too far from the references, and which in unknown scripts or words."""
    predictor = router.predictor
    nearest = (predictor.embedder.embed(texts) @ predictor.references.T).max(axis=1)
    assert predictor.coverage is not None
    return (
        nearest < predictor.min_similarity,
        predictor.coverage.excludes_many(texts, nearest.tolist()),
    )


def trained(
    table: OutcomeTable,
    estimator: str,
    seed: int,
    say: Say,
    label: str,
    objective: Objective | None = None,
) -> Router:
    """The real pipeline's router of ``table``, out of a folder that is gone again."""
    with tempfile.TemporaryDirectory(prefix="cps-router-bench-") as folder:
        result = train(
            table,
            Path(folder) / "artifact",
            objective=objective,
            estimator=estimator,
            seed=seed,
            track=False,
            on_progress=lambda message: say(f"{label}: {message}"),
        )
        return Router.load(result.folder)


def measure(
    real: Mapping[str, OutcomeTable],
    left_out: Sequence[str],
    say: Say,
    *,
    seed: int = 0,
    estimator: str = "ridge",
    n_train: int = N_TRAIN,
    n_test: int = N_TEST,
    n_worlds: int = N_WORLDS,
) -> Section:
    """Routers trained on English, on all languages and on all but one; and on ``real`` queries."""
    found: Measured = {}
    for world in range(seed, seed + n_worlds):
        for key, each in _in_world(world, estimator, n_train, n_test, say).items():
            found.setdefault(key, []).append(each)
    items = write_items(n_test, seed + _OTHERS)
    flagged = {
        name: _flagged_by_real(name, table, items, estimator, seed, say)
        for name, table in real.items()
    }
    note = (
        f"{n_worlds} worlds of 3 made-up tiers, means over them; in each {n_train:,} training "
        "rows: half the synthetic sample's English queries, half these requests in the languages "
        f"named; {n_test:,} other requests asked, the same in every language. Estimator "
        f"{estimator}."
    )
    shown = [_reading_table(found, note), _floor_table(found), _worse_table(found)]
    if flagged:
        shown.append(_real_table(flagged))
    if left_out:
        shown.append(Table("Left out", ("set",), [(sentence,) for sentence in left_out]))
    rows = [
        {
            "trained_on": trained_on,
            "asked_in": language,
            "worlds": [asdict(each) for each in worlds],
        }
        for (trained_on, language), worlds in found.items()
    ]
    return Section("Languages", shown, {"seed": seed, "rows": rows, "real": flagged})


def _in_world(
    seed: int, estimator: str, n_train: int, n_test: int, say: Say
) -> dict[tuple[str, str], Found]:
    """By what was trained on and what is asked in."""
    names = tuple(LANGUAGES)
    without = tuple(name for name in names if name != LEFT_OUT)
    trainings = {
        "English": (("English",), (*names, MIXED)),
        "all six": (names, (*names, MIXED)),
        f"all but {LEFT_OUT}": (without, (LEFT_OUT,)),
    }
    world = make_world(seed=seed, spanish_share=0.0)
    items = write_items(n_test, seed + _OTHERS)
    truth = Truth.of(world, [as_synthetic(item) for item in items], seed + _OTHERS)
    abroad = [as_synthetic(item, tiers_do_worse=True) for item in items]
    worse = Truth.of(world, abroad, seed + _OTHERS)
    found = {}
    for label, (languages, asked) in trainings.items():
        table = training_table(world, languages, n_train, seed)
        router = trained(table, estimator, seed, say, f"languages, world {seed}, {label}")
        for language in asked:
            found[label, language] = measure_language(router, language, items, truth, worse)
    return found


def _flagged_by_real(
    name: str, table: OutcomeTable, items: Sequence[Item], estimator: str, seed: int, say: Say
) -> dict[str, list[float]]:
    """Shares flagged (in all, by similarity, by script or words) of its test rows and of items."""
    router = trained(table, estimator, seed, say, f"languages, {name}")
    texts = {f"{name}, test rows": _test_queries(table)}
    texts |= {language: [i.text(language) for i in items] for language in (*LANGUAGES, MIXED)}
    shares = {}
    for label, queries in texts.items():
        parts = readings(router, queries)
        shares[label] = [float(part.mean()) for part in (parts[0] | parts[1], *parts)]
    return shares


def _test_queries(table: OutcomeTable) -> list[str]:
    found: list[str] = table.take(split_table(table).test).query.tolist()
    return found


def _reading_table(found: Measured, note: str) -> Table:
    tiers = " ".join(make_world().tiers.names)
    columns = (
        *("trained on", "asked in", "out of distribution", "by similarity", "by script or words"),
        *(f"AUC {tiers}", "calibration error"),
    )
    rows = [
        (
            *key,
            *(f"{_mean(worlds, name):.1%}" for name in ("flagged", "by_similarity", "by_text")),
            " ".join(f"{value:.2f}" for value in np.mean([each.auc for each in worlds], axis=0)),
            f"{_mean(worlds, 'calibration_error'):.3f}",
        )
        for key, worlds in found.items()
    ]
    flags = (
        "AUC and calibration error are of all queries, flagged ones too. Meant to be out of "
        f"distribution: about {SHARE_OUTSIDE:.1%} of traffic like the training rows."
    )
    return Table("Languages: what is read", columns, rows, (note, flags))


def _floor_table(found: Measured) -> Table:
    columns = (*_FLOOR_COLUMNS, "flagged x safe tier's $ per 1,000", "= $ of the fallback")
    rows = [
        (
            *key,
            *_floor_cells([each.played for each in worlds]),
            f"{_mean(worlds, 'flagged'):.1%} x {1000 * _mean(worlds, 'safe_tier_usd'):.2f}",
            f"{1000 * _mean(worlds, 'fallback_usd'):.2f}",
        )
        for key, worlds in found.items()
    ]
    note = (
        f"The floor is the strongest tier's success less {MARGIN:g}; success and dollars are true "
        "expectations. Here each tier is as good in every language."
    )
    return Table("Languages: does the floor hold?", columns, rows, (note,))


def _worse_table(found: Measured) -> Table:
    rows = [
        (*key, *_floor_cells([each.worse for each in worlds]))
        for key, worlds in found.items()
        if key[1] != "English"
    ]
    note = (
        "The same routers and requests, but outside English every tier short of the dearest "
        "succeeds less often, the cheapest above all; no training row showed that."
    )
    title = "Languages: does the floor hold where tiers do worse outside English?"
    return Table(title, _FLOOR_COLUMNS, rows, (note,))


_FLOOR_COLUMNS = (
    *("trained on", "asked in", "floor", "success", "worlds it holds in", "success without"),
    *("worlds it holds in", "$ per 1,000", "$ without fallback"),
)


def _floor_cells(worlds: Sequence[Played]) -> tuple[str, ...]:
    """The cells of _FLOOR_COLUMNS after the first two."""
    held = sum(each.success >= each.floor for each in worlds)
    held_without = sum(each.success_without >= each.floor for each in worlds)
    return (
        f"{_mean(worlds, 'floor'):.3f}",
        f"{_mean(worlds, 'success'):.3f}",
        f"{held} of {len(worlds)}",
        f"{_mean(worlds, 'success_without'):.3f}",
        f"{held_without} of {len(worlds)}",
        f"{1000 * _mean(worlds, 'cost_usd'):.2f}",
        f"{1000 * _mean(worlds, 'cost_usd_without'):.2f}",
    )


def _mean(worlds: Sequence[Found] | Sequence[Played], name: str) -> float:
    return float(np.mean([getattr(each, name) for each in worlds]))


def _real_table(flagged: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    columns = (
        *("trained on", "asked", "out of distribution", "by similarity", "by script or words"),
    )
    rows = [
        (name, label, *(f"{share:.1%}" for share in shares))
        for name, asked in flagged.items()
        for label, shares in asked.items()
    ]
    note = "The requests are the same as above; the test rows are the real set's own."
    return Table("Languages: what routers of real queries flag", columns, rows, (note,))
