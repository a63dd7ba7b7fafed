"""Running a program on somebody else's code: bounded time, no shell, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def passes(
    command: Sequence[str], code: str, timeout_s: float, environment: Mapping[str, str]
) -> bool:
    """Whether the command ends with exit code 0 in time; see `router.verifiers.unit_test`.

    Raises OSError where it cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="cps-router-", ignore_cleanup_errors=True) as folder:
        # A file, not a pipe: a program that does not read it cannot hold us up.
        path = Path(folder, "answer")
        path.write_bytes(code.encode("utf-8", "surrogatepass"))
        arguments = [argument.replace("{file}", str(path)) for argument in command]
        variables = {"PATH": os.environ.get("PATH", os.defpath), "HOME": folder, **environment}
        with path.open("rb") as given:
            on_input = given if arguments == list(command) else subprocess.DEVNULL
            process = subprocess.Popen(
                arguments,
                stdin=on_input,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=variables,
                # A group of its own, so that its children can be ended with it.
                start_new_session=True,
            )
        try:
            return process.wait(timeout_s) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            # Children may outlive the program that started them.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
