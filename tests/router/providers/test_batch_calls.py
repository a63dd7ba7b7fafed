"""The small pieces that the providers' batches share."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from router.providers.batch_calls import all_before, custom_id_of, lines_of

_LINES = st.lists(st.binary(min_size=1, max_size=9).map(lambda line: b"{%b}" % line.hex().encode()))


@given(_LINES, st.lists(st.integers(0, 99)), st.booleans())
def test_lines_are_the_same_however_a_file_is_cut(
    lines: list[bytes], cuts: list[int], has_end: bool
) -> None:
    content = b"\r\n\n".join(lines) + (b"\n" if has_end else b"")
    at = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    chunks = [content[a:b] for a, b in pairwise(at)]
    assert list(lines_of(chunks)) == lines


def test_an_id_is_taken_from_a_broken_line_only_where_it_is_the_lines() -> None:
    assert custom_id_of(b'{"id": "r", "custom_id": "a-1", "response": {"bo') == "a-1"
    assert custom_id_of(b'{"key":"a_1","response":{"args":{"key":"b"}') == "a_1"
    # An argument of a tool call, in a row whose own id would have come later.
    assert custom_id_of(b'{"response": {"args": {"key": "b"}}, "ke') is None
    assert custom_id_of(b'{"custom_id": "with space", "re') is None


def test_the_rest_of_a_list_is_left_out_only_where_it_shows_its_order() -> None:
    since = datetime(2026, 11, 24, tzinfo=UTC)
    now = since.timestamp()
    assert all_before([now - 400, now - 500], since)
    assert not all_before([now - 500, now - 400], since)
    assert not all_before([now - 400, now - 400], since)
    assert not all_before([now - 200, now - 500], since)
    assert not all_before([now - 400], since)
    assert not all_before([], since)
