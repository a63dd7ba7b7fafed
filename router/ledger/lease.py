"""Who holds a lease on a batch job: a name that tells whether its process still lives."""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DEFAULT_LEASE_S = 900.0


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds leases; ``lease_s`` after its last write others may go on.

    The name is machine, process and a random part. The process of a name that is of this machine
    can be looked for: where it has gone, nobody has to wait for the lease to end.
    """

    name: str
    lease_s: float = DEFAULT_LEASE_S

    @classmethod
    def of_this_process(cls, lease_s: float = DEFAULT_LEASE_S) -> Holder:
        """A holder of its own for every call."""
        pid = os.getpid()
        return cls(f"{_machine()}|{pid}|{_started(pid)}|{uuid.uuid4().hex}", lease_s)

    @property
    def lease_us(self) -> int:
        """``lease_s`` in microseconds."""
        return round(self.lease_s * 1e6)

    def may_replace(self, other: str) -> bool:
        """Whether the holder of that name is this one, or a process that has ended here."""
        if other == self.name:
            return True
        machine, _, rest = other.partition("|")
        pid, _, rest = rest.partition("|")
        if machine != _machine() or not pid.isdigit():
            return False
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        # The number may be another process's by now.
        return _started(int(pid)) != rest.partition("|")[0]


def _machine() -> str:
    """Host and, in a container, the space within which process numbers mean something."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()}{space}".replace("|", "-")


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; "" where that cannot be had."""
    with suppress(OSError, IndexError):
        # After the name in brackets, which may have anything in it; the 22nd field of all.
        return (
            Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[19]
        )
    return ""
