"""The statements of the ledger, in the words that SQLite and PostgreSQL share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from router.ledger.numbers import Kept
from router.ledger.rows import (
    ERASED,
    LedgerEntry,
    Row,
    attempt_from,
    feedback_from,
    request_from,
)
from router.ledger.tables import attempts, batch_rows, feedback, requests, warm_prefixes
from router.records import WarmPrefix

# Of the ids asked for in one statement.
_MAX_IDS = 10_000
CLOCK_SKEW_S = 10.0
"""How far the clocks of machines that share a ledger may be apart."""
# Below every score: no score.
_NONE = -1e308


def _insert(dialect: str, table: sa.Table) -> Any:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def _replacing(insert: Any, table: sa.Table, where: Any, **values: Any) -> Any:
    """Insert, or replace the row of the same key by the new one ``where`` that is so."""
    keys = [column.name for column in table.primary_key]
    new = {name: insert.excluded[name] for name in _rest(table)} | values
    return insert.on_conflict_do_update(index_elements=keys, set_=new, where=where)


def _rest(table: sa.Table) -> list[str]:
    return [column.name for column in table.columns if not column.primary_key]


# Statements are built once: building one takes longer than running it.
@cache
def _upsert_request(dialect: str) -> Any:
    insert = _insert(dialect, requests)
    new, old = insert.excluded, requests.c
    is_later = new.revision >= old.revision
    values = {name: sa.case((is_later, new[name]), else_=old[name]) for name in _rest(requests)}
    # A query is kept from whichever record has one.
    has_new = new.query.is_not(None) | new.query_json.is_not(None)
    has_old = old.query.is_not(None) | old.query_json.is_not(None)
    is_erased = sa.func.coalesce(old.query_json, "") == ERASED
    takes_query = has_new & (is_later | ~has_old) & ~is_erased
    for name in ("query", "query_json"):
        values[name] = sa.case((takes_query, new[name]), else_=old[name])
    return _replacing(insert, requests, None, **values)


@cache
def _upsert_attempt(dialect: str) -> Any:
    insert = _insert(dialect, attempts)
    return _replacing(insert, attempts, insert.excluded.revision >= attempts.c.revision)


@cache
def _upsert_own_attempt(dialect: str) -> Any:
    insert = _insert(dialect, attempts)
    new, old = insert.excluded, attempts.c
    is_same = (new.at_us == old.at_us) & (new.tier == old.tier)
    statement = _replacing(insert, attempts, (new.revision >= old.revision) & is_same)
    return statement.execution_options(preserve_rowcount=True)


@cache
def _upsert_feedback(dialect: str, is_latest: bool) -> Any:
    insert = _insert(dialect, feedback)
    new, old = insert.excluded, feedback.c
    if is_latest:
        after = sa.case((new.at_us > old.at_us, new.at_us), else_=old.at_us + 1)
        # The same said again is the same: it keeps its time.
        differs = (new.success != old.success) | new.score.is_distinct_from(old.score)
        return _replacing(insert, feedback, differs, at_us=after)
    lower_score = sa.func.coalesce(new.score, _NONE) < sa.func.coalesce(old.score, _NONE)
    worse = (new.success < old.success) | ((new.success == old.success) & lower_score)
    later = (new.at_us > old.at_us) | ((new.at_us == old.at_us) & worse)
    return _replacing(insert, feedback, later)


@cache
def _upsert_warm(dialect: str) -> Any:
    insert = _insert(dialect, warm_prefixes)
    where = insert.excluded.stored_at_s >= warm_prefixes.c.stored_at_s
    return _replacing(insert, warm_prefixes, where)


def upsert_requests(connection: sa.Connection, rows: Sequence[Row]) -> None:
    """Write requests; see `Ledger.record` for what replaces what."""
    connection.execute(_upsert_request(connection.dialect.name), rows)


def upsert_attempts(connection: sa.Connection, rows: Sequence[Row]) -> None:
    """Write attempts; see `Ledger.record`."""
    if rows:
        connection.execute(_upsert_attempt(connection.dialect.name), rows)


def upsert_own_attempts(connection: sa.Connection, rows: Sequence[Row]) -> int:
    """Write attempts whose numbers are free, or theirs; how many were written."""
    if not rows:
        return 0
    return connection.execute(_upsert_own_attempt(connection.dialect.name), rows).rowcount


def kept_of(connection: sa.Connection, request_ids: Sequence[str]) -> dict[str, Kept]:
    """What is there of the attempts of some requests."""
    columns = attempts.c
    found: dict[str, Kept] = defaultdict(Kept)
    wanted = (columns.request_id, columns.attempt, columns.at_us, columns.tier, columns.revision)
    for start in range(0, len(request_ids), _MAX_IDS):
        ids = request_ids[start : start + _MAX_IDS]
        query = sa.select(*wanted).where(columns.request_id.in_(ids)).order_by(columns.attempt)
        for request_id, number, at_us, tier, revision in connection.execute(query):
            found[request_id].add(number, (at_us, tier), revision)
    return found


def upsert_feedback(connection: sa.Connection, row: Row, *, is_latest: bool) -> None:
    """Write a feedback; ``is_latest`` puts it after the one that is there, whatever the clock."""
    connection.execute(_upsert_feedback(connection.dialect.name, is_latest), [row])


def upsert_warm(connection: sa.Connection, rows: Sequence[Row], now_s: float) -> None:
    """Write warm prefixes; an older one replaces no newer one, unless that is of the future."""
    columns = warm_prefixes.c
    latest_s = max(now_s, *(row["stored_at_s"] for row in rows)) + CLOCK_SKEW_S
    keys = sorted({row["key"] for row in rows})
    for start in range(0, len(keys), _MAX_IDS):
        its = columns.key.in_(keys[start : start + _MAX_IDS])
        # From a clock that was ahead: it would be the newest until all others get there.
        connection.execute(warm_prefixes.delete().where(its & (columns.stored_at_s > latest_s)))
    connection.execute(_upsert_warm(connection.dialect.name), rows)


def is_recorded(connection: sa.Connection, request_id: str) -> bool:
    """Whether a request has a record."""
    found = sa.select(requests.c.done).where(requests.c.request_id == request_id)
    return connection.execute(found).first() is not None


def entries_after(
    connection: sa.Connection,
    last: tuple[int, str] | None,
    low_us: int | None,
    high_us: int | None,
    limit: int,
) -> list[LedgerEntry]:
    """The next requests in order of time and id."""
    order = (requests.c.at_us, requests.c.request_id)
    query = sa.select(requests).order_by(*order).limit(limit)
    if last is not None:
        query = query.where(sa.tuple_(*order) > sa.tuple_(*map(sa.literal, last)))
    if low_us is not None:
        query = query.where(requests.c.at_us >= low_us)
    if high_us is not None:
        query = query.where(requests.c.at_us < high_us)
    return _entries(connection, connection.execute(query).mappings().all())


def entry(connection: sa.Connection, request_id: str) -> LedgerEntry | None:
    """One request."""
    query = sa.select(requests).where(requests.c.request_id == request_id)
    found = _entries(connection, connection.execute(query).mappings().all())
    return found[0] if found else None


def _entries(connection: sa.Connection, rows: Sequence[Any]) -> list[LedgerEntry]:
    ids = [row["request_id"] for row in rows]
    found: dict[str, dict[str, list[Any]]] = {}
    for table, second in ((attempts, attempts.c.attempt), (feedback, feedback.c.at_us)):
        query = sa.select(table).where(table.c.request_id.in_(ids)).order_by(second)
        its = found[table.name] = defaultdict(list)
        if ids:
            for row in connection.execute(query).mappings():
                its[row["request_id"]].append(row)
    return [
        LedgerEntry(
            request_from(row),
            tuple(map(attempt_from, found[attempts.name][row["request_id"]])),
            tuple(map(feedback_from, found[feedback.name][row["request_id"]])),
        )
        for row in rows
    ]


def erase_queries(connection: sa.Connection, before_us: int) -> int:
    """Forget the queries of requests before a time; how many were erased."""
    r = requests.c
    is_older = (r.at_us < before_us) & (sa.func.coalesce(r.query_json, "") != ERASED)
    kept = r.query.is_not(None) | r.query_json.is_not(None)
    erase = requests.update().values(query=None, query_json=ERASED)
    n = connection.execute(erase.where(is_older & kept)).rowcount
    # The rest is marked too: a late record must not bring a query to what had none yet.
    connection.execute(erase.where(is_older))
    return n


def n_batch_texts(connection: sa.Connection) -> int:
    """How many rows of batch jobs still have their prompt or answer."""
    c = batch_rows.c
    kept = sa.select(sa.func.count()).where(c.prompt.is_not(None) | c.answer.is_not(None))
    return int(connection.scalar(kept) or 0)


def warm_of(connection: sa.Connection, keys: Sequence[str]) -> list[WarmPrefix]:
    """The prefixes of some keys, by tier and key."""
    columns = warm_prefixes.c
    found: list[WarmPrefix] = []
    for start in range(0, len(keys), _MAX_IDS):
        wanted = columns.key.in_(keys[start : start + _MAX_IDS])
        query = sa.select(warm_prefixes).where(wanted)
        found += [WarmPrefix(**row) for row in connection.execute(query).mappings()]
    return sorted(found, key=lambda entry: (entry.tier, entry.key))


def prune_warm(connection: sa.Connection, now_s: float) -> int:
    """Remove what has expired, and what is of the future; how many."""
    columns = warm_prefixes.c
    expired = columns.stored_at_s + columns.ttl_s < now_s
    ahead = columns.stored_at_s > now_s + CLOCK_SKEW_S
    return connection.execute(warm_prefixes.delete().where(expired | ahead)).rowcount
