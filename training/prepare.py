"""From a table to what is fitted on: split, order, embed; and the rows that only certify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from router.embedding import Embedder
from router.errors import InputError
from router.inputs import InputMap
from router.query_features import N_FEATURES
from router.selection import CALIBRATION_SHARE
from router.stored_query import Query
from router.tiers import TierSet, estimated_tokens
from training.design import Design
from training.features import embed_queries
from training.inputs import Inputs
from training.logging_policy import as_logged, is_logged
from training.neighbours import References
from training.split import SplitMasks, fitting_calibration, fold_ids, query_hashes, split_table
from training.table import OutcomeTable
from training.tasks import fit_tasks

N_FOLDS = 5
# Some 2,600 numbers stand for a query while estimators are fitted, several times over: more fitting
# requests than this are sampled, so that a large log needs about 4 GB and not 40.
MAX_FITTING_REQUESTS = 30_000
# Of the requests that were not chosen by predictions so many may calibrate, where the chosen ones
# are fitted on: some must tell the averages over traffic.
MAX_RANDOM_CALIBRATION = 2 / 3
# Fewer rows could neither be fitted and cross-fitted nor tested.
MIN_COMPLETE_REQUESTS = 30

# With fewer different queries to fit on, training says that it flags too many of their like:
# benchmarks/outside.py measures how many.
FEW_QUERIES = 100
# From these shares on, training says that requests repeat a text, or are too long for a tier.
NOTEWORTHY_COPIES = 0.05
NOTEWORTHY_LONG = 0.01

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Training rows, divided and embedded.

    ``train`` are all of them in an order that knows nothing of outcomes, with the ``hashes`` of
    their texts. ``fitting`` (embedded in ``data``) are fitted on. ``held`` only certify, with
    ``held_hashes`` and ``held_vectors``: one row per text on which every tier is known; of a
    ``logged`` table all rows. ``input_map`` and ``refs`` are of the fitting rows. ``n_ambiguous``
    requests were left out of a logged table, since it does not say what was chosen.
    """

    split: SplitMasks
    train: OutcomeTable
    hashes: npt.NDArray[np.uint64]
    fitting: OutcomeTable
    data: Inputs
    input_map: InputMap
    refs: References
    held: OutcomeTable
    held_hashes: npt.NDArray[np.uint64]
    held_vectors: Float32Array
    logged: bool
    n_ambiguous: int

    @property
    def counts(self) -> dict[str, int]:
        """How many requests went where, for the manifest."""
        return {
            "n_fitting": self.fitting.n_requests,
            "n_calibration": self.held.n_requests,
            "n_test": int(self.split.test.sum()),
            "n_left_out_as_leaked": self.split.n_leaked,
        }

    def warnings(self, tiers: TierSet) -> list[str]:
        """What a reader of the certificate should know of these rows."""
        said = []
        copies = 1.0 - len(np.unique(self.hashes)) / len(self.hashes)
        if copies > NOTEWORTHY_COPIES:
            said.append(
                f"{copies:.0%} of the training requests repeat a text; the success floor is about "
                "different texts, each counted once, not about traffic with its repetitions."
            )
        n_different = len(np.unique(query_hashes(self.fitting.query)))
        if n_different < FEW_QUERIES:
            said.append(
                f"{n_different} different queries to fit on are few to tell what is unlike them: "
                "about 1 % of queries like them may count as out of distribution and go to the "
                "safe tier, where 0.1 % is meant; train again when you have logged more."
            )
        if self.fitting.n_requests == MAX_FITTING_REQUESTS:
            said.append(
                f"estimators were fitted on a random {MAX_FITTING_REQUESTS:,} of the training "
                "requests, for the sake of memory; the certificate rests on all that were held "
                "back for it."
            )
        tight = [not all(tiers.takes(estimated_tokens(query))) for query in self.held.query]
        if tight and np.mean(tight) > NOTEWORTHY_LONG:
            said.append(
                f"{np.mean(tight):.0%} of the calibration queries are too long for some tier's "
                "context window; where the policy wants that tier, the decision falls back to "
                "another and is not certified."
            )
        return said


def prepare(
    table: OutcomeTable,
    embedder: Embedder,
    seed: int,
    say: Callable[[str], None],
    gram_weight: FloatArray | None = None,
) -> Prepared:
    """Split by text and embed. Test rows are not looked at.

    Raises InputError where a training row lacks its cost, or there are too few requests.
    """
    split = split_table(table)
    train, n_ambiguous = table.take(split.train), 0
    logged = is_logged(train)
    if logged:
        train, n_ambiguous = as_logged(train)
    train.require_costs()
    hashes = query_hashes(train.query)
    order = np.lexsort((query_hashes(train.request_id), hashes))
    train, hashes = train.take(order), hashes[order]
    calibrates = _calibrating(train, hashes)
    certifies = np.ones(train.n_requests, bool) if logged else train.complete
    _check_enough(train, hashes, calibrates, certifies, logged)

    say(f"embedding {train.n_requests:,} queries")
    vectors = embed_queries(embedder, list(train.query))
    fits, kept = ~calibrates, np.flatnonzero(calibrates & certifies)
    # Requests stand in the order of their texts' hashes: the first ones are a random sample.
    fits[np.flatnonzero(fits)[MAX_FITTING_REQUESTS:]] = False
    folds = fold_ids(hashes[fits], min(N_FOLDS, len(np.unique(hashes[fits]))), seed)
    fitting = train.take(fits)
    data, input_map, refs = inputs_of(
        list(fitting.query), vectors[fits], folds, seed, gram_weight, fitting.task
    )
    held = train.take(kept)
    if not logged:
        held, first = one_per_text(held, hashes[kept])
        kept = kept[first]
    return Prepared(
        split=split,
        train=train,
        hashes=hashes,
        fitting=fitting,
        data=data,
        input_map=input_map,
        refs=refs,
        held=held,
        held_hashes=hashes[kept],
        held_vectors=vectors[kept],
        logged=logged,
        n_ambiguous=n_ambiguous,
    )


