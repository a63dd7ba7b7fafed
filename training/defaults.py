"""Defaults that functions and the command line share; imports nothing, so that --help is quick."""

from __future__ import annotations

# Of a floor's certificate, of intervals and of the verdict.
DEFAULT_CONFIDENCE = 0.95
# Of drift: how far a share or a success rate may be from what was expected.
DRIFT_TOLERANCE = 0.02
# Reading stops when more of the rows than this are bad.
MAX_BAD_SHARE = 0.01
