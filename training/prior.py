"""A prior on difficulty: what many models' outcomes say of a query before its owner has logged any.

Two linear scores of the embedding, the query features and the word grams: how often models succeed
on a query, and how dear their answers are, both relative to the other queries of the same set. They
were fitted once on public outcome sets (``python -m training.prior``; models/README.md names them).
``train`` offers both to its ridge regressions as two more columns and folds them into the weights,
so that they cost nothing when a query is routed. They matter while outcomes are few.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save
from threadpoolctl import threadpool_limits

from router.embedding import Embedder, load_embedder
from router.errors import ArtifactError, CpsRouterError
from router.inputs import InputMap
from router.query_features import N_FEATURES
from router.tiers import TierSet
from router.word_grams import N_GRAMS
from training.datasets import fetch
from training.design import Design
from training.difficulty import difficulty
from training.features import embed_queries
from training.inputs import Inputs
from training.prepare import N_FOLDS
from training.ridge import fit_ridge
from training.split import fold_ids, query_hashes
from training.table import OutcomeTable, read_outcomes

FloatArray = npt.NDArray[np.float64]

SCORES = ("difficulty", "log cost")
SETS = ("mmlu_pro", "zeroeval")
PENALTIES = (3.0, 10.0, 30.0, 100.0)
PRIOR_FILE = Path(__file__).with_name("prior.safetensors")
_Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prior:
    """``weight`` (d+k+N_GRAMS, 2) on inputs made with ``gram_weight`` (N_GRAMS,).

    Only of use with the embedder of ``embedder_digest``, and for other queries than those it was
    fitted on, whose ``query_hashes`` (sorted, unsigned 64-bit) it carries; ``sets`` names where
    they are from, and ``digest`` is the SHA-256 of its file.
    """

    weight: FloatArray
    gram_weight: FloatArray
    query_hashes: npt.NDArray[np.uint64]
    embedder_digest: str
    sets: tuple[str, ...]
    digest: str = ""

    def save(self, path: Path) -> None:
        """Write it as a safetensors file, numbers in single precision."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "weight": self.weight.astype(np.float32),
            "gram_weight": self.gram_weight.astype(np.float32),
            "query_hashes": self.query_hashes,
        }
        facts = {"embedder_digest": self.embedder_digest, "sets": ",".join(self.sets)}
        path.write_bytes(save(arrays, facts))

    @classmethod
    def load(cls, path: Path = PRIOR_FILE) -> Prior:
        """Read one; raises ArtifactError where the file is missing or malformed."""
        try:
            content = path.read_bytes()
            arrays = load(content)
            with safe_open(path, "np") as file:
                facts: Mapping[str, str] = file.metadata() or {}
            prior = cls(
                arrays["weight"].astype(np.float64),
                arrays["gram_weight"].astype(np.float64),
                arrays["query_hashes"],
                facts["embedder_digest"],
                tuple(facts["sets"].split(",")),
                hashlib.sha256(content).hexdigest(),
            )
            if (
                prior.gram_weight.shape != (N_GRAMS,)
                or prior.weight.ndim != 2
                or prior.weight.shape[0] <= N_FEATURES + N_GRAMS
                or prior.weight.shape[1] != len(SCORES)
                or prior.query_hashes.dtype != np.uint64
                or not ((prior.gram_weight >= 0) & (prior.gram_weight < 1e6)).all()
                or not (np.abs(prior.weight) < 1e6).all()
            ):
                raise ValueError("content")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ArtifactError(
                f"expected the prior on difficulty in {path.name}, got a file that is missing or "
                "damaged: install cps-router again, or train without a warm start."
            ) from error
        return prior

    @classmethod
    def for_embedder(cls, embedder: Embedder) -> Prior | None:
        """The shipped prior where it reads this embedder's vectors, else None."""
        prior = cls.load()
        n_inputs = embedder.dimension + N_FEATURES + N_GRAMS
        fits = prior.embedder_digest == embedder.digest and len(prior.weight) == n_inputs
        return prior if fits else None

    def has_seen(self, queries: npt.NDArray[np.object_]) -> bool:
        """Whether it was fitted on the text of any of these queries.

        What it knows of them it has from their outcomes: tested on them, it would flatter.
        """
        return bool(np.isin(query_hashes(queries), self.query_hashes).any())


def fit_prior(
    tables: Mapping[str, OutcomeTable], embedder: Embedder, seed: int = 0, say: _Say | None = None
) -> tuple[Prior, FloatArray]:
    """Fit on every request of the sets; also the held-out R squared of both scores, (2,)."""
    targets = []
    for table in tables.values():
        hard, known = difficulty(table.success, table.observed, table.other_success)
        dear, priced = difficulty(np.log(table.cost_usd), np.isfinite(table.cost_usd), None)
        targets.append(np.where((known & priced)[:, None], np.column_stack((hard, dear)), np.nan))
    queries = [query for table in tables.values() for query in table.query.tolist()]
    if say:
        say(f"embedding {len(queries):,} queries")
    vectors = embed_queries(embedder, queries)
    input_map = InputMap.of(queries)
    no_kernel = np.zeros((len(queries), 0), np.float32)
    folds = fold_ids(query_hashes(queries), N_FOLDS, seed)
    x = input_map.many(queries, vectors, no_kernel)
    data = Inputs(vectors, x, folds, seed, vectors.shape[1] + N_FEATURES)
    design, y = Design.of(data, np.zeros((0, vectors.shape[1]), np.float32)), np.vstack(targets)
    if say:
        say("fitting")
    known_rows = np.isfinite(y)
    ridge = fit_ridge(design.matrix, folds, np.nan_to_num(y), known_rows, PENALTIES)
    weight, _ = design.unfold(ridge.weight, ridge.bias)
    error = np.where(known_rows, ridge.held_out - y, 0.0)
    spread = np.where(known_rows, y - np.nanmean(y, axis=0), 0.0)
    assert input_map.grams is not None
    hashes = np.unique(query_hashes(queries))
    prior = Prior(weight, input_map.grams.weight, hashes, embedder.digest, tuple(tables))
    return prior, 1.0 - (error**2).sum(axis=0) / (spread**2).sum(axis=0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.prior", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=PRIOR_FILE, help="file to write or replace")
    parser.add_argument("--set", action="append", dest="sets", help=f"default: {' '.join(SETS)}")
    parser.add_argument("--data", type=Path, default=Path("build/data"), help="where sets are kept")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        tables = {}
        for name in options.sets or SETS:
            say(f"reading {name}")
            data = fetch(name, options.data, on_progress=say)
            tables[name] = read_outcomes(data.outcomes, TierSet.from_toml(data.tiers))
        with threadpool_limits(limits=1):
            prior, explained = fit_prior(tables, load_embedder("static"), say=say)
        prior.save(options.out)
    except CpsRouterError as error:
        say(str(error))
        return error.exit_code
    for name, share in zip(SCORES, explained, strict=True):
        print(f"{name}: {share:.3f} of the variance explained on held-out queries")
    print(f"{hashlib.sha256(options.out.read_bytes()).hexdigest()}  {options.out.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
