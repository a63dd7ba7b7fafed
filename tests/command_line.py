"""Run ``cps-router`` in this process, or in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training.cli import main

# From the checkout, wherever the process starts.
_CHECKOUT = str(Path(__file__).resolve().parent.parent)
_HERE = f"import sys; sys.path.insert(0, {_CHECKOUT!r}); "
COMMAND = [sys.executable, "-c", f"{_HERE}from training.cli import main; main()"]

Run = Callable[..., "Done"]


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def here(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: object,
    stdin: bytes = b"",
) -> Done:
    """Run a command in this process; anything but a SystemExit is an error."""
    monkeypatch.setattr(sys, "argv", ["cps-router", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    code: Any = ended.value.code
    assert "Traceback" not in captured.err
    return Done(code or 0, captured.out, captured.err)


def apart(*arguments: object, stdin: bytes = b"", **environment: str) -> Done:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )
    err = done.stderr.decode()
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    return Done(done.returncode, done.stdout.decode(), err)


def run_python(code: str, *arguments: object, cwd: Path, **environment: str) -> str:
    """What a new interpreter writes to standard output; it must not complain of anything."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
