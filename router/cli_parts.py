"""What commands share: output, progress, warnings, and the flag for JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from router.errors import CpsRouterError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def emit(text: str) -> None:
    """Print on stdout; ends the program quietly where the reader (head, less) has gone."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        # A name that the terminal cannot show is shown escaped.
        typer.echo(text.encode(encoding, "backslashreplace").decode(encoding))
    except OSError as error:
        # What is still buffered goes nowhere, rather than into a complaint at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(0) from None
        raise CpsRouterError(
            f"expected to write to standard output, got {error.strerror or 'an error'}: "
            "make room or write elsewhere."
        ) from None


@contextmanager
def progress() -> Iterator[Any]:
    """A function that shows what is being done, on stderr, replaced in place on a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("starting") as status:
            yield status.update
        return
    last = ""

    def say(message: str) -> None:
        nonlocal last
        # Not a terminal: one line per stage, not one per count.
        stage = message.split(":")[0]
        if stage != last:
            # Nobody listening is no reason to stop training.
            with suppress(OSError):
                typer.echo(message, err=True)
        last = stage

    yield say


def warn(sentence: str) -> None:
    """Tell the person on stderr; nobody listening is no reason to stop."""
    with suppress(OSError):
        typer.echo(f"cps-router: {sentence}", err=True)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    emit(json.dumps(value, indent=1, allow_nan=False))
