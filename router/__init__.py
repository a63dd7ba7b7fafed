"""A learned router for LLM calls: the tier with the lowest cost per success above a success floor.

Serving side. The names below are loaded on first use, so that ``import router`` costs nothing and
``from router import CpsTracker`` does not read a tokenizer.

>>> from router import cost_per_success
>>> cost_per_success(cost_usd=0.5, successes=250)
0.002
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers and editors see; at run time __getattr__ resolves the names
    from router.batch import BatchJobs
    from router.cache_state import CacheState
    from router.client import RoutedClient
    from router.client.reply import AsyncReplyStream, Reply, ReplyStream
    from router.cps import CpsTracker, cost_per_success
    from router.decision import Decision
    from router.errors import (
        ArtifactError,
        CostLimitError,
        CpsRouterError,
        DatasetError,
        EmbeddingError,
        InputError,
        LedgerError,
        MissingExtraError,
        OutcomeError,
        PriceError,
        ProviderError,
        RoutingError,
        TiersError,
    )
    from router.exploration import Exploration
    from router.keyword import KeywordRouter
    from router.ledger import Ledger
    from router.outcomes import Outcome
    from router.prices import PriceBook
    from router.routing import Router
    from router.tiers import Tier, TierSet
    from router.usage import Usage
    from router.verifiers import Verdict

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "AsyncReplyStream",
    "BatchJobs",
    "CacheState",
    "CostLimitError",
    "CpsRouterError",
    "CpsTracker",
    "DatasetError",
    "Decision",
    "EmbeddingError",
    "Exploration",
    "InputError",
    "KeywordRouter",
    "Ledger",
    "LedgerError",
    "MissingExtraError",
    "Outcome",
    "OutcomeError",
    "PriceBook",
    "PriceError",
    "ProviderError",
    "Reply",
    "ReplyStream",
    "RoutedClient",
    "Router",
    "RoutingError",
    "Tier",
    "TierSet",
    "TiersError",
    "Usage",
    "Verdict",
    "__version__",
    "cost_per_success",
]

_NAMES_BY_MODULE = {
    "batch": ("BatchJobs",),
    "cache_state": ("CacheState",),
    "client": ("RoutedClient",),
    "cps": ("CpsTracker", "cost_per_success"),
    "decision": ("Decision",),
    "errors": (
        "ArtifactError",
        "CostLimitError",
        "CpsRouterError",
        "DatasetError",
        "EmbeddingError",
        "InputError",
        "LedgerError",
        "MissingExtraError",
        "OutcomeError",
        "PriceError",
        "ProviderError",
        "RoutingError",
        "TiersError",
    ),
    "exploration": ("Exploration",),
    "keyword": ("KeywordRouter",),
    "ledger": ("Ledger",),
    "outcomes": ("Outcome",),
    "prices": ("PriceBook",),
    "client.reply": ("AsyncReplyStream", "Reply", "ReplyStream"),
    "routing": ("Router",),
    "tiers": ("Tier", "TierSet"),
    "usage": ("Usage",),
    "verifiers": ("Verdict",),
}
_HOME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'router' has no attribute {name!r}")
    value: object = getattr(import_module(f"router.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
