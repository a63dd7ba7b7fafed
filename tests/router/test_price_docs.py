"""docs/prices.md and docs/savings.md: their commands and code run, and print the figures there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from functools import partial
from pathlib import Path

import pytest

import router.calculator
from router.prices import PriceBook
from router.tiers import BATCH_PRICE_KEYS, PRICE_KEYS, Tier
from tests.command_line import Done, here

CHECKED = datetime(2026, 11, 24, 12, tzinfo=UTC)
# What the article says and our own inputs do not give.
OF_THE_ARTICLE = {"$11.70", "$1,260", "$1,512", "$504", "$16.80"}


class ThatDay(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return CHECKED


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    monkeypatch.setattr(router.calculator, "datetime", ThatDay)
    return partial(here, monkeypatch, capsys)


def page(repository: Path, name: str) -> str:
    return (repository / "docs" / name).read_text("utf-8")


def test_every_command_of_the_savings_page_prints_what_stands_there(
    repository: Path, cps: Callable[..., Done]
) -> None:
    text = page(repository, "savings.md")
    commands: list[str] = []
    printed = ""
    n_shown = 0
    for block in re.findall(r"(?:^    .*\n)+", text, flags=re.MULTILINE):
        if block.lstrip().startswith("cps-router"):
            command = block.replace("\\\n", " ")
            commands.append(command)
            if "MODEL" in command:
                continue
            done = cps(*shlex.split(command)[1:])
            assert (done.code, done.err) == (0, "")
            printed = done.out
            continue
        for line in block.splitlines():
            assert line.removeprefix("    ") in printed.splitlines()
            n_shown += 1
    assert len(commands) == 10
    assert n_shown > 20


def test_the_figures_of_the_article_that_are_right(
    repository: Path, cps: Callable[..., Done]
) -> None:
    text = page(repository, "savings.md")
    command = re.search(r"^    (cps-router .* --baseline MODEL)$", text, flags=re.MULTILINE)
    assert command is not None
    rows = re.findall(r"^\| ([a-z][\w.-]+) \| (?:`(.*)`)? ?\| (\$[\d.]+) \|$", text, re.MULTILINE)
    assert [row[2] for row in rows] == [
        *("$4.35", "$7.50", "$7.98", "$21.75", "$138.00", "$172.50", "$180.00", "$300.00"),
    ]
    for model, options, figure in rows:
        words = f"{command[1]} {options}".replace("MODEL", model)
        done = cps(*shlex.split(words)[1:])
        today = next(line for line in done.out.splitlines() if line.startswith("today"))
        assert today.split()[-2] == figure


def test_every_figure_in_the_prose_was_printed_or_is_the_articles(repository: Path) -> None:
    text = page(repository, "savings.md")
    prose = "\n".join(line for line in text.splitlines() if not line.startswith(("    ", "|")))
    shown = "\n".join(line for line in text.splitlines() if line.startswith("    "))
    figures = {
        figure.removesuffix(".00") for figure in re.findall(r"\$\d+(?:,\d{3})*(?:\.\d+)?", shown)
    }
    said = set(re.findall(r"\$\d+(?:,\d{3})*(?:\.\d+)?", prose)) - OF_THE_ARTICLE
    prices = {"$3", "$15"}  # per million tokens
    assert {figure.removesuffix(".00") for figure in said} - figures - prices == set()
    assert len(said) > 8


def test_the_code_of_the_price_page_runs(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.search(r"```python\n(.*?)```", page(repository, "prices.md"), flags=re.DOTALL)
    assert code is not None
    exec(code[1], {})
    assert capsys.readouterr().out.splitlines() == [
        "0.000155",
        "0.0000775",
        PriceBook().data_version,
    ]


def test_the_price_file_of_the_page_is_one_and_has_every_key(
    repository: Path, tmp_path: Path, cps: Callable[..., Done]
) -> None:
    toml = re.search(r"```toml\n(.*?)```", page(repository, "prices.md"), flags=re.DOTALL)
    assert toml is not None
    assert all(toml[1].count(f"\n{key} = ") >= 2 for key in (*PRICE_KEYS, *BATCH_PRICE_KEYS))
    (tmp_path / "prices.toml").write_text(toml[1], "utf-8")
    book = PriceBook(tmp_path / "prices.toml")
    own = book.price(Tier("own", "own", "large"), CHECKED)
    assert own.cache_write_1h_usd_per_mtok == 2 and own.steps[0].output_usd_per_mtok == 7.5
    own = book.price(Tier("own", "own", "large"), CHECKED, batch=True)
    assert own.cached_input_usd_per_mtok == 0.05 and own.steps[0].cache_write_usd_per_mtok == 1.25
    done = cps(
        *("savings", "--requests-per-day", 1000, "--user-tokens", 500, "--output-tokens", 300),
        *("--baseline", "deepseek-chat", "--prices", tmp_path / "prices.toml"),
    )
    assert "$7.98" in done.out
    deepseek = book.price(Tier("own", "deepseek", "deepseek-chat"), CHECKED)
    assert f"{deepseek.cost_usd(2500, 300, 2000):.6f} cached" in page(repository, "prices.md")


def test_what_was_checked_by_hand_still_holds(repository: Path) -> None:
    rows = re.findall(
        r"^\| ([\w.-]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
        page(repository, "prices.md"),
        flags=re.MULTILINE,
    )
    assert len(rows) == 8
    book = PriceBook()
    for model, *costs in rows:
        tier = Tier("a", book.provider_of(model), model)
        found = [
            book.price(tier, CHECKED, batch=batch).cost_usd(2500, 300, cached)
            for batch in (False, True)
            for cached in (0, 2000)
        ]
        assert found == pytest.approx([float(cost) for cost in costs], rel=1e-9)
