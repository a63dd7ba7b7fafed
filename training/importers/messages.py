"""The query in a logged prompt: the one rule that all importers share.

The query is the text of the **last message of the user**. A message's text is its content, or the
text parts of its content, one per line; images and other parts are passed over, and so are messages
of the user that only carry a tool's result. A prompt that is no list of messages is the query
itself where it is text, or where it is an object with one text that can only be meant
(``messages``, ``input``, ``prompt``, ``query`` or ``question``, or its single text).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.errors import OutcomeError
from training.importers.fields import parsed

NO_PROMPT = "no prompt was logged"
NO_USER_MESSAGE = "the prompt has no message of the user"
NO_TEXT = "the last message of the user has no text"

_USERS = ("user", "human")
_TOOL_RESULTS = ("tool_result", "tool_call_response", "function_call_output")
_KEYS = ("messages", "input", "prompt", "query", "question")
_MAX_DEPTH = 6  # of prompts within prompts


def query_of(prompt: object) -> str:
    """The query in a prompt: text, JSON as text, a message, a list of messages, or an object.

    >>> query_of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    'Why?'
    >>> query_of('{"question": "Why?"}')
    'Why?'

    Raises:
        OutcomeError: there is none.
    """
    return _query(prompt, 0)


def _query(prompt: object, depth: int) -> str:
    if depth > _MAX_DEPTH:
        raise OutcomeError(NO_USER_MESSAGE)
    value = parsed(prompt)
    if isinstance(value, str):
        if not value.strip():
            raise OutcomeError(NO_PROMPT)
        return value
    if isinstance(value, Mapping):
        return _of_object(value, depth)
    if isinstance(value, list):
        return _of_list(value, depth)
    raise OutcomeError(NO_PROMPT if value is None else NO_USER_MESSAGE)


def _of_object(value: Mapping[str, object], depth: int) -> str:
    if "role" in value:
        return _of_list([value], depth)
    for key in _KEYS:
        if value.get(key):
            return _query(value[key], depth + 1)
    texts = [text for text in value.values() if isinstance(text, str) and text.strip()]
    if len(texts) == 1:
        return texts[0]
    raise OutcomeError(NO_USER_MESSAGE if value else NO_PROMPT)


def _of_list(value: Sequence[object], depth: int) -> str:
    if not value:
        raise OutcomeError(NO_PROMPT)
    if len(value) == 1 and isinstance(value[0], list):
        return _query(value[0], depth + 1)  # a batch of one conversation
    if any(isinstance(item, Mapping) and "role" in item for item in value):
        return _last_of_user(value)
    text = _text(value)
    if not text.strip():
        raise OutcomeError(NO_USER_MESSAGE)
    return text


def _last_of_user(messages: Sequence[object]) -> str:
    for message in reversed(messages):
        if not isinstance(message, Mapping) or message.get("role") not in _USERS:
            continue
        content = message.get("content")
        if content is None:
            content = message.get("parts")
        if _is_tool_result(content):
            continue
        text = _text(content)
        if not text.strip():
            raise OutcomeError(NO_TEXT)
        return text
    raise OutcomeError(NO_USER_MESSAGE)


def _is_tool_result(content: object) -> bool:
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(p, Mapping) and p.get("type") in _TOOL_RESULTS for p in content)
    )


def _text(content: object) -> str:
    """The text of a message's content: text, a part, or a list of them."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        if isinstance(part, Mapping) and part.get("type") not in _TOOL_RESULTS:
            # OpenAI and Gemini call it text, OpenTelemetry content.
            text = part.get("text")
            part = part.get("content") if text is None else text
        if isinstance(part, str):
            texts.append(part)
    return "\n".join(texts)
