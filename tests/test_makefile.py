"""What `make` says before it installs anything, with stand-ins for the interpreters it finds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

TOOLS = ("make", "sh", "rm", "touch", "echo", "grep", "sed", "awk")


@pytest.fixture
def checkout(tmp_path: Path, repository: Path) -> Path:
    """A copy of what make reads, and a folder of tools without any Python."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(repository / name, tmp_path / name)
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(str(shutil.which(tool)))
    return tmp_path


def python(checkout: Path, name: str, version: str, *, has_venv: bool = True) -> None:
    """A stand-in that answers the three questions that make asks of an interpreter."""
    recent = tuple(int(part) for part in version.split(".")) >= (3, 11)
    path = checkout / "tools" / name
    path.write_text(
        '#!/bin/sh\ncase "$2" in\n'
        f"  *print*) echo {version};;\n"
        f"  *ensurepip*) exit {0 if has_venv else 1};;\n"
        f"  *) exit {0 if recent else 1};;\nesac\n"
    )
    path.chmod(0o755)


def make(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    return subprocess.run(
        ["make", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=checkout,
        env={**kept, "PATH": str(checkout / "tools"), **environment},
    )


def first_line(text: str) -> str:
    return text.splitlines()[0]


def test_no_python(checkout: Path) -> None:
    done = make(checkout, "demo")
    assert done.returncode == 2
    assert first_line(done.stderr) == (
        "make: Python 3.11 or newer is needed, but no python3 was found: install one and run make "
        "again, or name it: make demo PYTHON=/path/to/python3.11."
    )


def test_python_too_old(checkout: Path) -> None:
    python(checkout, "python3", "3.9")
    done = make(checkout, "test")
    assert done.returncode == 2
    assert "is needed, but python3 is Python 3.9: install one" in first_line(done.stderr)
    assert not (checkout / ".venv").exists()


def test_venv_is_missing(checkout: Path) -> None:
    python(checkout, "python3", "3.9")
    python(checkout, "python3.12", "3.12", has_venv=False)
    done = make(checkout, "demo")
    assert done.returncode == 2
    assert first_line(done.stderr).startswith("make: python3.12 cannot make virtual environments")
    assert "apt-get install python3-venv" in first_line(done.stderr)


def test_a_named_python_is_never_replaced_by_another(checkout: Path) -> None:
    python(checkout, "python3", "3.12")
    python(checkout, "python2", "2.7")
    done = make(checkout, "demo", "PYTHON=python2")
    assert "python2 is Python 2.7" in first_line(done.stderr)


def test_an_unreachable_index_is_one_sentence(checkout: Path) -> None:
    (checkout / "tools" / "python3").symlink_to(sys.executable)
    done = make(checkout, "demo", PIP_NO_INDEX="1")
    assert done.returncode == 2
    assert done.stdout.startswith("make: installing what the demo needs (")
    assert first_line(done.stderr) == (
        "make: pip reached no package index that has the packages: check the network and pip's "
        "settings, then run make again (pip's own words are in .venv/install.log)."
    )
    assert (checkout / ".venv" / "install.log").stat().st_size > 0


def test_another_failure_is_not_blamed_on_the_index(checkout: Path) -> None:
    (checkout / "tools" / "python3").symlink_to(sys.executable)
    (checkout / "pyproject.toml").write_text("this is not TOML")
    done = make(checkout, "demo", PIP_NO_INDEX="1")
    assert first_line(done.stderr) == (
        "make: the packages could not be installed: read why in .venv/install.log, then run make "
        "again."
    )


def has_server() -> bool:
    return any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.mark.skipif(has_server(), reason="make finds the PostgreSQL of this machine")
def test_without_a_server_that_is_said_and_no_failure(checkout: Path) -> None:
    (checkout / "tools" / "id").write_text("#!/bin/sh\necho 1000\n")
    (checkout / "tools" / "id").chmod(0o755)
    (checkout / "tools" / "ls").symlink_to(str(shutil.which("ls")))
    done = make(checkout, "postgres")
    assert done.returncode == 0
    assert first_line(done.stderr).startswith("make: THERE IS NO POSTGRESQL")


def test_a_server_on_the_path_is_enough(checkout: Path) -> None:
    (checkout / "tools" / "initdb").symlink_to(str(shutil.which("true")))
    done = make(checkout, "postgres")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_a_browser_that_is_said_and_no_failure(checkout: Path) -> None:
    (checkout / "tools" / "id").write_text("#!/bin/sh\necho 1000\n")
    (checkout / "tools" / "id").chmod(0o755)
    (checkout / "tools" / "chromium").symlink_to(str(shutil.which("true")))
    done = make(checkout, "chromium")
    assert done.returncode == 0
    assert first_line(done.stderr).startswith("make: THERE IS NO CHROMIUM")


def test_a_browser_and_its_driver_on_the_path_are_enough(checkout: Path) -> None:
    for name in ("chromium-browser", "chromedriver"):
        (checkout / "tools" / name).symlink_to(str(shutil.which("true")))
    done = make(checkout, "chromium")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_help_lists_every_target(checkout: Path) -> None:
    done = make(checkout)
    assert done.returncode == 0
    for target in ("demo", "test", "lint", "bench", "clean"):
        assert f"make {target} " in done.stdout


def test_continuous_integration_runs_the_same_command(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("make --no-print-directory test")
