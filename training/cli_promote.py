"""``cps-router promote CHALLENGER OUTCOMES``: the gate, and the registry behind it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli import emit
from router.errors import InputError
from training.cli_parts import JsonFlag, extra, print_json, progress
from training.defaults import DEFAULT_CONFIDENCE, MAX_BAD_SHARE

if TYPE_CHECKING:
    from router.routing import Router
    from training.gate import GateResult
    from training.registry import Registered, Registry

# Neither done (0) nor a failure (1) nor bad usage (2): the answer was no.
REFUSED = 3


def promote(
    challenger: Annotated[
        Path | None, typer.Argument(help="Artifact folder that wants to be champion.")
    ] = None,
    outcomes: Annotated[
        Path | None,
        typer.Argument(help="Outcomes to compare on: .jsonl, .csv or .parquet; full or logged."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Success rate that may be lost, at most. [default: 0.01]"),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Of each of the two tests; above 0.5.")
    ] = DEFAULT_CONFIDENCE,
    incumbent: Annotated[
        str | None,
        typer.Option(
            help='What the first champion has to beat: "keyword" (the default) or an artifact '
            "folder. Not where there is a champion."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Registered model. [default: cps-router]")
    ] = None,
    tiers: Annotated[
        Path | None,
        typer.Option(help="Tiers file, where the log names models otherwise than the artifacts."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the shuffle.")] = 0,
    max_bad_share: Annotated[
        float, typer.Option(help="Stop when more than this share of rows is bad.")
    ] = MAX_BAD_SHARE,
    success_threshold: Annotated[
        float | None, typer.Option(help='Success is "score >= threshold" where a score is logged.')
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Restore the champion before this one.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show versions and aliases, and change nothing.")
    ] = False,
    export: Annotated[
        Path | None, typer.Option(help="Write the champion's artifact to this folder, verified.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an artifact the champion, if it is proven better than the one that there is.

    Both are compared on the same requests, without those that either was trained on. The
    challenger is promoted if its success rate is not lower by more than the margin, and its cost
    less the value of its successes is lower, each at the confidence asked for. Registered it is
    either way, as a version of the MLflow model, under the alias challenger.

    Exit codes: 0 promoted (or done), 3 refused, 1 a failure, 2 bad usage or input.
    """
    given = {
        "--rollback": rollback,
        "--status": status,
        "--export": export is not None,
        "CHALLENGER OUTCOMES": challenger is not None or outcomes is not None,
    }
    asked = [what for what, is_given in given.items() if is_given]
    if len(asked) != 1 or (challenger is None) != (outcomes is None):
        raise InputError(
            "expected one of CHALLENGER OUTCOMES, --rollback, --status or --export DIR, got "
            f"{' and '.join(asked) or 'none'}{' (incomplete)' if len(asked) == 1 else ''}: see "
            "cps-router promote --help."
        )
    with extra("train"):
        from training.gate import DEFAULT_MARGIN, check_levels
        from training.registry import DEFAULT_NAME, Registry
    registry = Registry(DEFAULT_NAME if name is None else name)
    if status:
        _show_status(registry, as_json)
        return
    if rollback:
        _roll_back(registry, as_json)
        return
    if export is not None:
        _export(registry, export, as_json)
        return
    assert challenger is not None
    assert outcomes is not None
    margin = DEFAULT_MARGIN if margin is None else margin
    check_levels(margin, confidence)
    with tempfile.TemporaryDirectory(prefix="cps-router-") as scratch, progress() as say:
        champion, ours, theirs, digest = _load(registry, challenger, incumbent, Path(scratch), say)
        found = _compare(
            ours,
            theirs,
            outcomes,
            tiers,
            say,
            {"max_bad_share": max_bad_share, "success_threshold": success_threshold},
            {"margin": margin, "confidence": confidence, "seed": seed},
        )
        say("registering the challenger")
        against = {"champion_version": None if champion is None else champion.version}
        registered = registry.register(
            Path(scratch) / "challenger", digest, {**found.to_dict(), **against}
        )
        if found.promoted:
            registry.promote(
                registered.version, instead_of=None if champion is None else champion.version
            )
    _show(registry, registered, champion, found, as_json)
    if not found.promoted:
        raise typer.Exit(REFUSED)


