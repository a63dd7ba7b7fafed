"""Defaults that functions and the command line share; imports nothing, so that --help is quick."""

from __future__ import annotations

# Of a floor's certificate, of intervals and of the verdict.
DEFAULT_CONFIDENCE = 0.95
# Reading stops when more of the rows than this are bad.
MAX_BAD_SHARE = 0.01
