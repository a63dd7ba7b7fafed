"""All benchmarks: ``python -m benchmarks.run`` (what ``make bench`` calls).

Tables go to stdout, progress to stderr. Run it from the checkout's folder: what it fetches is kept
in build/.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Say, Section, as_markdown, as_text, environment, progress
from router.errors import CpsRouterError

DEFAULT_SEED = 0
PARTS = (
    "serving",
    "quality",
    "samples",
    "escalation",
    "languages",
    "outside",
    "logged",
    "caching",
    "ledger",
    "client",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure serving, quality, samples, escalation, languages, logs, caching, ledger, client."""
    options = _parse(arguments)
    started = time.perf_counter()
    facts = environment()
    try:
        with progress() as say:
            sections = _measure(options, say)
    except CpsRouterError as error:
        sys.stderr.write(f"bench: {error}\n")
        raise SystemExit(error.exit_code) from None
    facts["seed"] = str(options.seed)
    facts["run time"] = f"{time.perf_counter() - started:.0f} s"
    if options.out is not None:
        options.out.write_text(as_markdown(sections, facts), encoding="utf-8")
    if options.json:
        found = {"environment": facts, **{s.name.lower(): s.data for s in sections}}
        print(json.dumps(_finite(found), indent=1, allow_nan=False))
    else:
        print(as_text(sections, facts))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=main.__doc__)
    parser.add_argument("--only", choices=PARTS, help="leave out the other parts")
    parser.add_argument(
        "--encoder",
        action="append",
        default=[],
        metavar="PATH",
        help="measure quality with this sentence-transformers folder or name too (needs torch)",
    )
    parser.add_argument(
        "--set",
        action="append",
        dest="sets",
        metavar="NAME",
        help="measure quality on this outcome set only; may be repeated",
    )
    parser.add_argument(
        "--folds",
        action="store_true",
        help="only nested folds over all rows of each set, with rivals (some 10 minutes)",
    )
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of fits (default 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write Markdown to this file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace, say: Say) -> list[Section]:
    # Imported here, so that --help needs no scikit-learn.
    from benchmarks import (
        caching,
        client,
        escalation,
        folds,
        ledger,
        logged,
        outside,
        quality,
        samples,
        serving,
    )
    from benchmarks.data import available_sets, real_queries
    from benchmarks.results import available_cores
    from router.embedding import load_embedder

    sections = []
    if options.only in (None, "serving") and not options.folds:
        queries, source = real_queries(say)
        sections.append(serving.measure(queries, source, say))
    if options.only == "serving":
        return sections
    if options.only == "languages":
        return [*sections, _languages(options, say)]
    if options.only in (None, "caching") and not options.folds:
        sections.append(caching.measure(say, seed=options.seed))
    if options.only == "caching":
        return sections
    if options.only in (None, "ledger") and not options.folds:
        sections.append(ledger.measure(say))
    if options.only == "ledger":
        return sections
    if options.only in (None, "client") and not options.folds:
        sections.append(client.measure(say))
    if options.only == "client":
        return sections
    tables, left_out = available_sets(say, options.sets)
    loaded = {name: load_embedder(name) for name in ("static", *options.encoder)}
    labels = {
        name: f"{'static' if name == 'static' else 'encoder'} embedder {e.digest[:8]} "
        f"({e.dimension} wide)"
        for name, e in loaded.items()
    }
    if options.only in (None, "quality") and not options.folds:
        names = {label: name for name, label in labels.items()}
        sections.append(quality.measure(tables, left_out, names, say, seed=options.seed))
    if options.only is None or options.folds:
        embedders = {labels[name]: embedder for name, embedder in loaded.items()}
        workers = available_cores()
        sections.append(folds.measure(tables, embedders, left_out, say, workers=workers))
    if options.folds:
        return sections
    if options.only == "samples" or (options.only is None and set(samples.SETS) & set(tables)):
        sections.append(samples.measure(tables, loaded["static"], say))
    if options.only in (None, "escalation"):
        found = escalation.measure(tables, left_out, loaded["static"], say, seed=options.seed)
        sections.append(found)
    if options.only is None:
        sections.append(_languages(options, say))
    if options.only in (None, "outside"):
        found = outside.measure(tables, left_out, loaded["static"], say, seed=options.seed)
        sections.append(found)
    if options.only in (None, "logged"):
        sections.append(logged.measure(tables, left_out, say, seed=options.seed))
    return sections


def _languages(options: argparse.Namespace, say: Say) -> Section:
    from benchmarks import languages
    from benchmarks.data import available_sets

    tables, left_out = available_sets(say, options.sets)
    return languages.measure(tables, left_out, say, seed=options.seed)


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become None."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


if __name__ == "__main__":
    main()