def _load(
    registry: Registry, challenger: Path, incumbent: str | None, scratch: Path, say: Any
) -> tuple[Registered | None, Router, Router | None, str]:
    """The champion's version, both routers (None: the keyword heuristic), the challenger's digest.

    What is loaded are copies in ``scratch``.
    """
    from router.routing import Router
    from training.registry import snapshot

    say("loading the challenger")
    digest = snapshot(challenger, scratch / "challenger")
    ours = Router.load(scratch / "challenger")
    say(f"looking for the champion in {registry.store}")
    champion = registry.champion()
    if champion is not None:
        if incumbent is not None:
            raise InputError(
                f"expected no --incumbent, since version {champion.version} of {registry.name!r} "
                "is champion and has to be beaten, got one: leave it out, or use another --name."
            )
        (scratch / "champion").mkdir()
        folder = registry.fetch(champion.version, champion.manifest_sha256, scratch / "champion")
        return champion, ours, Router.load(folder), digest
    if incumbent in (None, "keyword"):
        return None, ours, None, digest
    assert incumbent is not None
    snapshot(incumbent, scratch / "incumbent")
    return None, ours, Router.load(scratch / "incumbent"), digest


def _compare(
    ours: Router,
    theirs: Router | None,
    outcomes: Path,
    tiers: Path | None,
    say: Any,
    reading: dict[str, Any],
    asked: dict[str, Any],
) -> GateResult:
    from router.tiers import TierSet
    from training.contest import contest, tiers_of_both
    from training.table import read_outcomes

    tier_set = tiers_of_both(ours, theirs) if tiers is None else TierSet.from_toml(tiers)
    table = read_outcomes(
        outcomes,
        tier_set,
        on_progress=lambda rows: say(f"reading {outcomes.name}: {rows:,} rows"),
        **reading,
    )
    for warning in table.report.warnings():
        typer.echo(f"cps-router: {warning}", err=True)
    return contest(
        ours,
        theirs,
        table,
        on_progress=lambda stage, done, total: say(f"{stage}: {done:,} of {total:,}"),
        **asked,
    )


def _show(
    registry: Registry,
    registered: Registered,
    champion: Registered | None,
    found: GateResult,
    as_json: bool,
) -> None:
    now = registered.version if found.promoted else None if champion is None else champion.version
    if as_json:
        print_json(
            {
                **found.to_dict(),
                "name": registry.name,
                "store": registry.store,
                "version": registered.version,
                "artifact_id": registered.artifact_id,
                "manifest_sha256": registered.manifest_sha256,
                "champion_version": now,
                "previous_version": None if champion is None else champion.version,
            }
        )
        return
    from training.gate import gate_text

    lines = [gate_text(found), ""]
    lines.append(
        f"registered as version {registered.version} of {registry.name!r} in {registry.store}"
    )
    if found.promoted:
        instead = "the first" if champion is None else f"instead of version {champion.version}"
        lines.append(
            f"champion: version {now}, {instead}; cps-router promote --export DIR writes it to a "
            "folder to serve from"
        )
    else:
        lines.append("champion: none yet" if now is None else f"champion: version {now}, as before")
    emit("\n".join(lines))


def _show_status(registry: Registry, as_json: bool) -> None:
    versions = registry.versions()
    if as_json:
        aliases = {alias: v.version for v in versions for alias in v.aliases}
        print_json(
            {
                "name": registry.name,
                "store": registry.store,
                "aliases": aliases,
                "versions": [version.to_dict() for version in versions],
            }
        )
        return
    if not versions:
        emit(f"nothing is registered as {registry.name!r} in {registry.store}")
        return
    lines = [f"{registry.name!r} in {registry.store}"]
    for version in versions:
        named = f" ({', '.join(version.aliases)})" if version.aliases else ""
        lines.append(f"version {version.version}{named}: artifact {version.artifact_id}")
        lines += [f"    {text}" for text in (version.status, version.gate) if text]
    emit("\n".join(lines))


def _roll_back(registry: Registry, as_json: bool) -> None:
    left, restored = registry.rollback()
    if as_json:
        print_json(
            {
                "name": registry.name,
                "store": registry.store,
                "rolled_back": left.to_dict(),
                "champion": restored.to_dict(),
            }
        )
        return
    emit(
        f"champion: version {restored.version} again (artifact {restored.artifact_id}), instead "
        f"of version {left.version}; export it to your serving machines"
    )


def _export(registry: Registry, out: Path, as_json: bool) -> None:
    champion = registry.export(out)
    if as_json:
        print_json({"artifact": str(out), "champion": champion.to_dict()})
    else:
        emit(f"champion, version {champion.version} (artifact {champion.artifact_id}), is in {out}")
