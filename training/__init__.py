"""Offline side: from logged outcomes to a router artifact.

Nothing is imported here, so that ``import training`` stays free of scikit-learn, pandas and MLflow;
import what you need from its module, for example ``from training.table import read_outcomes``.
The arrow points one way: ``training`` imports :mod:`router`, never the reverse.
"""

from __future__ import annotations

__all__: list[str] = []
