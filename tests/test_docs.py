"""The pages in docs/ and CONTRIBUTING.md: commands and Python run, and links lead somewhere.

A page's blocks run in order, in a folder of its own that holds what pages speak of: ``my-router``
(one trained artifact, shared), ``outcomes.jsonl``, ``log.jsonl``, ``tiers.toml``, ``queries.jsonl``
and the checkout's ``data``. A block that needs a network or a key has the line
``<!-- not run: REASON -->`` before it: it is only compiled, or its options looked up. So are pages
that have a test of their own, which must name them.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from benchmarks.run import _parse
from router.outcomes import write_jsonl
from tests.artifacts import sample_table, tiny_embedder, train_tiny
from tests.command_line import Done, here
from training.cli import app
from training.search import Objective
from training.synthetic import log, make_world, sample, tiers_toml, to_outcomes, uniform_policy

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
# Pages whose commands and code another test runs.
OWN_TEST = {
    "batch.md": "tests/router/test_cli_batch.py",
    "client.md": "tests/test_docs_client.py",
    "drift.md": "tests/training/test_drift_docs.py",
    "exploration.md": "tests/router/test_exploration.py",
    "importing.md": "tests/training/importers/test_docs.py",
    "labelling.md": "tests/training/test_label_docs.py",
    "ledger.md": "tests/router/test_ledger_docs.py",
    "prices.md": "tests/router/test_price_docs.py",
    "privacy.md": "tests/training/test_privacy.py",
    "promoting.md": "tests/training/test_cli_promote.py",
    "providers.md": "tests/router/providers/test_docs.py",
    "savings.md": "tests/router/test_price_docs.py",
}
RUN = [name for name in PAGES if name not in OWN_TEST]
# Quick and without a tracking server: what is shown is what these are added to.
ADDED = {
    "train": ["--no-mlflow", "--estimator", "logistic", "--embedder", "EMBEDDER"],
}

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n\n?)?"
    r"(?:```(?P<language>\w*)\n(?P<fenced>.*?)^```$|(?P<indented>(?:^    [^\n]*\n)+))",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of a page: Python code, or the commands of an indented block."""

    python: str | None
    commands: tuple[str, ...]
    reason: str | None


def blocks(text: str) -> Iterator[Block]:
    for found in _BLOCK.finditer(text):
        if found["fenced"] is not None:
            if found["language"] == "python":
                yield Block(found["fenced"], (), found["reason"])
            continue
        lines = found["indented"].replace("\\\n", " ").splitlines()
        commands = tuple(line.strip() for line in lines if line.strip().startswith("cps-router "))
        yield Block(None, commands, found["reason"])


def words(command: str) -> list[str]:
    """Of the last command of a pipe, without remarks, prompts for options and brackets."""
    plain = re.sub(r"\s{2,}\(.*\)$|\s#.*$", "", command)
    return shlex.split(re.sub(r"[\[\]]", "", plain))


def all_commands() -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(command: Any, name: str) -> None:
        found[name] = command
        for part, inner in getattr(command, "commands", {}).items():
            visit(inner, f"{name} {part}".strip())

    visit(get_command(app), "")
    return found


COMMANDS = all_commands()


def unknown(command: str) -> list[str]:
    """The command, or its options, where --help does not know them."""
    missing = []
    for part in command.split(" | "):
        name, *arguments = words(part)
        if name != "cps-router":
            continue
        depth = 2 if " ".join(arguments[:2]) in COMMANDS and len(arguments) > 1 else 1
        called = " ".join(arguments[:depth])
        if called not in COMMANDS:
            missing.append(f"no command {called!r}")
            continue
        known = {
            option
            for parameter in COMMANDS[called].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        } | {"--help"}
        given = {word.split("=")[0] for word in arguments[depth:] if word.startswith("--")}
        missing += [f"{called} has no {option}" for option in sorted(given - known)]
    return missing


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of; do not write to it."""
    folder = tmp_path_factory.mktemp("stocked")
    table = sample_table(900)
    embedder = tiny_embedder(folder / "embedder", list(table.query))
    for name, margin in {"my-router": -0.1, "cheaper-router": -0.2}.items():
        train_tiny(table, folder / name, embedder, objective=Objective(margin=margin))
    write_jsonl(folder / "outcomes.jsonl", to_outcomes(table))
    outcomes = sample(make_world(), 1200, 5)
    write_jsonl(folder / "log.jsonl", to_outcomes(log(outcomes, uniform_policy(outcomes), 1)))
    (folder / "tiers.toml").write_text(tiers_toml(table.tiers), encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"query": "Translate: hello"}\n', encoding="utf-8")
    return folder


@pytest.fixture
def place(stocked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the blocks of one page may write to."""
    place = tmp_path / "page"
    shutil.copytree(stocked, place)
    for copy in ("tampered", "build/my-router"):
        shutil.copytree(place / "my-router", place / copy)
    (place / "data").symlink_to(REPOSITORY / "data")
    monkeypatch.chdir(place)
    monkeypatch.delenv("CPS_ROUTER_SIGNING_KEY", raising=False)
    return place


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return partial(here, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_the_blocks_of_a_page_run(name: str, place: Path, cps: Callable[..., Done]) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks((DOCS / name).read_text(encoding="utf-8")):
        if block.reason is not None:
            continue
        if block.python is not None:
            exec(compile(block.python, name, "exec"), namespace)  # the page itself
        for command in block.commands:
            _, *arguments = words(command)
            added = ADDED.get(arguments[0], [])
            given = [str(place / "embedder") if word == "EMBEDDER" else word for word in added]
            done = cps(*arguments, *given)
            assert done.code == 0, f"{command}: {done.err}"
            assert done.out


@pytest.mark.parametrize("name", PAGES)
def test_python_compiles_and_commands_exist(name: str) -> None:
    for block in blocks((DOCS / name).read_text(encoding="utf-8")):
        if block.python is not None:
            # Ends of pages show what stands inside of async functions.
            compile(block.python, name, "exec", flags=0x2000)
        for command in block.commands:
            assert unknown(command) == [], command


@pytest.mark.parametrize("name", sorted(OWN_TEST))
def test_a_page_that_is_run_elsewhere_is_named_there(name: str) -> None:
    if name in PAGES:
        text = (REPOSITORY / OWN_TEST[name]).read_text(encoding="utf-8")
        assert name in text


def test_the_index_lists_every_page_once() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"\]\(([\w-]+\.md)\)", index)
    assert sorted(listed) == [name for name in PAGES if name != "README.md"]


