"""Splits of requests, always grouped by normalised query text, so that no text crosses one.

Membership follows from the text alone (or from its rank among all texts), never from the order of
the rows, so that shuffling or splitting a log into files changes nothing.
"""

from __future__ import annotations

import hashlib
import heapq
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from router.errors import InputError
from router.selection import CALIBRATION_SHARE
from router.stored_query import Query, StoredQuery

if TYPE_CHECKING:
    from training.table import OutcomeTable

__all__ = ["SplitMasks", "split_table"]

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
HashArray = npt.NDArray[np.uint64]

TEST_SHARE = 0.30


def normalise_text(text: str) -> str:
    r"""The form in which two queries count as the same text.

    Compatibility forms (NFKC) and letter case are folded, runs of white space become one space.

    >>> normalise_text("  Ｗhat IS\n it? ")
    'what is it?'
    """
    if text.isascii():  # the common case; NFKC changes nothing here
        return " ".join(text.lower().split())
    for _ in range(4):  # folding case can undo NFKC, and the reverse, for a few letters
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        folded = " ".join(folded.split())
        if folded == text:
            break
        text = folded
    return text


def query_hash(text: Query) -> int:
    """Unsigned 64-bit hash of the normalised text; the same in every process and on every machine.

    Lone surrogates, which UTF-8 cannot encode, are hashed as they stand.
    """
    return text.query_hash if isinstance(text, StoredQuery) else _hash(normalise_text(text))


def text_hash(text: Query) -> int:
    """As `query_hash`, of the text as it stands: tells whether two are the same query."""
    return text.text_hash if isinstance(text, StoredQuery) else _hash(text)


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def query_hashes(texts: Iterable[Query]) -> HashArray:
    """`query_hash` of many queries, shape (n,), uint64."""
    return np.fromiter((query_hash(text) for text in texts), dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class SplitMasks:
    """Which requests train and which test, each a bool array of shape (n,), never both.

    ``source`` says what decided: a split column (rows without a value went by hash or by time),
    the hash of the text, or time. ``n_leaked`` counts training rows in neither mask, because their
    text is in test too.
    """

    train: BoolArray
    test: BoolArray
    source: Literal["column", "hash", "time"]
    n_leaked: int


def split_table(
    table: OutcomeTable, *, test_share: float = TEST_SHARE, by: Literal["hash", "time"] = "hash"
) -> SplitMasks:
    """Split the requests of a table into train and test.

    A ``split`` value of a row is respected, and rows that were chosen to be labelled train. Others
    go by the hash of their text (``by="hash"``: a text keeps its side as a log grows), or the
    latest ``test_share`` of them is the test set (``by="time"``).

    Raises:
        InputError: ``test_share`` is not within 0..1, or a row to be split by time has no ``at``.
    """
    if not 0.0 < test_share < 1.0:
        raise InputError(f"expected a test share between 0 and 1, got {test_share}: choose 0.3.")
    hashes = query_hashes(table.query)
    # What was chosen by predictions is no sample to test on.
    given = np.array([value is not None for value in table.split], dtype=bool) | ~table.at_random
    test = np.array([value == "test" for value in table.split], dtype=bool)
    if by == "time":
        late = _late(table, ~given, test_share)
        test |= late
    elif by == "hash":
        test |= ~given & (_uniform(hashes, "split") < test_share)
    else:
        raise InputError(f"expected a split by 'hash' or 'time', got {by!r}: choose one.")
    leaked = ~test & np.isin(hashes, hashes[test])
    return SplitMasks(
        train=~test & ~leaked,
        test=test,
        source="column" if given.any() else by,
        n_leaked=int(leaked.sum()),
    )


def fitting_calibration(
    hashes: HashArray,
    *,
    calibration_share: float = CALIBRATION_SHARE,
    salt: str = "calibration",
) -> BoolArray:
    """Which training rows calibrate (True) and which fit (False), shape (n,), grouped by text.

    The share of rows is met as nearly as whole groups allow. Another ``salt`` gives another,
    independent division.
    """
    if not 0.0 <= calibration_share <= 1.0:
        raise InputError(
            f"expected a calibration share from 0 to 1, got {calibration_share}: choose 0.4."
        )
    unique, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    order = np.argsort(_mixed(unique, salt), kind="stable")
    # A group is in when the middle of its rows lies within the share: off by half a group at most.
    middle = np.cumsum(counts[order]) - counts[order] / 2
    chosen = np.zeros(len(unique), dtype=bool)
    chosen[order] = middle < calibration_share * len(hashes)
    result: BoolArray = chosen[inverse]
    return result


def fold_ids(hashes: HashArray, n_folds: int, seed: int) -> IntArray:
    """Fold of each row, 0..n_folds-1, shape (n,); a text is in one fold, fold sizes are balanced.

    Raises:
        InputError: fewer than 2 folds, or fewer different texts than folds.
    """
    unique, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    if not 2 <= n_folds <= len(unique):
        raise InputError(
            f"expected 2 to {len(unique)} folds (there are {len(unique)} different texts), "
            f"got {n_folds}: use fewer folds or more rows."
        )
    # Largest groups first, each into the fold with the fewest rows; ties in hashed order.
    order = np.lexsort((_mixed(unique, f"fold-{seed}"), -counts))
    loads = [(0, fold) for fold in range(n_folds)]
    folds = np.empty(len(unique), dtype=np.int64)
    for group in order:
        load, fold = loads[0]
        folds[group] = fold
        heapq.heapreplace(loads, (load + int(counts[group]), fold))
    result: IntArray = folds[inverse]
    return result


def _late(table: OutcomeTable, candidates: BoolArray, test_share: float) -> BoolArray:
    """The latest share of the candidate rows, (n,); rows of one moment stay together."""
    late = np.zeros(len(candidates), dtype=bool)
    where = np.flatnonzero(candidates)
    if not len(where):
        return late
    missing = sum(table.at[i] is None for i in where)
    if missing:
        raise InputError(
            f"a split by time needs 'at' in every row, {missing} requests have none: "
            f"add the times or split by hash."
        )
    seconds = np.array([table.at[i].timestamp() for i in where])
    cut = np.sort(seconds)[int((1.0 - test_share) * len(seconds))]
    late[where] = seconds >= cut
    return late


def _mixed(hashes: HashArray, salt: str) -> HashArray:
    """Hashes scrambled by a salt (splitmix64), so that one division says nothing of another."""
    offset = hashlib.blake2b(salt.encode("utf-8"), digest_size=8).digest()
    mixed = hashes + np.uint64(int.from_bytes(offset, "little"))  # arrays wrap around silently
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: HashArray = mixed ^ (mixed >> np.uint64(31))
    return result


def _uniform(hashes: HashArray, salt: str) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), one for each hash."""
    result: npt.NDArray[np.float64] = (_mixed(hashes, salt) >> np.uint64(11)) / 2.0**53
    return result
