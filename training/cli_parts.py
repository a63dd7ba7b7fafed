"""What the commands of the training side share: progress, JSON output, missing extras."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from router.cli import emit
from router.errors import MissingExtraError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@contextmanager
def extra(name: str) -> Iterator[None]:
    """A missing dependency of the training side names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").split(".")[0]
        raise MissingExtraError(package, name, "this command") from None


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
