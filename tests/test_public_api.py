"""The names that users import: adding, renaming or dropping one is a decision, taken here."""

from __future__ import annotations

import importlib
import inspect
import re
from operator import attrgetter
from pathlib import Path

import pytest

import router
import router.errors
import training

ROUTER = [
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

# Training is used module by module, so that nothing heavy is imported for a name that is not used.
TRAINING = {
    "training.datasets": ["DATASETS", "FetchedDataset", "fetch"],
    "training.evaluate": ["Report", "evaluate"],
    "training.experiment": ["RunInfo", "log_evaluation", "log_training", "tracking_store"],
    "training.pipeline": ["TrainResult", "train"],
    "training.search": ["Objective"],
    "training.split": ["SplitMasks", "split_table"],
    "training.table": ["OutcomeTable", "ReadReport", "read_outcomes"],
}

# Functions, methods and arguments that code in production is written against, by module; those
# after the star are given by name.
ARGUMENTS = {
    "router": {
        "Router.load": "path * key price_book cache_state",
        "Router.route": "self query * request_id pin exclude context_tokens needs shadow session "
        "prefix_tokens expected_turns prefix",
        "Router.route_many": "self queries request_ids * shadow",
        "Router.exploring": "self exploration",
        "Exploration": "epsilon kind margin strength seed",
        "Router.plan": "self query * success_value_usd miss_rate false_alarm_rate exclude "
        "context_tokens needs session prefix_tokens prefix",
        "Router.sharing": "self cache_state price_book",
        "KeywordRouter.route": "self query * request_id shadow",
        "KeywordRouter.route_many": "self queries request_ids * shadow",
    },
    "router.batch": {
        "BatchJobs.submit": "self source * tier deadline_s max_cost_usd max_attempts name",
        "BatchJobs.status": "self job_id",
        "BatchJobs.results": "self job_id",
        "BatchJobs.resume": "self job_id * wait",
        "BatchJobs.cancel": "self job_id",
    },
    "router.client": {
        "RoutedClient": "router * tiers providers ledger verifier max_cost_usd price_book "
        "timeout_s deadline_s retries max_wait_s backoff_s breaker max_waiting spill_path "
        "cache_state clock now sleep asleep draw",
        "RoutedClient.complete": "self messages * query tools request_id session task verifier "
        "max_cost_usd input_tokens_at_most max_output_tokens temperature pin exclude needs "
        "expected_turns options cache",
        "RoutedClient.feedback": "self request_id success * score source at",
        "RoutedClient.close": "self",
        "RoutedClient.flush": "self",
    },
    "router.testing": {
        "FakeProvider": "answers * id latency_s cache clock sleep asleep",
    },
    "router.verifiers": {
        "exact": "text * ignore_case miss_rate false_alarm_rate",
        "json_schema": "schema * miss_rate false_alarm_rate",
        "regex": "pattern * miss_rate false_alarm_rate",
        "unit_test": "command timeout_s * environment miss_rate false_alarm_rate",
    },
    "training.datasets": {"fetch": "name dest * on_progress download"},
    "training.evaluate": {
        "evaluate": "router table * confidence n_bootstrap seed details on_progress",
    },
    "training.pipeline": {
        "train": "table out * objective confidence embedder estimator safe_tier warm_start "
        "similarity_limit seed price_book key name synthetic track on_progress",
        "TrainResult": "manifest folder warnings run",
    },
    "training.search": {"Objective": "kind rate margin relative_to amount_usd"},
    "training.split": {"split_table": "table * test_share by"},
    "training.table": {
        "read_outcomes": "path tiers * price_book max_bad_share success_threshold on_progress",
    },
}


def test_router_exports_exactly_these_names() -> None:
    assert sorted(router.__all__) == sorted(ROUTER)


@pytest.mark.parametrize("name", ROUTER)
def test_every_name_of_router_resolves_and_is_listed(name: str) -> None:
    value = getattr(router, name)
    assert name in dir(router)
    if inspect.isclass(value):
        assert value.__name__ == name
        assert inspect.getdoc(value)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Rooter'"):
        router.Rooter  # noqa: B018


def test_training_exports_nothing_of_its_own() -> None:
    assert training.__all__ == []


@pytest.mark.parametrize("module", sorted(TRAINING))
def test_training_modules_export_exactly_these_names(module: str) -> None:
    found = importlib.import_module(module)
    assert sorted(found.__all__) == sorted(TRAINING[module])
    for name in found.__all__:
        assert getattr(found, name) is not None


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in ARGUMENTS for name in ARGUMENTS[module]]
)
def test_what_users_call_keeps_its_arguments(module: str, name: str) -> None:
    found = attrgetter(name)(importlib.import_module(module))
    words = []
    for argument in inspect.signature(found).parameters.values():
        if argument.kind is argument.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append(argument.name)
    assert " ".join(words) == ARGUMENTS[module][name]


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    errors = {
        name: value
        for name, value in vars(router.errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert set(errors) <= set(router.__all__)
    drawn = re.findall(r"^\W*(\w+Error)\b", router.errors.__doc__ or "", flags=re.MULTILINE)
    assert sorted(drawn) == sorted(errors)
    assert {value.exit_code for value in errors.values()} == {1, 2}


def test_the_version_is_the_one_that_is_built(repository: Path) -> None:
    built = re.search(
        r'^version = "(.+)"$', (repository / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert built
    assert router.__version__ == built[1]
