"""What holds for every provider's batches, through its real SDK against a local server."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import InputError, ProviderError
from router.providers.base import Prompt
from router.providers.batching import BatchItem, BatchProvider
from tests.router.providers.batch_setups import BATCH_SETUPS, BatchSetup, ids, items, kinds
from tests.router.providers.setups import KEY, QUESTION
from tests.wire.batch_server import GARBAGE, BatchControls
from tests.wire.server import unreachable


@pytest.fixture(scope="module", params=BATCH_SETUPS, ids=lambda setup: setup.setup.id)
def batch_setup(request: pytest.FixtureRequest) -> BatchSetup:
    found: BatchSetup = request.param
    return found


@pytest.fixture(scope="module")
def running(batch_setup: BatchSetup) -> Iterator[BatchControls]:
    with batch_setup.server() as server:
        yield server


@pytest.fixture
def server(running: BatchControls) -> Iterator[BatchControls]:
    running.reset()
    yield running
    running.reset()


@pytest.fixture(scope="module")
def provider(batch_setup: BatchSetup, running: BatchControls) -> Iterator[Any]:
    made = batch_setup.setup.provider(running.url)
    assert isinstance(made, BatchProvider)
    yield made
    made.close()


@pytest.fixture
def model(batch_setup: BatchSetup) -> str:
    return batch_setup.setup.model


def now() -> datetime:
    return datetime.now(UTC)


def json_texts(value: Any) -> list[str]:
    """Every text in it."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in json_texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in json_texts(inner)]
    return [value] if isinstance(value, str) else []


