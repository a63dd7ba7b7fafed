"""``cps-router route``: what it prints, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from router.artifact import FORMAT
from router.exploration import Exploration
from router.routing import Router
from tests.artifacts import HARD_QUERIES, forge, resave, sample_table
from tests.command_line import COMMAND, Done, Run, apart, here

QUERIES = list(sample_table(600).query[:40])


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(here, monkeypatch, capsys)


def decisions(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def lines(rows: Sequence[object]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def refused(done: Done, code: int = 2) -> str:
    """The error: one clear sentence, nothing else on stderr."""
    assert done.code == code
    (error,) = done.err.splitlines()
    assert error.startswith("cps-router: ")
    assert error.endswith(".")
    return error


def test_one_query(cps: Run, small_artifact: Path) -> None:
    expected = Router.load(small_artifact).route(QUERIES[0])
    done = cps("route", small_artifact, QUERIES[0], "--json")
    assert (done.code, done.err) == (0, "")
    assert decisions(done) == [expected.to_dict()]

    words = cps("route", small_artifact, QUERIES[0])
    assert (words.code, words.err) == (0, "")
    assert words.out.startswith(f"{expected.tier}  ({expected.model}), reason: {expected.reason}\n")
    marked = [line.split()[1] for line in words.out.splitlines() if line.startswith(">")]
    assert marked == [expected.tier]
    for name, p in expected.p_success.items():
        assert f" {name:<12} success {p:.3f}   ${expected.cost_usd[name]:.6f}" in words.out


def test_it_says_where_nothing_is_certified(cps: Run, small_artifact: Path, tmp_path: Path) -> None:
    plain = resave(
        small_artifact, tmp_path / "plain", manifest=lambda m: m.update(certificate=None)
    )
    assert "no success floor is certified" in cps("route", plain, QUERIES[0]).out
    assert "certified" not in cps("route", small_artifact, QUERIES[0]).out


def test_exploring(cps: Run, small_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(lines([{"query": q, "request_id": str(i)} for i, q in enumerate(QUERIES)]))
    router = Router.load(small_artifact).exploring(Exploration(0.5, seed=3))
    expected = router.route_many(QUERIES, [str(i) for i in range(len(QUERIES))])
    done = cps("route", small_artifact, "--file", path, "--explore", 0.5, "--seed", 3)
    assert (done.code, done.err) == (0, "")
    assert decisions(done) == [decision.to_dict() for decision in expected]
    assert any(decision.explored for decision in expected)

    words = {cps("route", small_artifact, q, "--explore", 0.5).out.split("\n")[0] for q in QUERIES}
    assert any(", explored with probability 0." in line for line in words)
    assert any(", drawn with probability 0." in line for line in words)
    assert "probability" not in cps("route", small_artifact, QUERIES[0]).out
    for bad in (-0.1, 1.5, "nan"):
        error = refused(cps("route", small_artifact, QUERIES[0], "--explore", bad))
        assert "expected epsilon to be a share of requests from 0 to 1, got" in error


def test_the_shipped_artifact_by_name(cps: Run) -> None:
    done = cps("route", "default", "Summarize briefly: the cat sat on the mat.", "--json")
    assert done.code == 0
    assert decisions(done)[0]["tier"] in decisions(done)[0]["p_success"]


def test_a_file_of_queries(cps: Run, small_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows: list[dict[str, Any]] = [{"query": query, "task": "ignored"} for query in QUERIES * 60]
    for i, row in enumerate(rows):
        if i % 2:
            row["request_id"] = i if i % 4 == 1 else f"r-{i}"
    path.write_bytes(b"\n \n" + lines(rows).replace(b"}\n", b"}\r\n") + b"\n")
    for extra in ((), ("--json",)):
        done = cps("route", small_artifact, "--file", path, *extra)
        assert (done.code, done.err) == (0, "")
        found = decisions(done)
        ids = [None if "request_id" not in row else str(row["request_id"]) for row in rows]
        assert [decision.get("request_id") for decision in found] == ids
        expected = Router.load(small_artifact).route_many([row["query"] for row in rows])
        assert [decision["tier"] for decision in found] == [d.tier for d in expected]


def test_hard_queries_come_through(cps: Run, small_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    queries = [query for query in HARD_QUERIES if len(query) < 100_000]
    path.write_bytes(lines([{"query": query, "request_id": query} for query in queries]))
    done = cps("route", small_artifact, "--file", path)
    assert (done.code, done.err) == (0, "")
    # Pairs of surrogates are one character to JSON.
    expected = [json.loads(json.dumps(query)) or None for query in queries]
    assert [decision.get("request_id") for decision in decisions(done)] == expected
    assert done.out.isascii()
    for query in queries:
        if "\0" not in query and not query.startswith("\ud83d"):
            assert cps("route", small_artifact, query, "--json").code == 0


def test_standard_input(cps: Run, small_artifact: Path) -> None:
    done = cps("route", small_artifact, "--file", "-", stdin=lines([{"query": q} for q in QUERIES]))
    assert (done.code, done.err) == (0, "")
    assert len(decisions(done)) == len(QUERIES)
    empty = cps("route", small_artifact, "--file", "-", stdin=b"")
    assert (empty.code, empty.out, empty.err) == (0, "", "")


def test_who_writes_a_line_gets_an_answer(small_artifact: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "route", str(small_artifact), "--file", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for query in QUERIES[:3]:
            process.stdin.write(lines([{"query": query}]))
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["tier"]
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(("closed", "code"), [("<&-", 2), (">&-", 0)])
def test_closed_streams(small_artifact: Path, closed: str, code: int) -> None:
    done = subprocess.run(
        [
            *("sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "route", str(small_artifact)),
            *(["--file", "-"] if code else ["hello"]),
        ],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert ("standard input, which is closed" in done.stderr) == bool(code)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [(), ("hello", "--file", "x.jsonl")])
def test_a_query_or_a_file(cps: Run, small_artifact: Path, arguments: tuple[str, ...]) -> None:
    error = refused(cps("route", small_artifact, *arguments))
    assert "expected either one QUERY or --file IN.jsonl, got" in error


BAD_LINES = [
    b"not json",
    b'{"query": "unfinished',
    b"[]",
    b'"a query"',
    b"{}",
    b'{"query": null}',
    b'{"query": ["a"]}',
    b'{"query": 7}',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"query": "a", "request_id": ' + b"1" * 5000 + b"}",
]


@pytest.mark.parametrize("source", ["file", "-"])
@pytest.mark.parametrize("bad", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_in_the_middle(
    cps: Run, small_artifact: Path, tmp_path: Path, bad: bytes, source: str
) -> None:
    text = b'{"query": "a"}\n\n{"query": "b"}\n' + bad + b'\n{"query": "c"}\n'
    path = tmp_path / "in.jsonl"
    path.write_bytes(text)
    file = path if source == "file" else "-"
    done = cps("route", small_artifact, "--file", file, stdin=text)
    assert 'a text "query" in line 4 of ' in refused(done)
    assert "the lines before it were routed" in done.err
    assert len(decisions(done)) == 2


@pytest.mark.parametrize("bad", ['{"a": 1}', "[1]", "true", "1.5", "1e400", "NaN"])
def test_a_request_id_is_text_or_a_whole_number_as_in_a_log(
    cps: Run, small_artifact: Path, tmp_path: Path, bad: str
) -> None:
    path = tmp_path / "in.jsonl"
    good = [{"query": "a", "request_id": request_id} for request_id in ("r", 7, -1, None, "")]
    path.write_bytes(lines(good) + f'{{"query": "b", "request_id": {bad}}}\n'.encode())
    done = cps("route", small_artifact, "--file", path)
    assert 'expected a text or a whole number as "request_id" in line 6 of ' in refused(done)
    found = [decision.get("request_id") for decision in decisions(done)]
    assert found == ["r", "7", "-1", None, None]


def test_a_bad_line_after_many_good_ones(cps: Run, small_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(lines([{"query": "a"}] * 1500) + b"junk\n")
    done = cps("route", small_artifact, "--file", path)
    assert "line 1501" in refused(done)
    assert len(decisions(done)) == 1500


def test_a_query_that_no_tier_can_take(cps: Run, small_artifact: Path, tmp_path: Path) -> None:
    huge = {"query": "swordfish " * 100_000}
    path = tmp_path / "in.jsonl"
    path.write_bytes(lines([{"query": "a", "request_id": 1}, {"query": "b"}, huge, {"query": "c"}]))
    for file, stdin in ((path, b""), ("-", path.read_bytes())):
        done = cps("route", small_artifact, "--file", file, stdin=stdin)
        error = refused(done, code=1)
        assert "line 3: expected a tier for a request of about 333333 tokens" in error
        assert "swordfish" not in error
        assert len(decisions(done)) == 2
    assert "shorten the request" in refused(cps("route", small_artifact, huge["query"]), code=1)


def test_files_that_cannot_be_read(cps: Run, small_artifact: Path, tmp_path: Path) -> None:
    missing = cps("route", small_artifact, "--file", tmp_path / "nothing.jsonl")
    assert "got No such file or directory: check the path" in refused(missing)
    assert "got Is a directory" in refused(cps("route", small_artifact, "--file", tmp_path))


def test_artifacts_that_cannot_be_loaded(cps: Run, small_artifact: Path, tmp_path: Path) -> None:
    assert "got none: check the path" in refused(cps("route", tmp_path / "nothing", "hello"))
    newer = forge(small_artifact, tmp_path / "newer", lambda m: m.update(format=FORMAT + 1))
    assert "upgrade cps-router" in refused(cps("route", newer, "hello"))
    text = (newer / "manifest.json").read_text()
    older = text.replace(f'"format": {FORMAT + 1}', f'"format": {FORMAT}')
    (newer / "manifest.json").write_text(older)
    assert "was altered" in refused(cps("route", newer, "hello"))
    # Refused before anything is read or said.
    done = cps("route", newer, "--file", "-", stdin=b'{"query": "a"}\n')
    assert done.out == ""
    assert refused(done)


def test_a_configured_key(cps: Run, small_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPS_ROUTER_SIGNING_KEY", "secret")
    assert "got an unsigned one" in refused(cps("route", small_artifact, "hello"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["route"], "Missing argument"),
        (["route", "default", "a", "b"], "got 2 arguments: put the query in quotes"),
        (["route", "default", "--fil", "x"], "--file"),
        (["route", "default", "a", "--jsn"], "No such option"),
        (["rout"], "No such command"),
        (["--version-of-what"], "No such option"),
    ],
)
def test_bad_usage(cps: Run, arguments: list[str], said: str) -> None:
    done = cps(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.startswith("Usage: cps-router ")


def test_help(cps: Run) -> None:
    done = cps("--help")
    assert done.code == 0
    for command in ("route", "train", "evaluate", "data"):
        assert f"\n  {command} " in done.out
    assert "one decision a line" in cps("route", "--help").out


def test_the_reader_may_leave(small_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(lines([{"query": query} for query in QUERIES] * 100))
    with subprocess.Popen(
        [*COMMAND, "route", str(small_artifact), "--file", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["tier"]
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_said(small_artifact: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "route", str(small_artifact), "hello"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "cps-router: expected to write to standard output, got No space left on device: make room "
        "or write elsewhere.\n"
    )


def test_names_that_the_terminal_cannot_show(small_artifact: Path, tmp_path: Path) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        for tier, name in zip(manifest["tiers"], ("größer", "🙂", "大"), strict=True):
            tier["name"] = name

    renamed = resave(small_artifact, tmp_path / "renamed", manifest=rename)
    done = apart("route", renamed, "hello", PYTHONIOENCODING="ascii")
    assert (done.code, done.err) == (0, "")
    assert "gr\\xf6\\xdfer" in done.out
    shown = apart("route", renamed, "hello", PYTHONIOENCODING="utf-8").out
    assert shown.startswith(f"{Router.load(renamed).route('hello').tier}  (")
    assert all(name in shown for name in ("größer", "🙂", "大"))
    named = json.loads(apart("route", renamed, "hello", "--json").out)
    assert list(named["p_success"]) == ["größer", "🙂", "大"]