def inputs_of(
    queries: Sequence[Query],
    vectors: Float32Array,
    folds: IntArray,
    seed: int,
    gram_weight: FloatArray | None = None,
    task: npt.NDArray[np.object_] | None = None,
) -> tuple[Inputs, InputMap, References]:
    """What estimators see of queries to fit on, and what makes the same of others.

    ``gram_weight`` (N_GRAMS,) is a prior's, by default the queries' own. ``task`` (n,) names the
    queries' tasks where they are known.
    """
    refs = References.of(Inputs(vectors, vectors.astype(np.float64), folds, seed))
    input_map = InputMap.of(queries, gram_weight)
    x = input_map.many(queries, vectors, vectors @ refs.all.T)
    data = Inputs(vectors, x, folds, seed, vectors.shape[1] + N_FEATURES)
    tasks = None if task is None else fit_tasks(task, data, Design.of(data, refs.all))
    if tasks is not None:
        posterior, held_out = tasks
        input_map = replace(input_map, tasks=posterior)
        x = np.hstack((x, held_out))
        data = replace(data, x=x, n_tasks=held_out.shape[1])
    return data, input_map, refs


def one_per_text(
    rows: OutcomeTable, hashes: npt.NDArray[np.uint64]
) -> tuple[OutcomeTable, npt.NDArray[np.intp]]:
    """Means of success and cost over the copies of each text, and the first row of each.

    All copies of a text are on one side of the split, so that they are a cluster, not independent
    rows; a certificate that counted each of them would promise too much.
    """
    first, mean = text_means(hashes)
    merged = replace(rows.take(first), success=mean(rows.success), cost_usd=mean(rows.cost_usd))
    return merged, first


def text_means(
    hashes: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.intp], Callable[[FloatArray], FloatArray]]:
    """The first row of each text (m,), and what makes means per text (m, T) of values (n, T)."""
    _, first, text, copies = np.unique(
        hashes, return_index=True, return_inverse=True, return_counts=True
    )

    def mean(values: FloatArray) -> FloatArray:
        sums = np.zeros((len(first), values.shape[1]))
        np.add.at(sums, text, values)
        return sums / copies[:, None]

    return first, mean


def _calibrating(train: OutcomeTable, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which requests calibrate (n,): never those that were chosen for what was predicted of them.

    A certificate is about traffic, of which those are no sample. A text that was drawn at random
    too counts as drawn, with all its copies: leaving it out would make a choice of the rest.
    """
    drawn = np.isin(hashes, hashes[train.at_random])
    if drawn.all():
        return fitting_calibration(hashes)
    calibrates = np.zeros(len(hashes), bool)
    if drawn.any():
        wanted = CALIBRATION_SHARE * len(hashes) / float(drawn.sum())
        calibrates[drawn] = fitting_calibration(
            hashes[drawn], calibration_share=min(wanted, MAX_RANDOM_CALIBRATION)
        )
    return calibrates


def _check_enough(
    train: OutcomeTable,
    hashes: npt.NDArray[np.uint64],
    calibrates: npt.NDArray[np.bool_],
    certifies: npt.NDArray[np.bool_],
    logged: bool,
) -> None:
    if train.n_requests == 0:
        raise InputError(
            "expected training requests, got none: every request is in the test split, or shares "
            "its text with one; mark rows as train in the split column or log other queries."
        )
    if logged and train.n_requests < MIN_COMPLETE_REQUESTS:
        raise InputError(
            f"expected at least {MIN_COMPLETE_REQUESTS} training requests with a tier's outcome, "
            f"got {train.n_requests}: log more of them."
        )
    if certifies.sum() < MIN_COMPLETE_REQUESTS:
        raise InputError(
            f"expected at least {MIN_COMPLETE_REQUESTS} training requests with the outcome of "
            f"every tier ({', '.join(train.tiers.names)}), got {int(certifies.sum())} of "
            f"{train.n_requests}: without them no policy can be compared or certified; "
            "run the same queries on every tier."
        )
    fits, texts = ~calibrates, len(np.unique(hashes))
    divided = (certifies & fits).any() and (certifies & calibrates).any()
    if not divided or len(np.unique(hashes[fits])) < 2:  # a text is on one side only
        raise InputError(
            f"expected different queries to fit on and to certify on, got {texts} different texts "
            f"in {train.n_requests} training requests: log more different queries."
        )
