"""The ledger keeps what it acknowledged, once, in SQLite and in PostgreSQL."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.embedding import load_embedder
from router.errors import InputError, LedgerError, MissingExtraError
from router.ledger import Ledger, LedgerEntry, default_ledger
from router.ledger import tables as ledger_tables
from router.ledger.place import place_of
from router.records import FeedbackRecord, WarmPrefix
from router.usage import Usage
from tests import postgres
from tests.command_line import run_python
from tests.ledgers import NOON, any_records, attempt, many, request
from training.store import stored_queries

SECRET = "my secret prompt"


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with Ledger(ledger_url) as opened:
        yield opened


def ids(ledger: Ledger) -> list[str]:
    return [entry.request.request_id for entry in ledger.requests()]


def state(ledger: Ledger) -> list[LedgerEntry]:
    return list(ledger.requests())


def test_what_was_recorded_comes_back(ledger: Ledger) -> None:
    record = request(
        "r1",
        at=datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC),
        query="naïve 查询\nwith lines",
        session_id="s",
        task="t",
        baseline_measured=True,
        exploration_nanousd=-5,
    )
    attempts = (
        attempt(1, status="rejected", served=False, usage=None, cost_nanousd=None),
        attempt(2, "mid", usage=Usage(100, 50, 20, 30, 10, 5), batch=True),
    )
    ledger.record(record, attempts)
    ledger.feedback("r1", 0.5, score=7.5, source="judge", at=NOON)
    (entry,) = ledger.requests()
    assert entry == LedgerEntry(record, attempts, (FeedbackRecord("r1", 0.5, NOON, "judge", 7.5),))
    assert ledger.request("r1") == entry
    assert ledger.request("r2") is None


def test_a_query_that_sql_cannot_hold_comes_back(ledger: Ledger) -> None:
    for number, query in enumerate(["a\0b", "lone \ud800 surrogate", "", "\0"]):
        ledger.record(request(f"r{number}", query=query))
        entry = ledger.request(f"r{number}")
        assert entry is not None and entry.request.query == query


def test_a_stored_query_comes_back_without_text(ledger: Ledger) -> None:
    (stored,) = stored_queries([SECRET], load_embedder("static"))
    ledger.record(request(query=stored))
    assert state(ledger)[0].request.query == stored


def test_no_text_is_kept_where_none_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, store="none") as ledger:
        (stored,) = stored_queries([SECRET], load_embedder("static"))
        ledger.record(request("r1", query=SECRET))
        ledger.record(request("r2", query=stored))
        assert [entry.request.query for entry in ledger.requests()] == [None, None]
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    assert SECRET.encode() not in kept and b"embedder_digest" not in kept


def test_erased_queries_are_gone_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.record(request("old", query=SECRET))
        ledger.record(request("new", query="kept", at=NOON + timedelta(days=2)))
        assert ledger.erase_queries(before=NOON + timedelta(days=1)) == 1
        assert [entry.request.query for entry in ledger.requests()] == [None, "kept"]
        assert ledger.erase_queries(before=NOON + timedelta(days=1)) == 0
        # A record that comes late, of any state, does not bring it back.
        for late in (request("old", query=SECRET, done=False), request("old", query=SECRET)):
            ledger.record(late, [attempt(), attempt(2, "mid")])
        assert [entry.request.query for entry in ledger.requests()] == [None, "kept"]
    # The last connection that closes takes the log of the writes with it.
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    assert b"kept" in kept and SECRET.encode() not in kept


def test_what_had_no_query_when_it_was_erased_gets_none(ledger: Ledger) -> None:
    ledger.record(request("r1", query=None, done=False))
    assert ledger.erase_queries(before=NOON + timedelta(days=1)) == 0
    ledger.record(request("r1", query=SECRET), [attempt()])
    (entry,) = ledger.requests()
    assert entry.request.query is None and entry.request.done


def test_a_late_repetition_undoes_nothing(ledger: Ledger) -> None:
    started = request("r1", done=False, baseline_nanousd=None)
    first = attempt(1, status="rejected", served=False)
    ended = request("r1", query=None)
    ledger.record(started)
    ledger.record(started, [first])
    ledger.record(ended, [first, attempt(2, "mid")])
    ledger.record(started)
    ledger.record(started, [attempt(1, cost_nanousd=1)])
    (entry,) = ledger.requests()
    assert entry.request == dataclasses.replace(ended, query=started.query)
    assert entry.attempts == (first, attempt(2, "mid"))


def test_a_record_of_the_same_state_corrects(ledger: Ledger) -> None:
    ledger.record(request(), [attempt(1, cost_nanousd=None)])
    ledger.record(request(), [attempt(1, cost_nanousd=5)])
    assert state(ledger)[0].attempts == (attempt(1, cost_nanousd=5),)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_with_any_repetition_gives_the_same(ledger_url: str, data: st.DataObject) -> None:
    def stages(prefix: str) -> list[Any]:
        first = attempt(1, status="rejected", served=False)
        made = []
        for record, attempts in (
            (request(prefix, done=False, baseline_nanousd=None), []),
            (request(prefix, done=False, query=None), [first]),
            (request(prefix, query=None), [first, attempt(2, "mid")]),
        ):
            made.append(lambda ledger, r=record, a=attempts: ledger.record(r, a))
        for success, hour in ((True, 1), (False, 2), (0.5, 2)):
            at = NOON + timedelta(hours=hour)
            made.append(lambda ledger, s=success, at=at: ledger.feedback(prefix, s, at=at))
        made.append(lambda ledger: ledger.feedback(prefix, True, source="judge", at=NOON))
        return made

    key = data.draw(st.uuids()).hex
    in_order, shuffled = stages(f"{key}-a"), stages(f"{key}-b")
    order = data.draw(st.permutations(range(len(shuffled))))
    order += data.draw(st.lists(st.integers(0, len(shuffled) - 1), max_size=6))
    with Ledger(ledger_url) as ledger:
        for step in in_order:
            step(ledger)
        for index in order:
            shuffled[index](ledger)
        entries = [ledger.request(f"{key}-{name}") for name in "ab"]
    assert entries[0] is not None and entries[1] is not None
    assert str(entries[0]).replace("-a", "-b") == str(entries[1])
    assert entries[1].success == 0.0
    assert entries[1].request.query is not None


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=any_records())
def test_any_record_comes_back(ledger_url: str, records: list[Any]) -> None:
    with Ledger(ledger_url) as ledger:
        records = [(dataclasses.replace(r, request_id=f"x{r.request_id}"), a) for r, a in records]
        for record, attempts in records:
            before = ledger.request(record.request_id)
            ledger.record(dataclasses.replace(record, done=True), attempts)
            found = ledger.request(record.request_id)
            assert found is not None
            if before is None:
                assert found.attempts == tuple(attempts)


def test_many_are_written_or_none(ledger: Ledger) -> None:
    bad = dataclasses.replace(attempt(), latency_s=float("nan"))
    with pytest.raises(InputError, match="latency_s"):
        ledger.record_many([(request("r1"), [attempt()]), (request("r2"), [bad])])
    assert state(ledger) == []
    ledger.record_many([])
    ledger.record_many(many(1200))
    assert ids(ledger) == [f"r{i:07d}" for i in range(1200)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 500])
def test_iteration_misses_and_repeats_nothing(ledger: Ledger, chunk: int) -> None:
    # Several of one moment, and a clock that went back.
    for number, minute in enumerate([5, 5, 5, 1, 9, 5, 3]):
        ledger.record(request(f"r{number}", at=NOON + timedelta(minutes=minute)))
    assert [e.request.request_id for e in ledger.requests(chunk=chunk)] == [
        *("r3", "r6", "r0", "r1", "r2", "r5", "r4")
    ]
    since, until = NOON + timedelta(minutes=3), NOON + timedelta(minutes=9)
    some = ledger.requests(since=since, until=until, chunk=chunk)
    assert [e.request.request_id for e in some] == ["r6", "r0", "r1", "r2", "r5"]


def test_feedback_is_one_per_source_and_the_latest_counts(ledger: Ledger) -> None:
    later = NOON + timedelta(hours=1)
    assert ledger.feedback("r1", True, at=later) is False  # came before the record
    ledger.record(request())
    assert ledger.feedback("r1", True, at=later) is True
    assert ledger.feedback("r1", False, at=NOON) is True
    (entry,) = ledger.requests()
    assert entry.feedback == (FeedbackRecord("r1", 1.0, later),)
    ledger.feedback("r1", 0.25, source="judge", at=later + timedelta(hours=1))
    assert state(ledger)[0].success == 0.25
    ledger.feedback("r1", 0.0, source="third", at=later + timedelta(hours=1))
    assert state(ledger)[0].success == 0.0


def test_feedback_without_a_time_is_the_latest_whatever_the_clock_says(ledger: Ledger) -> None:
    ahead = datetime.now(UTC) + timedelta(days=300)
    ledger.record(request())
    ledger.feedback("r1", True, at=ahead)
    ledger.feedback("r1", False)
    (entry,) = ledger.requests()
    assert entry.success == 0.0
    assert entry.feedback[0].at == ahead + timedelta(microseconds=1)
    ledger.feedback("r1", False)
    assert state(ledger) == [entry]


def test_warm_prefixes(ledger: Ledger) -> None:
    a, b = WarmPrefix("nano", "k1", 100, 1000.5, 300.0), WarmPrefix("mid", "k1", 50, 1000.0, 60.0)
    ledger.save_warm([a, b])
    ledger.save_warm([dataclasses.replace(a, tokens=1, stored_at_s=999.0)])  # older
    assert ledger.load_warm(["k1", "k2"]) == [b, a]
    assert ledger.load_warm([]) == [] and ledger.load_warm(["k2"]) == []
    used = dataclasses.replace(a, stored_at_s=1100.0)
    ledger.save_warm([used])
    assert ledger.prune_warm(1100.0) == 1
    assert ledger.load_warm(["k1"]) == [used]
    ledger.save_warm([])
    keys = [f"k{i}" for i in range(12_000)]
    ledger.save_warm([WarmPrefix("nano", key, 1, 1.0, 1.0) for key in keys[5:]])
    assert len(ledger.load_warm(keys)) == 11_996


def test_savings_of_warm_prefixes_prune_the_expired(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.ledger._PRUNE_EVERY", 2)
    ledger.save_warm([WarmPrefix("nano", "old", 1, 1.0, 1.0)])
    assert len(ledger.load_warm(["old"])) == 1
    now = datetime.now(UTC).timestamp()
    ledger.save_warm([WarmPrefix("nano", "new", 1, now, 300.0)])
    assert [entry.key for entry in ledger.load_warm(["old", "new"])] == ["new"]


def test_one_jump_of_a_clock_blocks_no_prefix(ledger: Ledger) -> None:
    now = datetime.now(UTC).timestamp()
    jumped = WarmPrefix("nano", "k", 9, now + 86_400 * 30, 300.0)
    true = WarmPrefix("nano", "k", 5, now, 300.0)
    ledger.save_warm([jumped])
    ledger.save_warm([true])
    assert ledger.load_warm(["k"]) == [true]
    # Clocks of machines are never quite the same.
    slightly = dataclasses.replace(true, stored_at_s=now + 3)
    ledger.save_warm([slightly])
    ledger.save_warm([true])
    assert ledger.load_warm(["k"]) == [slightly]
    ledger.save_warm([dataclasses.replace(jumped, key="other")])
    assert ledger.prune_warm() == 1
    assert ledger.load_warm(["k", "other"]) == [slightly]


def test_threads_write_at_once(ledger: Ledger) -> None:
    failed: list[Exception] = []

    def write(number: int) -> None:
        try:
            for record, attempts in many(25, start=25 * number):
                ledger.record(record)
                ledger.record(record, attempts)
                ledger.feedback(record.request_id, True)
                ledger.record(request("shared"), [attempt()])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(ids(ledger)) == [*(f"r{i:07d}" for i in range(150)), "shared"]
    assert all(entry.attempts for entry in ledger.requests())


_WRITE = """
import sys
sys.path.insert(0, sys.argv[3])
from router.ledger import Ledger
from tests.ledgers import many
number = int(sys.argv[2])
with Ledger(sys.argv[1], busy_timeout_s=60) as ledger:
    for record, attempts in many(40, start=40 * number):
        ledger.record(record, attempts)