@pytest.mark.parametrize("name", [*(f"docs/{page}" for page in PAGES), "CONTRIBUTING.md"])
def test_links_lead_somewhere(name: str) -> None:
    path = REPOSITORY / name
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not re.match(r"https?:", target):
            assert (path.parent / target.split("#")[0]).exists(), f"{name}: {target}"


def test_modules_and_targets_that_pages_name_can_be_run() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named, targets = set(), set()
    for path in [*DOCS.glob("*.md"), *REPOSITORY.glob("*.md"), *REPOSITORY.glob("*/README.md")]:
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r"python -m ((?:training|benchmarks|router)[\w.]*)([^`\n]*)", text))
        targets |= set(re.findall(r"(?:`|^ {4})make (\w+)", text, flags=re.MULTILINE))
    assert {"demo", "test", "bench"} <= targets
    assert [target for target in targets if f"\n{target}: " not in makefile] == []
    for module, options in named:
        assert importlib.util.find_spec(module) is not None, module
        if module == "benchmarks.run" and not re.search(r"[A-Z|]", options):
            _parse(shlex.split(options))


def test_contributing_names_what_is_there() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:router|training|tests|benchmarks|docs|data)/[\w/.-]*)`", text))
    assert len(named) > 25
    missing = [path for path in named if "NAME" not in path and not (REPOSITORY / path).exists()]
    assert missing == []


def test_the_modules_and_functions_that_the_formulas_name_are_there() -> None:
    text = (DOCS / "formulas.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:router|training)\.[\w.]+)`", text))
    assert len(named) > 12
    for path in named:
        module, _, attribute = path.rpartition(".")
        found = importlib.import_module(module)
        assert hasattr(found, attribute) or importlib.import_module(path), path


# The test itself


def test_blocks_are_found_with_their_reasons() -> None:
    text = (
        "Text.\n\n    cps-router train a.jsonl --out b \\\n      --seed 1\n    remark\n\n"
        "<!-- not run: needs a key -->\n```python\nx = 1\n```\n\n```toml\n[a]\n```\n\n"
        "<!-- not run: calls a provider -->\n\n    cps-router serve\n"
    )
    first, second, third = blocks(text)
    assert first.commands == ("cps-router train a.jsonl --out b        --seed 1",)
    assert (first.python, first.reason) == (None, None)
    assert (second.python, second.reason) == ("x = 1\n", "needs a key")
    assert (third.commands, third.reason) == (("cps-router serve",), "calls a provider")


def test_unknown_commands_and_options_are_found() -> None:
    assert unknown("cps-router train a --tiers b --out c --seed=1") == []
    assert unknown("cps-router ledger report [LEDGER] [--since 7d]      (or not)") == []
    assert unknown("cps-router ledger export L | cps-router train - --tiers t --out o") == []
    assert unknown("cps-router train a --frobnicate") == ["train has no --frobnicate"]
    assert unknown("cps-router frobnicate") == ["no command 'frobnicate'"]
    assert unknown("cps-router ledger report | cps-router train - --nothing") == [
        "train has no --nothing"
    ]


def test_no_page_names_a_folder_of_somebodys_machine() -> None:
    for name in PAGES:
        text = (DOCS / name).read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp)/", text), name