def refused(call: Callable[[], Any]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call()
    return caught.value


# The way of a batch.


def test_a_batch_from_hand_in_to_results(
    server: BatchControls, provider: Any, model: str, batch_setup: BatchSetup
) -> None:
    batch_id = provider.submit_batch(model, items(), key="job-1")
    status = provider.batch_status(batch_id)
    assert (status.state, status.is_final) == ("running", False)
    assert list(provider.batch_results(batch_id)) == []
    server.finish(batch_id)
    status = provider.batch_status(batch_id)
    assert (status.state, status.is_final) == ("ended", True)
    if status.n_items is not None:
        assert (status.n_items, status.n_done, status.n_failed) == (5, 5, 0)
    results = list(provider.batch_results(batch_id))
    assert [result.custom_id for result in results] == ids(items())
    for result in results:
        assert result.error is None and result.answer is not None
        assert result.answer.text == f"answer {result.custom_id}"
        assert result.answer.usage == batch_setup.setup.usage
        assert result.answer.finish_reason == "stop"
        assert result.answer.model is not None


def test_every_prompt_is_shaped_as_for_a_single_call(
    server: BatchControls, provider: Any, model: str
) -> None:
    batch_id = provider.submit_batch(model, items(3), key="job-1")
    batch = server.batches[batch_id]
    assert list(batch.requests) == ["c0", "c1", "c2"]
    assert batch.model is not None and batch.model.removeprefix("models/") == model
    sent = json.dumps(batch.requests["c0"])
    assert "Where is the Louvre?" in sent and "Answer in one word." in sent and "50" in sent


@pytest.mark.parametrize("end", ["ended", "failed", "cancelled", "expired"])
def test_the_ways_to_end(
    server: BatchControls, provider: Any, model: str, batch_setup: BatchSetup, end: Any
) -> None:
    if end == "failed" and not hasattr(server, "files"):
        pytest.skip("a batch without a file cannot fail as a whole")
    batch_id = provider.submit_batch(model, items(), key="job-1")
    server.finish(batch_id, end, answered={"c1", "c3"})
    status = provider.batch_status(batch_id)
    assert status.state == end and status.is_final
    assert status.ended_at is not None
    assert abs(status.ended_at - now()) < timedelta(seconds=60)
    found = kinds(provider.batch_results(batch_id))
    if end == "failed" or (end == "expired" and not batch_setup.keeps_expired):
        assert found == {}
        return
    for custom_id in ("c1", "c3"):
        assert found.pop(custom_id) == "answer"
    # What was not got to is told as such, or not at all; never as something else.
    assert set(found.values()) <= ({end} if end != "ended" else {"outage"})
    assert set(found) <= {"c0", "c2", "c4"}
    if end == "expired":
        assert set(found) == {"c0", "c2", "c4"}


@pytest.mark.parametrize(
    ("code", "kind"),
    [(400, "refused"), (401, "auth"), (429, "rate-limit"), (500, "outage")],
)
def test_a_request_that_failed(
    server: BatchControls, provider: Any, model: str, code: int, kind: str
) -> None:
    batch_id = provider.submit_batch(model, items(), key="job-1")
    server.finish(batch_id, failed={"c2": code})
    found = {result.custom_id: result for result in provider.batch_results(batch_id)}
    error = found.pop("c2").error
    assert error is not None and (error.kind, error.billed) == (kind, False)
    assert "Louvre" not in str(error) and KEY not in str(error)
    assert all(result.answer is not None for result in found.values())


def test_a_cancelled_batch(server: BatchControls, provider: Any, model: str) -> None:
    batch_id = provider.submit_batch(model, items(), key="job-1")
    provider.cancel_batch(batch_id)
    assert provider.batch_status(batch_id).state == "running"
    assert server.batches[batch_id].is_cancelling
    server.finish(batch_id, "cancelled", answered={"c1"})
    assert provider.batch_status(batch_id).state == "cancelled"
    # Too late is no error; what is not there is one.
    provider.cancel_batch(batch_id)
    assert refused(lambda: provider.cancel_batch(f"{batch_id}9")).kind == "refused"


def test_a_batch_that_ends_by_itself(server: BatchControls, provider: Any, model: str) -> None:
    server.ends_after_n_polls = 3
    batch_id = provider.submit_batch(model, items(), key="job-1")
    states = [provider.batch_status(batch_id).state for _ in range(3)]
    assert states == ["running", "running", "ended"]


def test_a_status_that_goes_backwards_is_told_as_it_is(
    server: BatchControls, provider: Any, model: str, batch_setup: BatchSetup
) -> None:
    batch_id = provider.submit_batch(model, items(), key="job-1")
    server.finish(batch_id)
    server.batches[batch_id].shown.extend(
        [batch_setup.ended, batch_setup.running, batch_setup.ended]
    )
    states = [provider.batch_status(batch_id).state for _ in range(3)]
    assert states == ["ended", "running", "ended"]


# Rows.


def test_rows_in_any_order_missing_twice_and_unreadable(
    server: BatchControls, provider: Any, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch_id = provider.submit_batch(model, items(), key="job-1")
    server.finish(
        batch_id,
        missing={"c0"},
        duplicated={"c1"},
        malformed={"c2"},
        garbage=GARBAGE,
        reverse=True,
    )
    with caplog.at_level(logging.WARNING):
        results = list(provider.batch_results(batch_id))
    assert Counter(result.custom_id for result in results) == {"c4": 1, "c3": 1, "c2": 1, "c1": 2}
    assert next(iter(results)).custom_id == "c4"
    unreadable = next(result.error for result in results if result.custom_id == "c2")
    assert unreadable is not None and (unreadable.kind, unreadable.billed) == ("malformed", True)
    assert kinds(results) == {"c4": "answer", "c3": "answer", "c2": "malformed", "c1": "answer"}
    ours = [record for record in caplog.records if record.name.startswith("router.")]
    (record,) = ours
    assert f"{len(GARBAGE)} batch results" in record.getMessage()


def test_a_row_cut_short_is_known_by_its_id(
    server: BatchControls, provider: Any, model: str
) -> None:
    batch_id = provider.submit_batch(model, items(2), key="job-1")
    server.finish(batch_id)
    lines = server.batches[batch_id].answers
    lines[1] = lines[1][: len(lines[1]) * 3 // 4]
    assert kinds(provider.batch_results(batch_id)) == {"c0": "answer", "c1": "malformed"}


def test_results_are_read_as_they_come(server: BatchControls, provider: Any, model: str) -> None:
    batch_id = provider.submit_batch(model, items(200), key="job-1")
    server.finish(batch_id)
    results = provider.batch_results(batch_id)
    assert [result.custom_id for result in islice(results, 2)] == ["c0", "c1"]
    results.close()  # warnings are errors: nothing stays open
    assert len(list(provider.batch_results(batch_id))) == 200


def test_results_that_break_off(
    server: BatchControls, provider: Any, model: str, batch_setup: BatchSetup
) -> None:
    batch_id = provider.submit_batch(model, items(200), key="job-1")
    server.finish(batch_id)
    server.cut("results")
    found = []
    error = refused(lambda: found.extend(provider.batch_results(batch_id)))
    assert error.kind in ("cut", "outage") and not error.billed
    assert error.__context__ is None
    assert set(kinds(found).values()) <= {"answer"}  # the row in the middle is not half told
    if batch_setup.setup.id != "google":
        assert len(found) > 50  # what had come was told: nothing waits for the end
    assert len(list(provider.batch_results(batch_id))) == 200


def test_characters_that_some_take_for_the_end_of_a_line(
    server: BatchControls, provider: Any, model: str
) -> None:
    text = "a\u2028b\x85c\u2029d\x0be é"
    server.answer_text = lambda custom_id, body: text
    prompt = Prompt(({"role": "user", "content": text},))
    batch_id = provider.submit_batch(model, [BatchItem("c0", prompt)], key="job-1")
    assert text in json_texts(server.batches[batch_id].requests["c0"])
    server.finish(batch_id)
    batch = server.batches[batch_id]
    rows = [json.loads(line) for line in batch.answers]
    batch.answers = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    (result,) = provider.batch_results(batch_id)
    assert result.answer is not None and result.answer.text == text


# A hand-in without an answer.


@pytest.mark.parametrize("fate", ["answered", "cut", "refused", "rate-limited", "not sent"])
def test_what_was_handed_in_is_found_and_nothing_else(
    server: BatchControls, provider: Any, model: str, batch_setup: BatchSetup, fate: str
) -> None:
    since = now()
    given = items()
    other = items(4, "other")
    provider.submit_batch(model, other, key="job-0")
    if fate == "not sent":
        with unreachable() as url:
            lost = batch_setup.setup.provider(url)
            error = refused(lambda: lost.submit_batch(model, given, key="job-1"))  # type: ignore[attr-defined]
            lost.close()
        assert (error.kind, error.billed) == ("outage", False)
    elif fate == "answered":
        provider.submit_batch(model, given, key="job-1")
    else:
        if fate == "cut":
            server.cut("create")
        else:
            server.fail("create", 500 if fate == "refused" else 429)
        error = refused(lambda: provider.submit_batch(model, given, key="job-1"))
        assert error.kind == ("rate-limit" if fate == "rate-limited" else "outage")
        assert error.billed is (fate == "cut")
    handed_in = fate in ("answered", "cut")
    mine = next((b.id for b in server.batches.values() if "c0" in b.requests), None)
    assert (mine is not None) is handed_in
    for _ in range(2):
        assert provider.find_batch("job-1", ids(given), since=since) == mine
        server.finish()
    assert server.n_handed_in["c0"] == int(handed_in)


@settings(max_examples=20)
@given(
    n_before=st.integers(0, 4),
    n_after=st.integers(0, 4),
    page_size=st.integers(1, 3),
    oldest_first=st.booleans(),
    is_lost=st.booleans(),
    has_ended=st.booleans(),
)
def test_it_is_found_on_whatever_page_it_is(
    running: BatchControls,
    provider: Any,
    batch_setup: BatchSetup,
    n_before: int,
    n_after: int,
    page_size: int,
    oldest_first: bool,
    is_lost: bool,
    has_ended: bool,
) -> None:
    running.reset()
    running.page_size = page_size
    # Anthropic documents the order; of the others, any is taken.
    running.oldest_first = oldest_first and batch_setup.setup.id != "anthropic"
    model = batch_setup.setup.model
    for i in range(n_before):
        provider.submit_batch(model, items(1, f"b{i}-"), key=f"before-{i}")
        running.batches[next(reversed(running.batches))].created_at -= 9000 - i
    since = now() - timedelta(seconds=1)
    running.cut("create") if is_lost else running.fail("create", 500)
    refused(lambda: provider.submit_batch(model, items(2), key="job-1"))
    mine = next(reversed(running.batches)) if is_lost else None
    for i in range(n_after):
        provider.submit_batch(model, items(3, f"a{i}-"), key=f"after-{i}")
    if has_ended:
        running.finish()
    assert provider.find_batch("job-1", ["c0", "c1"], since=since) == mine


def test_an_older_batch_of_the_same_key_is_not_taken(
    server: BatchControls, provider: Any, model: str
) -> None:
    old = provider.submit_batch(model, items(), key="job-1")
    server.batches[old].created_at -= 9000
    server.cut("create")
    since = now()
    refused(lambda: provider.submit_batch(model, items(), key="job-1"))
    new = next(reversed(server.batches))
    find = partial(provider.find_batch, "job-1", ids(items()), since=since)
    assert find() == new
    assert find(known={new}) is None


def test_a_clock_that_is_wrong_loses_nothing(
    server: BatchControls, provider: Any, model: str
) -> None:
    for skew_s in (-200.0, 200.0):
        server.reset()
        server.clock_skew_s = skew_s
        since = now()
        server.cut("create")
        refused(lambda: provider.submit_batch(model, items(), key="job-1"))
        (batch_id,) = server.batches
        assert provider.find_batch("job-1", ids(items()), since=since) == batch_id


# Failing calls.


@pytest.mark.parametrize("code", [429, 500])
def test_every_call_may_fail_and_says_no_secret(
    server: BatchControls, provider: Any, model: str, code: int
) -> None:
    since = now()
    batch_id = provider.submit_batch(model, items(), key="job-1")
    server.finish(batch_id)
    keys = count(2)

    def hand_in() -> str:
        handed_in: str = provider.submit_batch(model, items(), key=f"job-{next(keys)}")
        return handed_in

    calls: dict[str, Callable[[], Any]] = {
        **dict.fromkeys(("start_upload", "upload", "list_files", "create"), hand_in),
        "list": lambda: provider.find_batch("job-1", ids(items()), since=since),
        "status": lambda: provider.batch_status(batch_id),
        "results": lambda: list(provider.batch_results(batch_id)),
        "cancel": lambda: provider.cancel_batch(batch_id),
    }
    for call in server.CALLS:
        server.fail(call, code, headers={"retry-after": "7"})
        error = refused(calls[call])
        assert error.kind == ("rate-limit" if code == 429 else "outage"), call
        assert not error.billed and error.kind not in ("refused", "auth")
        assert error.retry_after_s == 7
        shown = "".join(traceback.format_exception(error))
        assert KEY not in shown and "Louvre" not in shown
        assert error.__context__ is None and error.__cause__ is None
    for call in server.CALLS:
        if call == "create":
            continue  # it is the one call that does something
        server.cut(call)
        error = refused(calls[call])
        assert error.kind in ("outage", "cut") and not error.billed, call
        assert error.__context__ is None
    # As long as the faults last, and no longer; nothing was handed in by any of them.
    assert provider.batch_status(batch_id).state == "ended"
    assert len(server.batches) == 1


@pytest.mark.parametrize("bad", [float("nan"), object(), "\ud800"])
def test_what_is_no_json_is_refused_before_anything_is_sent(
    server: BatchControls, provider: Any, model: str, bad: object
) -> None:
    prompt = Prompt(QUESTION.messages, options={"stop_sequences": [bad]})
    with pytest.raises(InputError, match="'c7'") as caught:
        provider.submit_batch(model, [*items(2), BatchItem("c7", prompt)], key="job-1")
    assert caught.value.__context__ is None
    assert server.batches == {} and server.calls == []


@pytest.mark.parametrize("name", ["extra_headers", "extra_query"])
def test_what_only_a_single_call_can_have_is_refused(
    server: BatchControls, provider: Any, model: str, name: str
) -> None:
    prompt = Prompt(QUESTION.messages, options={name: {"x-secret": "s"}})
    with pytest.raises(InputError, match=name):
        provider.batch_bytes(model, BatchItem("c0", prompt))


def test_the_bytes_of_a_prompt_grow_with_it(provider: Any, model: str) -> None:
    def n_bytes(text: str) -> int:
        item = BatchItem("c0", Prompt(({"role": "user", "content": text},)))
        n: int = provider.batch_bytes(model, item)
        return n

    short = n_bytes("a")
    assert n_bytes("a" * 1001) == short + 1000
    assert n_bytes("é" * 1001) == short + 2001
    assert provider.batch_limits.max_items >= 50_000 and provider.batch_limits.max_bytes >= 10**8


def test_the_page_names_the_limits(repository: Path, provider: Any) -> None:
    page = (repository / "docs/providers.md").read_text("utf-8")
    limits = provider.batch_limits
    said = f"{limits.max_items:,} prompts, {limits.max_bytes // 10**6} MB"
    assert re.search(rf"^\| `{provider.id}` \|.*\| {said} \|", page, re.MULTILINE)
