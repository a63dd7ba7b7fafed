"""``make demo``: real outcomes in, a trained router, what it saves, and five routed queries out."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console

from router.cli import emit
from router.errors import CpsRouterError, DatasetError
from router.routing import Router
from router.tiers import TierSet
from training.datasets import FetchedDataset, fetch
from training.evaluate import evaluate
from training.pipeline import train
from training.report_text import report_text, training_text
from training.table import read_outcomes

DATA_SET = "paretobandit"
WORK = Path("build") / "demo"
SAMPLE = FetchedDataset(Path("data") / "sample_outcomes.jsonl", Path("data") / "tiers.toml")

QUERIES = (
    "Is the following review positive or negative? 'The battery died after two days.'",
    "Marta has 12 apples, buys 3 bags of 8 and gives 9 away. How many apples does she have?",
    "Write a Python function that merges overlapping intervals and returns them sorted.",
    "In the Lotka-Volterra model, which condition makes the interior equilibrium a centre?",
    "民法と刑法の違いを一文で説明してください。",
)


def main() -> None:
    """Run the demo from the checkout's folder."""
    console = Console(stderr=True)
    started = time.perf_counter()
    try:
        _run(console)
    except CpsRouterError as error:
        sys.stderr.write(f"demo: {error}\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    console.print(f"[dim]done in {time.perf_counter() - started:.0f} s[/dim]")


def _run(console: Console) -> None:
    def say(message: str) -> None:
        console.print(f"[dim]... {message}[/dim]", highlight=False)

    synthetic = False
    try:
        data = fetch(DATA_SET, WORK / "data", on_progress=say)
        name = DATA_SET
    except DatasetError as error:
        emit(f"{error}\nUsing the synthetic sample instead.")
        data, name, synthetic = SAMPLE, "synthetic sample", True
    tiers = TierSet.from_toml(data.tiers)
    say("reading outcomes")
    table = read_outcomes(data.outcomes, tiers)
    result = train(table, WORK / "artifact", name=name, synthetic=synthetic, on_progress=say)
    emit(f"\n== Trained on {name} ==\n{training_text(result)}")

    router = Router.load(WORK / "artifact")
    say("evaluating on the test rows")
    report = evaluate(router, table)
    emit(f"\n== Evaluated on the test rows of {name} ==\n{report_text(report)}")

    emit("\n== Five queries routed ==")
    for query in QUERIES:
        decision = router.route(query)
        p, cost = decision.p_success[decision.tier], decision.cost_usd[decision.tier]
        emit(
            f"{query[:70]:<71}-> {decision.tier:<9} P(success) {p:.2f}, ${cost:.6f}, "
            f"reason: {decision.reason}"
        )
    if synthetic:
        emit("\nThese numbers are SYNTHETIC: they show how it works, not what it saves.")


if __name__ == "__main__":
    main()
