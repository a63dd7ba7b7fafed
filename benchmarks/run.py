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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.results import Say, Section, as_text, environment, progress
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
    "labelling",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure serving, quality, samples, escalation, languages, logs, caching, ledger, client,
    labelling.
    """
    options = _parse(arguments)
    facts = environment() | {"seed": str(options.seed)}
    started = time.perf_counter()
    sections: list[Section] = []
    try:
        with progress() as say:
            begun = started
            for section in _measure(options, say):
                sections.append(section)
                if options.out is not None:
                    # Each as soon as it is there: the whole takes long, and may not come to an end.
                    page.write(options.out, [(section, _facts(options, begun))])
                begun = time.perf_counter()
    except CpsRouterError as error:
        sys.stderr.write(f"bench: {error}\n")
        raise SystemExit(error.exit_code) from None
    facts["run time"] = f"{time.perf_counter() - started:.0f} s"
    if options.json:
        found = {"environment": facts, **{s.name.lower(): s.data for s in sections}}
        print(json.dumps(_finite(found), indent=1, allow_nan=False))
    else:
        print(as_text(sections, facts))


def _facts(options: argparse.Namespace, begun: float) -> dict[str, str]:
    """When, where and how a section was measured, at its end."""
    sets = [f"--set {name}" for name in options.sets or ()]
    only = ["--only", options.only] if options.only else []
    command = [*only, *(["--folds"] if options.folds else []), *sets, f"--seed {options.seed}"]
    return environment() | {
        "seed": str(options.seed),
        "run time": f"{time.perf_counter() - begun:.0f} s",
        "made by": f"`python -m benchmarks.run {' '.join(command)}`",
    }


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
    parser.add_argument("--out", type=Path, metavar="FILE", help="update this page of results")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace, say: Say) -> Iterator[Section]:
    # Imported here, so that --help needs no scikit-learn.
    from benchmarks import (
        caching,
        client,
        escalation,
        folds,
        labelling,
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

    if options.only in (None, "serving") and not options.folds:
        queries, source = real_queries(say)
        yield serving.measure(queries, source, say)
    if options.only == "serving":
        return
    if options.only == "languages":
        yield _languages(options, say)
        return
    if options.only in (None, "caching") and not options.folds:
        yield caching.measure(say, seed=options.seed)
    if options.only == "caching":
        return
    if options.only in (None, "ledger") and not options.folds:
        yield ledger.measure(say)
    if options.only == "ledger":
        return
    if options.only in (None, "client") and not options.folds:
        yield client.measure(say)
    if options.only == "client":
        return
    tables, left_out = available_sets(say, options.sets)
    loaded = {name: load_embedder(name) for name in ("static", *options.encoder)}
    labels = {
        name: f"{'static' if name == 'static' else 'encoder'} embedder {e.digest[:8]} "
        f"({e.dimension} wide)"
        for name, e in loaded.items()
    }
    if options.only in (None, "quality") and not options.folds:
        names = {label: name for name, label in labels.items()}
        yield quality.measure(tables, left_out, names, say, seed=options.seed)
    if options.only is None or options.folds:
        embedders = {labels[name]: embedder for name, embedder in loaded.items()}
        workers = available_cores()
        yield folds.measure(tables, embedders, left_out, say, workers=workers)
    if options.folds:
        return
    if options.only == "samples" or (options.only is None and set(samples.SETS) & set(tables)):
        yield samples.measure(tables, loaded["static"], say)
    if options.only in (None, "escalation"):
        yield escalation.measure(tables, left_out, loaded["static"], say, seed=options.seed)
    if options.only is None:
        yield _languages(options, say)
    if options.only in (None, "outside"):
        yield outside.measure(tables, left_out, loaded["static"], say, seed=options.seed)
    if options.only in (None, "logged"):
        yield logged.measure(tables, left_out, say, seed=options.seed)
    if options.only in (None, "labelling"):
        yield labelling.measure(tables, left_out, loaded["static"], say)


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
