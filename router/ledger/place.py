"""Where a ledger is: a path or a URL, the default, and how a place is named without its password.

Nothing here needs SQLAlchemy, so that the command line can say where it would look.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from router.errors import InputError

LEDGER_VARIABLE = "CPS_ROUTER_LEDGER"
"""Environment variable with the path or URL of the ledger that is meant where none is named."""
DEFAULT_LEDGER = "ledger.db"
"""Where neither a place nor the variable is given: this file in the current folder."""

_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")
_SQLITE_HEADS = ("sqlite:///", "sqlite+pysqlite:///")


@dataclass(frozen=True, slots=True, repr=False)
class Place:
    """A ledger's place; ``shown`` is what errors and reprs may say: no user, password or option.

    Either a file's ``path`` or a server's ``url``: written into a URL, a path with a question mark
    would be that of another file.
    """

    shown: str
    url: str = ""
    path: Path | None = None
    read_only: bool = False

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.path is not None

    def __repr__(self) -> str:
        return f"Place({self.shown!r})"


def default_ledger() -> str:
    """The ledger that is meant where none is named: ``CPS_ROUTER_LEDGER``, else ``ledger.db``."""
    return os.environ.get(LEDGER_VARIABLE) or DEFAULT_LEDGER


def place_of(url_or_path: str | os.PathLike[str]) -> Place:
    """Read a path, ``sqlite:///PATH`` or ``postgresql://...``.

    Paths are made absolute at once, so that a later change of folder moves no ledger. A path is
    taken as it stands; in a URL, ``%3F`` and the like are the characters they stand for.

    Raises:
        InputError: it is none of them; the message shows no URL, which may hold a password.

    >>> place_of("postgresql://me:secret@db.example:5432/bills?password=secret").shown
    'postgresql://db.example:5432/bills'
    """
    if not isinstance(url_or_path, str | os.PathLike):
        raise InputError(
            f"expected a ledger's path or URL as text, got {type(url_or_path).__name__}: give for "
            "example ledger.db or postgresql://user@host/database."
        )
    text = os.fspath(url_or_path)
    scheme, colon, _ = text.partition("://")
    if not colon:
        return _file(text, "")
    if scheme in _POSTGRES:
        return Place(_shown(text), "postgresql+psycopg" + text[len(scheme) :])
    for head in _SQLITE_HEADS:
        if text.startswith(head):
            path, _, options = text[len(head) :].partition("?")
            return _file(unquote(path), options)
    raise InputError(
        "expected a ledger as a path, sqlite:///PATH or postgresql://user@host/database, got "
        f"another kind of URL ({scheme[:20]!r}): choose one of them."
    )


def _file(name: str, options: str) -> Place:
    if name.startswith("file:"):
        name = name.removeprefix("file:")
    if not name or name == ":memory:" or "\0" in name:
        raise InputError(
            "expected a ledger's path, got none or one in memory, which every connection would "
            "have for itself: name a file, for example ledger.db."
        )
    path = Path(name).expanduser().absolute()
    return Place(str(path), path=path, read_only=parse_qs(options).get("mode") == ["ro"])


def _shown(url: str) -> str:
    """Host, port and database of a URL."""
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        host = unquote(parts.hostname or "") or next(iter(query.get("host", [])), "")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        raise InputError(
            "expected a URL like postgresql://user@host:5432/database, got one that cannot be "
            "read: write special characters of a password as %40 and the like."
        ) from None
    return f"postgresql://{host}{port}/{parts.path.lstrip('/')}"
