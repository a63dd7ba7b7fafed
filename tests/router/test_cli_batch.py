"""``cps-router batch``: what it prints, what it leaves, and the commands of docs/batch.md."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import router.batch
from router.batch import BatchJobs
from router.ledger import Ledger
from tests.batches import BATCH_PRICES, COST, PRICES, Batches, failure, write_rows
from tests.command_line import Done, Run, here

N = 4


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Batches:
    """What every provider's id leads to."""
    made = Batches(tmp_path / "provider")
    monkeypatch.setattr(router.batch, "make_provider", lambda _: made)
    return made


@pytest.fixture
def cps(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    provider: Batches,
) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CPS_ROUTER_LEDGER", raising=False)
    prices = "\n".join(f"{name} = {price}" for name, price in {**PRICES, **BATCH_PRICES}.items())
    (tmp_path / "tiers.toml").write_text(
        f'[[tiers]]\nname = "small"\nprovider = "openai"\nmodel = "s-1"\n{prices}\n'
    )
    write_rows(tmp_path / "prompts.jsonl", N)
    return partial(here, monkeypatch, capsys)


SUBMIT = ("batch", "submit", "prompts.jsonl", "--tier", "small", "--tiers", "tiers.toml")


def refused(done: Done, code: int) -> str:
    """The error: one sentence on stderr, and nothing on stdout."""
    assert (done.code, done.out) == (code, "")
    (error,) = done.err.splitlines()
    assert error.startswith("cps-router: ") and error.endswith(".")
    return error.removeprefix("cps-router: ")


def test_from_submit_to_results(cps: Run, tmp_path: Path, provider: Batches) -> None:
    done = cps(*SUBMIT)
    assert (done.code, done.err) == (0, "")
    first, *lines = done.out.splitlines()
    found = re.fullmatch(r"job (b[0-9a-f]{16}): open", first)
    assert found
    job = found[1]
    assert lines == [
        "4 rows: 4 parted",
        "  small: 4 batch",
        "batches: 1 running",
        "spent $0.000000",
    ]
    assert cps(*SUBMIT).out == done.out
    assert cps("batch", "status", job).out == done.out
    assert re.fullmatch(
        rf"{job}  \d{{4}}-\d\d-\d\d \d\d:\d\d  open  4 rows\n", cps("batch", "status").out
    )
    done = cps("batch", "results", job)
    assert done.out == "" and "4 are still open" in done.err
    done = cps("batch", "resume", job, "--wait")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[:2] == [f"job {job}: done", "4 rows: 4 answered"]
    assert f"spent ${N * COST / 1e9:.6f}" in done.out
    done = cps("batch", "results", job, "--out", "answers.jsonl")
    assert (done.code, done.out, done.err) == (0, "", "")
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [f"answer to q{i}" for i in range(N)]
    assert {*rows[0]} >= {
        *("request_id", "tier", "model", "text", "usage", "cost_usd", "status", "attempts"),
    }
    assert cps("batch", "results", job).out == (tmp_path / "answers.jsonl").read_text()
    report = cps("ledger", "report", "ledger.db", "--json")
    assert json.loads(report.out)["savings"]["batch_saving_nanousd"] == N * 700_000
    done = cps("batch", "results", job, "--out", "again.jsonl", "--forget", "--json")
    assert json.loads(done.err) == {"n_rows": N, "n_open": 0}
    assert json.loads(cps("batch", "results", job).out.splitlines()[0])["text"] is None
    assert provider.handed_in.total() == N


def test_json_is_one_object(cps: Run) -> None:
    submitted = json.loads(cps(*SUBMIT, "--json").out)
    assert (submitted["state"], submitted["n_open"], submitted["n_rejected"]) == ("open", N, 0)
    job = submitted["job_id"]
    assert json.loads(cps("batch", "status", "--json").out)["jobs"] == [
        json.loads(cps("batch", "status", job, "--json").out)
    ]
    assert json.loads(cps("batch", "resume", job, "--json").out)["rows"] == {"answered": N}
    assert json.loads(cps("batch", "cancel", job, "--json").out)["state"] == "done"


def test_bad_rows_are_told_and_listed_and_the_good_ones_go_on(cps: Run, tmp_path: Path) -> None:
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write('{"no": 1}\n{"query": ""}\n{"query": "x", "request_id": "r0"}\nnonsense\n')
    done = cps(*SUBMIT)
    assert done.code == 0
    assert "4 bad rows, listed in " in done.out
    assert "  1 x its request_id occurs twice" in done.out
    rejects = (tmp_path / "prompts.jsonl.rejects.jsonl").read_text().splitlines()
    assert [json.loads(row)["line"] for row in rejects] == [5, 6, 8, 7]
    assert "4 rows: 4 parted" in done.out


