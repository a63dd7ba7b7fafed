"""What labelling has paid for, kept so that nothing is paid twice; and the purse it is paid from.

The journal is a file of JSON lines beside the outcomes. A call is noted with the most it can cost
before it is made, and with its answer and what it did cost after. A process may end at any point:
what was answered is found again, and a call whose answer was lost counts as spent at its bound, so
that the limit holds over all runs together. The journal holds the answers' texts.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from router.client.cost_limit import check_limit, left_of
from router.errors import InputError
from router.providers.base import Answer
from router.usage import Usage


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that is paid for; ``usage`` and ``latency_s`` None where unknown."""

    text: str = field(repr=False)
    usage: Usage | None = None
    finish_reason: str | None = None
    latency_s: float | None = None
    at: str | None = None

    @property
    def answer(self) -> Answer:
        """As a check sees it."""
        return Answer(self.text, self.usage, finish_reason=self.finish_reason)


class Journal:
    """Calls by name: what was answered, what failed, what is open. Safe between threads.

    Args:
        path: Made where there is none; one process at a time. None: in memory alone.

    Attributes:
        answers: By (key of what was sent, ``provider/model``).
        verdicts: Of judges, by the key of the judgement; None where the judge did not say.
        failures: Why a call has no answer yet, by the same name as answers.
        handed_in: Batches that are not collected: their name, with tier, model, keys, the digest
            of what was handed in, and the job's id once it is known.

    Raises:
        InputError: it cannot be read or written, or another process uses it.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.answers: dict[tuple[str, str], Answered] = {}
        self.verdicts: dict[str, bool | None] = {}
        self.failures: dict[tuple[str, str], str] = {}
        self.handed_in: dict[str, dict[str, Any]] = {}
        self._open: dict[str, float] = {}
        self._known_usd = 0.0
        self._lock = threading.Lock()
        self._path = None if path is None else Path(path)
        self._file: IO[bytes] | None = None
        if self._path is not None:
            self._load(self._path)

    @property
    def spent_usd(self) -> float:
        """All that was paid, and the bounds of calls of which nothing came back."""
        with self._lock:
            return self._known_usd + sum(self._open.values())

    @property
    def n_lost(self) -> int:
        """Calls of which nothing came back."""
        with self._lock:
            return len(self._open)

    def calling(self, call: str, bound_usd: float) -> None:
        """Before a call: the most that it can cost."""
        self._write({"kind": "calling", "call": call, "bound_usd": bound_usd})

    def answered(self, call: str, name: tuple[str, str], found: Answered, usd: float) -> None:
        """After a call of a tier."""
        usage = None if found.usage is None else asdict(found.usage)
        facts = {"kind": "answered", "call": call, "key": name[0], "model": name[1]}
        said = {"text": found.text, "usage": usage, "finish_reason": found.finish_reason}
        measured = {"latency_s": found.latency_s, "at": found.at, "usd": usd}
        self._write(facts | said | measured)

    def judged(self, call: str, key: str, passed: bool | None, usd: float) -> None:
        """After a call of a judge."""
        self._write({"kind": "judged", "call": call, "key": key, "passed": passed, "usd": usd})

    def failed(self, call: str, name: tuple[str, str], reason: str, usd: float) -> None:
        """After a call without an answer; ``usd`` is its bound where it may have been charged."""
        facts = {"kind": "failed", "call": call, "key": name[0], "model": name[1]}
        self._write({**facts, "reason": reason, "usd": usd})

    def handing_in(
        self, name: str, tier: str, model: str, keys: list[str], digest: str, bound_usd: float
    ) -> None:
        """Before a batch is handed in; ``digest`` tells apart what its job's id tells apart."""
        facts = {"kind": "handing-in", "batch": name, "tier": tier, "model": model, "keys": keys}
        self._write({**facts, "digest": digest, "call": name, "bound_usd": bound_usd})

    def has_job(self, name: str, job_id: str) -> None:
        """After a batch was handed in: by what it is found again, whatever is edited since."""
        self._write({"kind": "has-job", "batch": name, "call": name, "job_id": job_id})

    def collected(self, name: str) -> None:
        """After all answers of a batch were noted."""
        self._write({"kind": "collected", "batch": name, "call": name, "usd": 0.0})

    def close(self) -> None:
        """Let others use it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _load(self, path: Path) -> None:
        try:
            file = path.open("a+b")
            os.chmod(path, 0o600)  # it holds what was asked and answered
        except OSError as error:
            raise InputError(
                f"expected to keep a journal at {path}, got {error.strerror or 'an error'}: choose "
                "another folder for the outcomes."
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise InputError(
                f"expected the journal {path} for this run alone, got one that another run is "
                "using: wait for it, or write to other outcomes."
            ) from None
        file.seek(0)
        whole = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break  # written while the process ended; the call stays open, at its bound
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                file.close()
                raise InputError(
                    f"expected the journal of an earlier run in {path}, got a line, number "
                    f"{number}, that is none: move the file away, and what it knows is paid again."
                ) from None
            whole += len(line)
        file.truncate(whole)
        self._file = file

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record).encode("ascii") + b"\n"
        with self._lock:
            if self._file is not None:
                self._file.write(line)
                self._file.flush()
                os.fsync(self._file.fileno())
            self._take(record)

    def _take(self, record: Mapping[str, Any]) -> None:
        kind, call = record["kind"], record["call"]
        if kind in ("calling", "handing-in"):
            self._open[call] = float(record["bound_usd"])
            if kind == "handing-in":
                self.handed_in[record["batch"]] = dict(record)
            return
        if kind == "has-job":
            self.handed_in[record["batch"]]["job_id"] = record["job_id"]
            return
        self._known_usd += float(record["usd"])
        self._open.pop(call, None)
        if kind == "judged":
            self.verdicts[record["key"]] = record["passed"]
            return
        if kind == "collected":
            self.handed_in.pop(record["batch"], None)
            return
        name = record["key"], record["model"]
        if kind == "failed":
            self.failures[name] = record["reason"]
            return
        usage = record["usage"]
        self.failures.pop(name, None)
        self.answers[name] = Answered(
            record["text"],
            None if usage is None else Usage(**usage),
            record["finish_reason"],
            record["latency_s"],
            record["at"],
        )


class Purse:
    """A limit over calls that are made at the same time: what is spent, and what is set aside.

    Args:
        max_usd: The limit; None for none.
        spent_usd: What was spent before.
    """

    def __init__(self, max_usd: float | None, spent_usd: float = 0.0) -> None:
        check_limit(max_usd)
        self._max_usd, self.spent_usd = max_usd, spent_usd
        self._aside_usd = 0.0
        self._lock = threading.Lock()

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self._max_usd is not None

    @property
    def left_usd(self) -> float:
        """What is neither spent nor set aside."""
        with self._lock:
            return self._left()

    def set_aside(self, usd: float) -> bool:
        """Keep so much for a call; False, and nothing is kept, where there is less."""
        with self._lock:
            if usd > self._left():
                return False
            self._aside_usd += usd
            return True

    def pay(self, aside_usd: float, usd: float) -> None:
        """Spend ``usd`` of what was set aside for it; the rest is free again."""
        with self._lock:
            self._aside_usd = max(self._aside_usd - aside_usd, 0.0)
            self.spent_usd += usd

    def _left(self) -> float:
        if self._max_usd is None:
            return float("inf")
        return left_of(self._max_usd, self.spent_usd + self._aside_usd)