"""


def test_processes_open_a_new_ledger_and_write_at_once(ledger_url: str, repository: Path) -> None:
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            run_python(_WRITE, ledger_url, number, repository, cwd=repository)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with Ledger(ledger_url) as ledger:
        assert len(ids(ledger)) == 120


def _write_after_fork(ledger: Ledger, code: Any) -> None:
    try:
        ledger.record(request("child"))
        ledger.close()
        code.value = 0
    except BaseException:
        code.value = 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_has_connections_of_its_own(ledger: Ledger) -> None:
    ledger.record(request("parent"))
    fork = multiprocessing.get_context("fork")
    code = fork.Value("i", -1)
    child = fork.Process(target=_write_after_fork, args=(ledger, code))
    child.start()
    child.join()
    assert code.value == 0
    ledger.record(request("parent again"))
    assert sorted(ids(ledger)) == ["child", "parent", "parent again"]


def test_a_closed_ledger_says_so(ledger: Ledger) -> None:
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match=r"was closed: open it anew\.$"):
        ledger.record(request())
    with pytest.raises(LedgerError, match="was closed"):
        next(ledger.requests())


BAD: list[tuple[Any, str]] = [
    (lambda ledger: ledger.record({"request_id": "r1"}), "expected a RequestRecord"),
    (lambda ledger: ledger.record(request(), [request()]), "expected AttemptRecords"),
    (lambda ledger: ledger.record(request("")), "expected request_id as a text"),
    (lambda ledger: ledger.record(request("a\0b")), "expected request_id as a text"),
    (lambda ledger: ledger.record(request("\ud800")), "expected request_id as a text"),
    (lambda ledger: ledger.record(request("x" * 501)), "got 501 characters"),
    (lambda ledger: ledger.record(request(7)), "expected request_id as a text.*got int"),
    (lambda ledger: ledger.record(request(at=datetime(2026, 1, 1))), "with a time zone"),  # noqa: DTZ001
    (lambda ledger: ledger.record(request(at="now")), "expected at as a datetime"),
    (lambda ledger: ledger.record(request(at=datetime(1969, 1, 1, tzinfo=UTC))), "since 1970"),
    (lambda ledger: ledger.record(request(decision={"p": float("nan")})), "to_dict"),
    (lambda ledger: ledger.record(request(decision=[1])), "to_dict"),
    (lambda ledger: ledger.record(request(query=b"bytes")), "expected a query as text"),
    (lambda ledger: ledger.record(request(baseline_nanousd=1.5)), "baseline_nanousd as a whole"),
    (lambda ledger: ledger.record(request(baseline_nanousd=-1)), "baseline_nanousd as a whole"),
    (lambda ledger: ledger.record(request(exploration_nanousd=2**63)), "exploration_nanousd"),
    (lambda ledger: ledger.record(request(done=1)), "expected done as True or False"),
    (lambda ledger: ledger.record(request(), [attempt(0)]), "expected attempt as a whole"),
    (lambda ledger: ledger.record(request(), [attempt(True)]), "expected attempt as a whole"),
    (lambda ledger: ledger.record(request(), [attempt(), attempt()]), "one number twice"),
    (lambda ledger: ledger.record(request(), [attempt(role="boss")]), "expected a role of"),
    (lambda ledger: ledger.record(request(), [attempt(status="good")]), "and a status of"),
    (lambda ledger: ledger.record(request(), [attempt(usage=3)]), "expected a Usage"),
    (lambda ledger: ledger.record(request(), [attempt(cost_nanousd=0.1)]), "cost_nanousd"),
    (lambda ledger: ledger.record(request(), [attempt(latency_s=-1)]), "latency_s"),
    (lambda ledger: ledger.feedback("r1", 2), "expected a success of True, False"),
    (lambda ledger: ledger.feedback("r1", "yes"), "expected a success of True, False"),
    (lambda ledger: ledger.feedback("r1", float("nan")), "expected a success of True, False"),
    (lambda ledger: ledger.feedback("r1", True, score=float("inf")), "expected score"),
    (lambda ledger: ledger.feedback("r1", True, source=""), "expected source"),
    (lambda ledger: ledger.feedback("", True), "expected request_id"),
    (lambda ledger: ledger.save_warm([("nano", "k")]), "expected WarmPrefix"),
    (lambda ledger: ledger.save_warm([WarmPrefix("t", "k", -1, 1.0, 1.0)]), "expected tokens"),
    (lambda ledger: ledger.load_warm([3]), "expected key"),
    (lambda ledger: list(ledger.requests(chunk=0)), "expected a chunk"),
]


@pytest.mark.parametrize(("act", "message"), BAD)
def test_bad_input_is_refused_in_one_sentence(act: Any, message: str, tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        with pytest.raises(InputError, match=message) as caught:
            act(ledger)
        assert "\n" not in str(caught.value)
        assert state(ledger) == []


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    for arguments in ({"store": "all"}, {"synchronous": "off"}, {"busy_timeout_s": -1}):
        with pytest.raises(InputError):
            Ledger(path, **arguments)  # type: ignore[arg-type]
    for place in (":memory:", "sqlite:///:memory:", "", "mysql://u:pw@h/d", 3, "sqlite://h/x"):
        with pytest.raises(InputError) as caught:
            Ledger(place)  # type: ignore[arg-type]
        assert "pw" not in str(caught.value)
    assert not path.exists()


def test_the_default_is_of_one_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CPS_ROUTER_LEDGER", raising=False)
    assert default_ledger() == "ledger.db"
    monkeypatch.setenv("CPS_ROUTER_LEDGER", str(tmp_path / "mine.db"))
    with Ledger() as ledger:
        ledger.record(request())
    assert (tmp_path / "mine.db").exists()


def test_a_path_means_the_same_after_a_change_of_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    with Ledger("ledger.db") as ledger:
        monkeypatch.chdir(tmp_path / "below")
        ledger.record(request())
        assert ids(ledger) == ["r1"]
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        assert ids(ledger) == ["r1"]
    assert not (tmp_path / "below" / "ledger.db").exists()


def test_a_ledger_that_must_exist_is_not_made(ledger_url: str) -> None:
    with pytest.raises(InputError, match=r"expected a ledger at .*, found no"):
        Ledger(ledger_url, create=False)
    with Ledger(ledger_url) as ledger:
        ledger.record(request())
    with Ledger(ledger_url, create=False) as ledger:
        assert ids(ledger) == ["r1"]


def test_a_name_that_is_too_long_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no file"):
        Ledger(tmp_path / ("x" * 300), create=False)
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    "name", ["we?ird.db", "a%20b.db", "a%3Fb.db", "a#b.db", "a@b:c.db", "ü.db"]
)
@pytest.mark.parametrize("form", ["path", "url", "read-only"])
def test_a_path_is_that_of_its_file(name: str, form: str, tmp_path: Path) -> None:
    with Ledger(tmp_path / name) as ledger:
        ledger.record(request())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    url = f"sqlite:///{quote(str(tmp_path / name))}"
    places = {"path": str(tmp_path / name), "url": url, "read-only": f"{url}?mode=ro"}
    with Ledger(places[form], create=False) as ledger:
        assert ids(ledger) == ["r1"]


def test_a_newer_schema_is_refused(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(ledger_tables, "SCHEMA_VERSION", 7)
        Ledger(ledger_url).close()
    with pytest.raises(LedgerError, match=r"at most version 2, got version 7 .*upgrade"):
        Ledger(ledger_url)


def test_older_schemas_are_moved_in_order(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(ledger_url) as ledger:
        ledger.record(request())
    steps: list[int] = []
    monkeypatch.setattr(ledger_tables, "SCHEMA_VERSION", 4)
    monkeypatch.setattr(ledger_tables, "MIGRATIONS", {2: lambda _: steps.append(2)})
    with pytest.raises(LedgerError, match="schema 3 to 4"):
        Ledger(ledger_url)
    assert steps == [2]
    both = {2: lambda _: steps.append(2), 3: lambda _: steps.append(3)}
    monkeypatch.setattr(ledger_tables, "MIGRATIONS", both)
    with Ledger(ledger_url) as ledger:
        assert ids(ledger) == ["r1"]
    assert steps == [2, 2, 3]  # the first try was undone as a whole
    Ledger(ledger_url).close()
    assert steps == [2, 2, 3]


def test_a_ledger_of_before_batches_gets_their_tables(ledger_url: str) -> None:
    with Ledger(ledger_url) as ledger:
        ledger.record(request())
        with ledger.engine.writing() as connection:
            for table in ("batch_jobs", "batch_parts", "batch_rows"):
                getattr(ledger_tables, table).drop(connection)
            connection.execute(ledger_tables.meta.update().values(value="1"))
    with Ledger(ledger_url) as ledger, ledger.engine.reading() as connection:
        assert ledger_tables.version_of(connection) == 2
        assert connection.execute(ledger_tables.batch_rows.select()).all() == []
        assert ids(ledger) == ["r1"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:topsecret@127.0.0.1:1/d",
        "postgresql://127.0.0.1:1/d?user=me&password=topsecret",
        "postgres://me:topsecret@127.0.0.1:1/d",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1:1/d, but the server cannot be") as caught:
        Ledger(url, busy_timeout_s=0.1)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    for shown in (str(caught.value), repr(place_of(url))):
        assert "topsecret" not in shown and "me" not in shown.split("/")[2]
    with pytest.raises(InputError) as refused:
        Ledger("postgresql://me:top/sec:ret@host:port/d")
    assert "sec" not in str(refused.value)


def test_without_sqlalchemy_the_extra_is_named(tmp_path: Path, repository: Path) -> None:
    # A process of its own: what is imported without it would stay for other tests.
    code = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from router.errors import MissingExtraError\n"
        "from router.ledger import Ledger\n"
        "try: Ledger(sys.argv[1])\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "ledger.db")],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip install 'cps-router[ledger]'" in done.stdout


def test_postgres_without_its_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cps-router\[postgres\]'"):
        Ledger("postgresql://127.0.0.1:1/d")


def test_importing_the_ledger_needs_no_sqlalchemy(repository: Path) -> None:
    code = "import sys; import router.ledger; print('sqlalchemy' in sys.modules)"
    assert run_python(code, cwd=repository) == "False\n"


def test_sqlite_is_in_wal_mode_and_flushes_as_asked(tmp_path: Path) -> None:
    for name, level in (("normal", 1), ("full", 2)):
        with Ledger(tmp_path / f"{name}.db", synchronous=name) as ledger:  # type: ignore[arg-type]
            ledger.record(request())
            with ledger.engine.reading() as connection:
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == level


def test_postgres_flushes_as_asked(postgres_server: postgres.Server) -> None:
    url = postgres_server.new_database()
    postgres_server.run(f"ALTER ROLE {postgres.USER} SET synchronous_commit = off")
    try:
        for name, expected in (("normal", "off"), ("full", "on")):
            with (
                Ledger(url, synchronous=name) as ledger,  # type: ignore[arg-type]
                ledger.engine.reading() as connection,
            ):
                found = connection.exec_driver_sql("SHOW synchronous_commit").scalar()
                assert found == expected
    finally:
        postgres_server.run(f"ALTER ROLE {postgres.USER} RESET synchronous_commit")


def test_printed_ledgers_and_records_show_no_query(ledger: Ledger) -> None:
    ledger.record(request(query=SECRET))
    assert SECRET not in f"{ledger!r} {state(ledger)!r}"


def test_the_file_can_be_read_with_sqlite_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.record(request(), [attempt()])
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as raw:
        found = raw.execute(
            "SELECT date(at_us / 1000000, 'unixepoch'), cost_nanousd FROM cps_attempts"
        ).fetchall()
    raw.close()
    assert found == [("2026-03-01", 10_000)]
    assert os.stat(path).st_size > 0
