"""Ready checks of answers: what passes, what they refuse, and that nothing hangs or leaks."""

from __future__ import annotations

import builtins
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router.errors import InputError, MissingExtraError
from router.providers.base import Answer, Prompt
from router.verifiers import TextCheck, code_of, exact, json_schema, rates_of, regex, unit_test

PROMPT = Prompt(())
PERSON = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}


def passes(check: TextCheck, text: str) -> bool:
    return check(Answer(text), PROMPT)


def test_exact_forgives_white_space_and_case_where_asked() -> None:
    assert passes(exact("42"), "42\n")
    assert not passes(exact("42"), "42.")
    assert not passes(exact("Paris"), "paris")
    assert passes(exact("Paris", ignore_case=True), "paris")


def test_a_pattern_is_found_anywhere_and_only_in_bounded_text() -> None:
    check = regex(r"\b\d{4}\b")
    assert passes(check, "in 1999, I think")
    assert not passes(check, "in 99")
    assert not passes(regex("a"), "a" * 100_001)
    assert passes(regex("a"), "a" * 100_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "Ada", "age": 36}', True),
        ('```json\n{"name": "Ada", "age": 36}\n```', True),
        ('\n```\n{"name": "Ada", "age": 36}\n```\n', True),
        ('{"name": "Ada", "age": -1}', False),
        ('{"name": "Ada"}', False),
        ('Sure! {"name": "Ada", "age": 36}', False),
        ('{"name": "Ada", "age": NaN}', False),
        ("", False),
        ("[" * 200_000, False),
        (" " * 1_000_001, False),
    ],
)
def test_json_is_checked_against_its_schema(text: str, expected: bool) -> None:
    assert passes(json_schema(PERSON), text) is expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"$ref": "https://example.com/person.json"},
        {"properties": {"a": {"items": [{"$ref": "other.json#/x"}]}}},
    ],
)
def test_a_schema_that_is_none_or_is_elsewhere_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        json_schema(schema)


def test_without_jsonschema_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "jsonschema":
            raise ImportError(name)
        return genuine(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"cps-router\[verify\]"):
        json_schema(PERSON)


def test_code_is_given_in_a_file_or_on_standard_input() -> None:
    good, bad = "```python\nassert 1 + 1 == 2\n```", "```python\nassert 1 + 1 == 3\n```"
    for command in ([sys.executable, "{file}"], [sys.executable, "-"]):
        check = unit_test(command, 30)
        assert passes(check, good)
        assert not passes(check, bad)
    assert code_of("a\n```py\nx\n```\nb\n```\ny\n```") == "x\ny\n"
    assert code_of("no fence") == "no fence"


def test_secrets_of_this_process_do_not_reach_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    code = "import os, sys; sys.exit('SOME_API_KEY' in os.environ or 'MINE' not in os.environ)"
    assert passes(unit_test([sys.executable, "{file}"], 30, environment={"MINE": "1"}), code)


def test_a_program_that_prints_for_ever_is_ended_and_costs_no_memory() -> None:
    check = unit_test([sys.executable, "{file}"], 0.5)
    assert not passes(check, "while True: print('x' * 100_000)")


def _gone(pid: int) -> bool:
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # Ended, but nobody has asked for its exit code: in a container that may take a while.
        status = Path(f"/proc/{pid}/stat")
        if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("ending", ["while True: pass", "sys.exit(0)"])
def test_children_end_with_their_program(ending: str, tmp_path: Path) -> None:
    written = tmp_path / "pid"
    code = (
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(written)!r}).write_text(str(child.pid))\n"
        f"{ending}\n"
    )
    passed = passes(unit_test([sys.executable, "{file}"], 5.0), code)
    assert passed is (ending == "sys.exit(0)")
    assert _gone(int(written.read_text()))


def test_the_folder_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert passes(unit_test([sys.executable, "{file}"], 30), "open('left', 'w').write('x')")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: unit_test("python x"),
        lambda: unit_test([]),
        lambda: unit_test(["no-such-program-anywhere"]),
        lambda: unit_test([sys.executable], 0),
        lambda: regex("("),
        lambda: exact("x", miss_rate=2.0),
    ],
)
def test_what_cannot_be_a_check_is_refused(make: Callable[[], TextCheck]) -> None:
    with pytest.raises(InputError, match="expected"):
        make()


def test_rates_are_the_checks_own_or_none() -> None:
    rates = rates_of(exact("x", miss_rate=0.1, false_alarm_rate=0.2))
    assert (rates.miss_rate, rates.false_alarm_rate) == (0.1, 0.2)
    assert rates_of(lambda answer, prompt: True).miss_rate == 0.0


def test_a_check_does_not_show_what_it_looks_for() -> None:
    assert "marker" not in repr(exact("marker")) + repr(regex("marker"))
