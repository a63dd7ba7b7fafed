"""Queries in: good rows go on, bad ones are told with their line; and how answers are judged."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from router.errors import InputError
from router.ledger import Ledger
from router.providers.base import Answer
from router.stored_query import StoredQuery
from tests.ledgers import many, request
from training.label_checks import Check, check_of, judged, needs_of
from training.label_input import LabelQuery, pool_of, pool_of_ledger, read_pool
from training.split import query_hash

FULL: dict[str, Any] = {
    "query": "What is 2 + 2?",
    "request_id": 7,
    "expected": 4,
    "task": "sums",
    "split": "test",
    "max_output_tokens": 10,
}


def lines(*rows: object) -> bytes:
    found = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return b"\n".join(found) + b"\n"


def test_a_row_is_read_whole() -> None:
    (query,) = pool_of([FULL]).queries
    assert (query.request_id, query.expected, query.task, query.split) == ("7", "4", "sums", "test")
    assert query.max_output_tokens == query.prompt.max_output_tokens == 10
    assert query.query_hash == query_hash("what is 2 + 2?")
    assert not query.prompt.cache.enabled
    assert "2 + 2" not in repr(query)


def test_messages_are_sent_and_the_query_is_routed_on() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    (query,) = pool_of([{"messages": messages, "query": "greeting"}]).queries
    assert query.query == "greeting"
    assert [message["role"] for message in query.prompt.messages] == ["system", "user"]
    (same,) = pool_of([{"messages": messages, "query": "other words"}]).queries
    # Answers are found again by what is sent.
    assert same.key == query.key and same.query_hash != query.query_hash
    (longer,) = pool_of([{"messages": messages, "max_output_tokens": 9}]).queries
    assert longer.key != query.key


def test_one_text_is_asked_once_and_counts_as_often_as_it_came() -> None:
    pool = pool_of([{"query": "Hi"}, {"query": " hi "}, {"query": "Ho"}, {"query": "HI"}])
    assert [(query.query, query.n_times) for query in pool.queries] == [("Hi", 3), ("Ho", 1)]
    assert (pool.n_rows, pool.n_copies) == (4, 2)


def test_bad_rows_are_told_with_their_line_and_good_ones_go_on(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + lines(
            {"query": "good", "expected": "1"},
            b"{",
            {"query": "no reference"},
            b"",
            {"query": "", "expected": "1"},
            {"query": "list", "expected": [1]},
            {"query": "split", "expected": "1", "split": "maybe"},
            {"query": "test", "expected": "1", "test": 1},
            {"query": "schema", "expected": "1", "schema": "x"},
            {"query": "tokens", "expected": "1", "max_output_tokens": 0},
            {"query": "one", "expected": "1", "request_id": "a"},
            {"query": "two", "expected": "1", "request_id": "a"},
            {"query": "last", "expected": True},
        )
    )
    pool = read_pool(path, needs=["expected"])
    assert [query.query for query in pool.queries] == ["good", "one", "last"]
    assert pool.queries[-1].expected == "true"
    assert pool.rejects_path == tmp_path / "q.jsonl.rejects.jsonl"
    rejects = [json.loads(line) for line in pool.rejects_path.read_text().splitlines()]
    assert {row["line"]: row["reason"] for row in rejects} == {
        2: "it is not JSON",
        3: "it has no expected, which the check needs",
        5: "its query is no text, or empty",
        6: "its expected is no text, number or boolean",
        7: "its split is neither train nor test",
        8: "its test is no text",
        9: "its schema is no JSON object",
        10: "its max_output_tokens is no whole number above 0",
        12: "its request_id is that of another query",
    }
    assert pool.examples[:2] == [
        "line 2: it is not JSON",
        "line 3: it has no expected, which the check needs",
    ]
    path.write_bytes(lines({"query": "good", "expected": "1"}))
    assert not read_pool(path).rejects and not pool.rejects_path.exists()


def test_files_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no file"):
        read_pool(tmp_path / "none.jsonl")
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(lines({"query": "zipped"})))
    assert read_pool(tmp_path / "q.jsonl.gz").queries[0].query == "zipped"
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(lines({"query": "x" * 999}))[:-9])
    with pytest.raises(InputError, match="cannot read"):
        read_pool(tmp_path / "q.jsonl.gz")
    with pytest.raises(InputError, match="at least 1 token"):
        pool_of([], max_output_tokens=0)


def test_a_schema_that_is_none_is_a_bad_row() -> None:
    rows = [{"query": "a", "schema": {"type": 1}}, {"query": "b", "schema": {"type": "object"}}]
    pool = pool_of(rows, needs=["schema"])
    assert pool.rejects == {"its schema is no JSON schema, or refers to another file": 1}


def test_queries_of_a_ledger(tmp_path: Path, stored: StoredQuery) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        for record, attempts in many(5):
            ledger.record(record, attempts)
        ledger.record(request("again", query="What is R0000001?", task="later"))
        ledger.record(request("empty", query=" "))
        ledger.record(request("none", query=None))
        ledger.record(request("stored", query=stored))
        pool = pool_of_ledger(ledger, max_output_tokens=30)
    assert len(pool.queries) == 5 and pool.n_copies == 1 and pool.n_rows == 9
    assert pool.rejects == {
        "its text is not kept in the ledger": 2,
        "its query is no text, or empty": 1,
    }
    first = next(query for query in pool.queries if query.request_id == "r0000000")
    assert (first.request_id, first.max_output_tokens) == ("r0000000", 30)
    assert first.prompt.messages == ({"role": "user", "content": "what is r0000000?"},)


@pytest.fixture
def stored() -> StoredQuery:
    from router.embedding import load_embedder
    from training.store import stored_queries

    return stored_queries(["hidden"], load_embedder("static"))[0]


# ------------------------------------------------------------------------------------------- checks


def passes(check: Check | str, text: str, **facts: Any) -> bool | None:
    query: LabelQuery = pool_of([{"query": "q", **facts}]).queries[0]
    made = check_of(check) if isinstance(check, str) else check
    return judged([made], query, Answer(text))


@pytest.mark.parametrize(
    ("check", "text", "facts", "verdict"),
    [
        ("exact", " paris\n", {"expected": "Paris"}, True),
        ("exact", "It is Paris", {"expected": "Paris"}, False),
        ("exact", "Paris", {}, None),
        ("contains", "It is paris.", {"expected": "Paris"}, True),
        ("contains", "It is New\nYork.", {"expected": "new york"}, True),
        ("contains", "It is 42.", {"expected": 4}, False),
        # A number is a whole one: sign, decimals and thousands are its own.
        ("contains", "It is 4.5.", {"expected": "4"}, False),
        ("contains", "It is -4.", {"expected": "4"}, False),
        ("contains", "It is \u22124.", {"expected": -4}, True),
        ("contains", "It is 4,000", {"expected": "4"}, False),
        ("contains", "1,500 less, of 5,000", {"expected": "5"}, False),
        ("contains", "It is 4,000.", {"expected": 4000}, True),
        ("contains", "It is 4000.00.", {"expected": "4,000"}, True),
        ("contains", "2 + 2 = 4.", {"expected": "4"}, True),
        ("contains", "It is not 4 but 5.", {"expected": "4"}, False),
        ("contains", "From 3-4.", {"expected": 4}, True),
        ("contains", "x=-4", {"expected": -4}, True),
        ("contains", "**4**", {"expected": 4}, True),
        ("contains", "_4_", {"expected": 4}, True),
        ("contains", "\\boxed{4}", {"expected": 4}, True),
        ("contains", "It costs $4.50.", {"expected": 4.5}, True),
        ("contains", "It costs -$4.", {"expected": -4}, True),
        ("contains", "It is 4%.", {"expected": "4 %"}, True),
        ("contains", "It is 4k.", {"expected": 4}, False),
        ("contains", "It is 4/5.", {"expected": 5}, False),
        ("contains", "It is 0.8.", {"expected": "4/5"}, True),
        ("contains", "It is 1/0.", {"expected": 1}, False),
        ("contains", "At 12:04", {"expected": 4}, False),
        ("contains", "It is 2.5e-3.", {"expected": 0.0025}, True),
        ("contains", "It is .5", {"expected": "0.5"}, True),
        ("contains", "It is ...5", {"expected": 5}, True),
        ("contains", "It is H2O", {"expected": 2}, False),
        ("contains", "It is four.", {"expected": 4}, False),
        ("contains", "It is \u0664.", {"expected": 4}, False),
        # Of words the meaning is not known.
        ("contains", "There is no doubt: yes.", {"expected": "no"}, True),
        ("contains", "anything", {"expected": "  "}, None),
        ("contains", "costs 1+1 (net)", {"expected": "1+1 (net)"}, True),
        ("regex:^[a-c]+$", "abc", {}, True),
        ("regex:^[a-c]+$", "abd", {}, False),
        ("json-schema", '{"a": 1}', {"schema": {"required": ["a"]}}, True),
        ("json-schema", "{}", {"schema": {"required": ["a"]}}, False),
        ("json-schema", "{}", {}, None),
    ],
)
def test_checks(check: str, text: str, facts: dict[str, Any], verdict: bool | None) -> None:
    assert passes(check, text, **facts) is verdict


def test_one_schema_for_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"required": ["a"]}', encoding="utf-8")
    check = check_of(f"json-schema:{path}")
    assert (passes(check, '{"a": 1}'), passes(check, "{}")) == (True, False)
    assert not check.needs
    path.write_text("[", encoding="utf-8")
    with pytest.raises(InputError, match="expected a JSON schema in the file"):
        check_of(f"json-schema:{path}")


def test_a_rows_test_is_run_behind_the_answers_code() -> None:
    check = check_of(f"unit-test:{sys.executable} {{file}}")
    right, wrong = (
        "Sure:\n```python\ndef f(x):\n    return 2 * x\n```\n",
        "def f(x):\n    return x\n",
    )
    asked = {"test": "assert f(2) == 4"}
    assert passes(check, right, **asked) is True
    assert passes(check, wrong, **asked) is False
    assert passes(check, wrong) is True  # without a test: that it runs


def test_all_checks_must_pass_and_one_that_fails_decides() -> None:
    def broken(query: LabelQuery, answer: Answer) -> bool:
        raise RuntimeError

    query = pool_of([{"query": "q", "expected": "1"}]).queries[0]
    cannot_tell, one, two = Check("broken", broken), check_of("contains"), check_of("regex:2")
    assert judged([one, two], query, Answer("2 1")) is True
    assert judged([one, two], query, Answer("1")) is False
    assert judged([cannot_tell, one], query, Answer("1")) is None
    assert judged([cannot_tell, one], query, Answer("2")) is False
    assert needs_of([one, two, one, check_of("json-schema")]) == ("expected", "schema")


@pytest.mark.parametrize(
    "word", ["", "exactly", "exact:Paris", "regex", "regex:", "unit-test", "regex:(", "contains:x"]
)
def test_words_that_mean_no_check(word: str) -> None:
    with pytest.raises(InputError, match="expected a"):
        check_of(word)


def test_commands_that_cannot_be_run() -> None:
    with pytest.raises(InputError, match="expected a command after unit-test:"):
        check_of("unit-test:python '")
    with pytest.raises(InputError, match="expected a program that can be run"):
        check_of("unit-test:no-such-program {file}")
