"""What callers get wrong: one sentence, nothing sent, nothing recorded, no breaker opened."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from router.errors import CpsRouterError, InputError, ProviderError
from router.providers import make_provider
from router.providers.base import CacheMarks, Prompt, Provider
from tests.router.client_world import EASY, TIERS, MemoryLedger, client_of
from tests.router.test_client import WAYS, in_every_way

MARKER = "PROMPT-MARKER-7f3a"


def user(content: object) -> list[Any]:
    return [{"role": "user", "content": content}]


def assistant(calls: object) -> list[Any]:
    return [*EASY, {"role": "assistant", "content": MARKER, "tool_calls": calls}, *EASY]


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"messages": assistant(5)}, "tool_calls of message 1"),
    ({"messages": assistant([None])}, "tool_calls of message 1"),
    ({"messages": assistant([{"id": MARKER}])}, "tool_calls of message 1"),
    ({"messages": assistant(MARKER)}, "tool_calls of message 1"),
    ({"messages": user([MARKER, "b"])}, "content of message 0"),
    ({"messages": user({"type": MARKER})}, "content of message 0"),
    ({"messages": user(5)}, "content of message 0"),
    ({"messages": user([MARKER, None]), "query": "q"}, "content of message 0"),
    ({"messages": [5]}, "messages as a list of mappings"),
    ({"cache": "1h"}, "cache as CacheMarks"),
    ({"cache": {"ttl": "1h"}}, "cache as CacheMarks"),
    ({"cache": CacheMarks(ttl="2h", explicit=True)}, "ttl"),  # type: ignore[arg-type]
    ({"cache": CacheMarks(enabled=1)}, "enabled"),  # type: ignore[arg-type]
    ({"cache": CacheMarks(explicit="no")}, "explicit"),  # type: ignore[arg-type]
    ({"cache": CacheMarks(key=5)}, "key"),  # type: ignore[arg-type]
    ({"options": [("top_p", 1)]}, "options as a mapping"),
    ({"options": {5: 1}}, "options as a mapping"),
    ({"options": "top_p"}, "options as a mapping"),
    ({"exclude": 5}, "exclude as a list of names"),
    ({"exclude": [5]}, "exclude as a list of names"),
    ({"needs": 5}, "needs as a list of names"),
    ({"needs": [None]}, "needs as a list of names"),
    ({"expected_turns": 0.5}, "expected_turns"),
    ({"expected_turns": "5"}, "expected_turns"),
    ({"expected_turns": float("nan")}, "expected_turns"),
    ({"expected_turns": True}, "expected_turns"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"pin": 5}, "pin"),
    ({"query": 5}, "query"),
]


@pytest.mark.parametrize("way", ["complete", "astream"])
@pytest.mark.parametrize(("given", "words"), FAULTS)
def test_a_callers_fault_is_one_sentence_and_nothing_is_sent(
    way: str, given: dict[str, Any], words: str
) -> None:
    ledger = MemoryLedger()
    client, fake = client_of(ledger=ledger)
    messages = given.get("messages", EASY)
    more = {name: value for name, value in given.items() if name != "messages"}
    with pytest.raises(InputError) as caught:
        in_every_way(client)[way](messages, **more)
    said = str(caught.value)
    assert re.fullmatch(rf"expected {re.escape(words)}.*", said) or words in said
    assert said.startswith("expected ") and ", got " in said and ": " in said
    assert MARKER not in said
    assert (fake.calls, ledger.calls) == ([], [])


def of_every_kind() -> dict[str, Provider]:
    """On an address where nobody listens."""
    ids = ("anthropic", "openai", "deepseek", "google")
    return {name: make_provider(name, "key", base_url="http://127.0.0.1:9") for name in ids}


UNSENDABLE: dict[str, list[Any]] = {
    "half a surrogate pair": user(f"{MARKER} \ud800"),
    "no number": assistant(
        [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": NaN}'}}]
    ),
    "an object": user([{"type": "text", "text": MARKER, "extra": object()}]),
    "a bad signature": assistant(
        [
            {
                "id": "1",
                "type": "function",
                "function": {"name": "f", "arguments": "{}"},
                "extra_content": {"google": {"thought_signature": "a"}},
            }
        ]
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("provider_id", ["anthropic", "openai", "google"])
def test_what_cannot_be_shaped_or_written_opens_no_breaker_and_costs_nothing(
    way: str, provider_id: str
) -> None:
    ledger = MemoryLedger()
    provider = of_every_kind()[provider_id]
    client, _ = client_of(providers={"one": provider, "two": provider}, ledger=ledger, retries=0)
    for what, messages in UNSENDABLE.items():
        if (what, provider_id) in EXCEPTIONS:
            continue
        for _ in range(6):
            request_id = f"{what}-{len(ledger.requests)}"
            with pytest.raises(CpsRouterError) as caught:
                in_every_way(client)[way](messages, request_id=request_id)
            error = caught.value
            assert isinstance(error, InputError) or (
                isinstance(error, ProviderError) and error.kind == "refused" and not error.billed
            ), what
            assert MARKER not in f"{error!r} {error.__cause__!r} {error.__context__!r}"
            assert all(attempt.cost_nanousd == 0 for attempt in ledger.made(request_id)), what
    assert client._parts.breaker.resting() == frozenset()
    asyncio.run(client.aclose())


# Where it can be sent after all: escaped, as text, or not at all.
EXCEPTIONS = {
    ("half a surrogate pair", "google"),
    ("no number", "google"),
    ("an object", "google"),
    ("no number", "openai"),
    ("a bad signature", "anthropic"),
    ("a bad signature", "openai"),
}


def test_a_fault_that_no_check_knows_is_an_input_error_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def boom(model: str, prompt: Prompt) -> Any:
        raise RuntimeError(MARKER)

    for provider in of_every_kind().values():
        monkeypatch.setattr(provider, "_request", boom)
        client, _ = client_of(providers={"one": provider, "two": provider})
        with pytest.raises(InputError, match="correct its messages") as caught:
            client.complete(EASY)
        assert MARKER not in f"{caught.value!r} {caught.value.__context__!r}"


def test_what_is_right_passes() -> None:
    client, fake = client_of(tiers=TIERS)
    client.complete(
        [*assistant([]), *assistant(None), *user([{"type": "text", "text": "x"}])],
        cache=CacheMarks(ttl="1h", key="k"),
        options={"top_p": 1},
        exclude=("mid",),
        expected_turns=1,
        temperature=0,
    )
    assert len(fake.calls) == 1
