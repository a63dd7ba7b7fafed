"""The router that ships: ``python -m training.default_artifact`` (needs CPS_ROUTER_DATA).

Trained on the pooled public outcome sets that the prior was fitted on, whose three tiers are the
same models. It routes by difficulty from the first query on. Somebody else's benchmark certifies
nothing about a user's queries, so that it has a success value and no floor. Nor does it take a
query for strange because it is unlike exam questions, as most are: there is no floor to protect by
the dearest tier, and on queries of a set that it was not trained on, those unlike training are
worth no less routed (``benchmarks/outside.py`` measures both). Scripts and words it cannot read
still go to the safe tier.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from router.errors import CpsRouterError, InputError
from router.tiers import TierSet
from training.datasets import fetch
from training.pipeline import train
from training.prior import SETS
from training.search import Objective
from training.table import OutcomeTable, read_outcomes

OUT = Path("models") / "default"
# Between what a success costs by moving from the first tier to the second (about $0.001) and from
# the second to the third (about $0.015) in these sets.
SUCCESS_VALUE_USD = 0.01


def pooled(tables: Sequence[OutcomeTable]) -> OutcomeTable:
    """Requests of several tables with the same tier names as one table, tiers as in the first.

    Models that are no tier stay apart by table: equal names may be other versions.

    Raises:
        InputError: tier names differ, or there is no table.
    """
    if not tables or any(table.tiers.names != tables[0].tiers.names for table in tables):
        raise InputError("expected tables with the same tier names, got none or different ones.")
    n_others = [table.other_success.shape[1] for table in tables]
    before = np.cumsum([0, *n_others])
    others = [
        np.pad(
            table.other_success,
            ((0, 0), (start, before[-1] - start - n)),
            constant_values=np.nan,
        )
        for table, start, n in zip(tables, before, n_others, strict=False)
    ]
    matrices = ("success", "cost_usd", "input_tokens", "output_tokens", "propensity", "observed")
    # Without tasks: everyday requests are none of those of somebody else's benchmarks.
    columns = ("query", "split", "at", *matrices)
    ids = [
        f"{number}/{request_id}"
        for number, table in enumerate(tables)
        for request_id in table.request_id
    ]
    made = OutcomeTable.from_arrays(
        tables[0].tiers,
        request_id=ids,
        other_success=np.vstack(others),
        **{name: np.concatenate([getattr(table, name) for table in tables]) for name in columns},
    )
    return replace(made, report=replace(made.report, path="+".join(t.report.path for t in tables)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the module; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.default_artifact", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the artifact")
    parser.add_argument("--data", type=Path, default=Path("build/data"), help="where sets are kept")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        tables = []
        for name in SETS:
            say(f"reading {name}")
            data = fetch(name, options.data, on_progress=say)
            tables.append(read_outcomes(data.outcomes, TierSet.from_toml(data.tiers)))
        result = train(
            pooled(tables),
            options.out,
            objective=Objective("value", amount_usd=SUCCESS_VALUE_USD),
            estimator="ridge",
            # The prior was fitted on these very rows.
            warm_start=False,
            similarity_limit=False,
            name=" + ".join(SETS),
            track=False,
            on_progress=say,
        )
    except CpsRouterError as error:
        say(str(error))
        return error.exit_code
    print(f"artifact {result.manifest['artifact_id']} is in {result.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