def test_what_does_not_work_is_said_and_the_exit_code_shows_it(cps: Run, provider: Batches) -> None:
    provider.submit_fails = [(failure("rate-limit"), False)]
    done = cps(*SUBMIT)
    assert done.code == 1 and done.out.startswith("job ")
    assert done.err == (
        "cps-router: openai did not take a batch (rate-limit); resume the job to try again\n"
    )
    assert cps(*SUBMIT).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("submit", "prompts.jsonl"), 2, "expected either --artifact A, or --tier T"),
        (("submit", "prompts.jsonl", "--tier", "small"), 2, "expected --tiers TIERS.toml"),
        ((*SUBMIT[1:], "--artifact", "default"), 2, "expected either --artifact A"),
        ((*SUBMIT[1:], "--deadline", "soon"), 2, "expected --deadline as a span above 0"),
        ((*SUBMIT[1:], "--deadline", "0h"), 2, "expected --deadline as a span above 0"),
        ((*SUBMIT[1:], "--max-cost", "-1"), 2, "expected max_cost_usd as an amount"),
        ((*SUBMIT[1:], "--max-attempts", "0"), 2, "expected max_attempts as a whole number"),
        (("submit", "none.jsonl", *SUBMIT[3:]), 2, "expected a file of JSON lines at"),
        ((*SUBMIT[1:4], "huge", *SUBMIT[5:]), 2, "expected the name of a tier, got 'huge'"),
        (("status", "--ledger", "none.db"), 2, "expected a ledger at"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    cps: Run, arguments: tuple[str, ...], code: int, words: str
) -> None:
    assert words in refused(cps("batch", *arguments), code)


def test_a_job_that_is_not_there_or_not_done(cps: Run) -> None:
    job = json.loads(cps(*SUBMIT, "--json").out)["job_id"]
    for command in ("status", "results", "resume", "cancel"):
        assert "expected a job of this ledger" in refused(cps("batch", command, "b1"), 2)
    assert "of which 4 rows are open" in refused(cps("batch", "results", job, "--forget"), 2)
    assert "expected to write results to" in refused(
        cps("batch", "results", job, "--out", "no/such/folder.jsonl"), 2
    )


def test_cancel_tells_who_else_is_at_work(
    cps: Run, tmp_path: Path, provider: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.looks = 5
    job = json.loads(cps(*SUBMIT, "--json").out)["job_id"]
    with Ledger(tmp_path / "ledger.db") as ledger:
        other = BatchJobs(ledger, providers={"openai": provider})
        with other._store.leased(job):
            done = cps("batch", "cancel", job)
            assert done.code == 1 and "another process does" in done.err
            assert done.out.startswith(f"job {job}: cancelling")
            assert "expected to work on job" in refused(cps("batch", "resume", job), 1)
    assert "failed: 4 x cancelled" in cps("batch", "resume", job).out


def test_help_teaches_by_an_example(cps: Run) -> None:
    done = cps("batch", "submit", "--help")
    assert "cps-router batch submit prompts.jsonl --artifact my-router --deadline 24h" in done.out
    assert "cps-router batch resume JOB --wait" in cps("batch", "resume", "--help").out


def test_what_takes_long_says_so(cps: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import router.cli_batch

    monkeypatch.setattr(router.cli_batch, "_SILENT_S", 0.001)
    err = "".join(cps(*SUBMIT, "--name", str(i)).err for i in range(5))
    assert re.search(r"^cps-router: .* \.\.\.$", err, flags=re.MULTILINE)


def test_the_page_runs_as_it_stands(cps: Run, repository: Path, tmp_path: Path) -> None:
    """Its commands in order, its Python, and what it says they print."""
    text = (repository / "docs" / "batch.md").read_text("utf-8")
    job, n_commands = "", 0
    for block in re.findall(r"(?:^    .*\n)+", text, flags=re.MULTILINE):
        for command in block.replace("\\\n", " ").splitlines():
            if not command.strip().startswith("cps-router"):
                continue
            arguments = shlex.split(command)[1:]
            if "my-router" in arguments:
                continue  # trained elsewhere
            done = cps(*[job if word == "JOB" else word for word in arguments])
            assert done.code == 0, (command, done.err)
            n_commands += 1
            if "submit" in arguments:
                job = done.out.split()[1].rstrip(":")
    assert n_commands >= 6
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(code, "docs/batch.md", "exec"), {})
    assert (tmp_path / "answers.jsonl").exists()


_PROCESS = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import router.batch
from pathlib import Path
from tests.batches import Batches
step = sys.argv[2]
def trace(name):
    if name == step:
        os.kill(os.getpid(), signal.SIGKILL)
router.batch.make_provider = lambda _: Batches(Path("provider"), trace)
sys.argv = ["cps-router", *sys.argv[3:]]
from training.cli import main
main()
"""


def test_a_command_that_is_killed_is_said_again(
    cps: Run, repository: Path, tmp_path: Path, provider: Batches
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _PROCESS, str(repository), "after submit", *SUBMIT],
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert killed.returncode == -signal.SIGKILL
    job = json.loads(cps("batch", "status", "--json").out)["jobs"][0]["job_id"]
    assert "4 answered" in cps("batch", "resume", job, "--wait").out
    assert set(provider.handed_in.values()) == {1}
