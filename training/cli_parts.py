"""What the commands of the training side share beyond those of serving: missing extras."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from router.cli_parts import JsonFlag, print_json, progress, warn
from router.errors import MissingExtraError

__all__ = ["JsonFlag", "extra", "print_json", "progress", "warn"]


@contextmanager
def extra(name: str) -> Iterator[None]:
    """A missing dependency of the training side names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").split(".")[0]
        raise MissingExtraError(package, name, "this command") from None
