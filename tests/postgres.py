"""A real PostgreSQL server of the tests' own: started in a temporary folder, gone with them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "cps"
_STARTS_WITHIN_S = 60.0


def binaries() -> Path | None:
    """The folder of initdb and postgres; Debian keeps it off the path. None where there is none."""
    on_path = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    for folder in [*([Path(on_path).resolve().parent] if on_path else []), *reversed(folders)]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


def _account() -> pwd.struct_passwd | None:
    """Whom the server runs as: it refuses root. None is whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL refuses to run as root, and there is no other user")


class Server:
    """A running server, reached through a socket in its folder."""

    def __init__(self, bin_folder: Path, folder: Path, *, fsync: bool) -> None:
        self._bin, self._folder, self._fsync = bin_folder, folder, fsync
        account = _account()
        self._as: dict[str, object] = {"cwd": folder, "stdin": subprocess.DEVNULL}
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._as |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        made = subprocess.run(
            [
                str(bin_folder / "initdb"),
                "-D",
                "data",
                "-U",
                USER,
                "-A",
                "trust",
                "-N",
                "-E",
                "UTF8",
            ],
            capture_output=True,
            check=False,
            **self._as,  # type: ignore[call-overload]
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed: {made.stderr.decode(errors='replace')[-500:]}")
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        fsync = "on" if self._fsync else "off"
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self._bin / "postgres"), "-D", "data", "-k", str(self._folder)),
                    *("-h", "", "-c", f"fsync={fsync}"),
                ],
                stdout=log,
                stderr=log,
                **self._as,  # type: ignore[call-overload]
            )
        until = time.monotonic() + _STARTS_WITHIN_S
        while self._query("SELECT 1").returncode != 0:
            if self._process.poll() is not None or time.monotonic() > until:
                tail = (self._folder / "log").read_text(errors="replace")[-500:]
                raise RuntimeError(f"PostgreSQL did not start: {tail}")
            time.sleep(0.05)

    def stop(self, *, how: int = signal.SIGINT) -> None:
        """Stop it, by default at once but in order (SIGQUIT: as in a crash)."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def url(self, database: str, user: str = USER) -> str:
        """The URL of a database."""
        return f"postgresql://{user}@/{database}?host={self._folder}"

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.run(f"CREATE DATABASE {name} STRATEGY file_copy")
        return self.url(name)

    def run(self, statement: str, database: str = "postgres") -> str:
        """What psql prints for a statement."""
        done = self._query(statement, database)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode())
        return done.stdout.decode()

    def _query(
        self, statement: str, database: str = "postgres"
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [
                *(str(self._bin / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"),
                *("-h", str(self._folder), "-U", USER, "-d", database, "-c", statement),
            ],
            capture_output=True,
            check=False,
            cwd=self._folder,
        )


@contextmanager
def server(*, fsync: bool = False) -> Iterator[Server]:
    """A server in a folder of its own; RuntimeError where PostgreSQL is missing or does not start.

    ``fsync`` False: the tests end processes, not the power supply, and need no flushed disk.
    """
    found = binaries()
    if found is None:
        raise RuntimeError("PostgreSQL is not installed (apt-get install postgresql)")
    # Not pytest's own folder, which only its owner may enter; and paths of sockets must be short.
    folder = Path(tempfile.mkdtemp(prefix="cps-pg-"))
    running = None
    try:
        running = Server(found, folder, fsync=fsync)
        yield running
    finally:
        if running is not None:
            running.stop()
        shutil.rmtree(folder, ignore_errors=True)
