"""What a process pays: time to import and load, memory, size on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import router as router_package
from benchmarks.results import Table
from router.artifact import default_artifact_folder

# Measured inside a process of its own. VmRSS and VmHWM rather than getrusage, whose peak a child
# process takes over from its parent.
_COLD_START = """
import json, sys, time

def resident_mb(name):
    try:
        with open("/proc/self/status") as file:
            found = [line.split()[1] for line in file if line.startswith(name)]
        return int(found[0]) / 1024
    except (OSError, IndexError):
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 1024)

query = sys.stdin.read()
before = resident_mb("VmRSS")
start = time.perf_counter()
import router
loaded = router.Router.load()
seconds = time.perf_counter() - start
start = time.perf_counter()
tier = loaded.route(query).tier
first_s = time.perf_counter() - start
print(json.dumps({
    "seconds": seconds,
    "first_route_s": first_s,
    "interpreter_mb": before,
    "resident_mb": resident_mb("VmRSS"),
    "peak_mb": resident_mb("VmHWM"),
    "tier": tier,
}))
"""


def cold_start(query: str, tier: str, runs: int = 5) -> dict[str, float]:
    """Medians over fresh processes: ``import router`` + ``Router.load()``, and memory after it."""
    checkout = Path(router_package.__file__).resolve().parents[1]
    found: list[dict[str, Any]] = []
    for _ in range(runs + 1):
        done = subprocess.run(
            [sys.executable, "-c", _COLD_START],
            input=query,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=True,
            cwd=checkout,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        found.append(json.loads(done.stdout))
        assert found[-1].pop("tier") == tier
    # The first one may have had to compile modules and to read files from the disk.
    return {name: float(np.median([run[name] for run in found[1:]])) for name in found[0]}


def process_table(cold: Mapping[str, float], long: Mapping[str, float]) -> Table:
    """Start, memory, and the longest query."""
    size = sum(
        path.stat().st_size for path in default_artifact_folder().rglob("*") if path.is_file()
    )
    rows = [
        ("import router + Router.load()", f"{cold['seconds']:.3f} s"),
        ("first route() after it", f"{1e3 * cold['first_route_s']:.2f} ms"),
        ("resident memory after it", f"{cold['resident_mb']:.0f} MB"),
        ("peak memory", f"{cold['peak_mb']:.0f} MB"),
        ("of which the bare interpreter", f"{cold['interpreter_mb']:.0f} MB"),
        ("artifact on disk", f"{size / 2**20:.1f} MB"),
        (f"one query of {long['words']:,.0f} words", f"{long['milliseconds']:.2f} ms"),
    ]
    return Table("Process", ("what", "measured"), rows)
