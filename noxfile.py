"""The project's sessions: `nox -l` lists them, `nox -s lint types` runs two of them.

Tests run on every Python from 3.11 on that is found on this machine, so no session fails because one is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import nox

nox.options.sessions = ["tests", "oldest", "newest", "lint", "types", "docs", "build"]
nox.options.reuse_existing_virtualenvs = True

ALL = ".[dev,examples]"
"""What the whole suite needs; `dev` alone skips the tests of the examples' programs."""


def _floors() -> list[str]:
    """The lowest version that pyproject.toml allows of each dependency of the suite."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    needed = list(project["dependencies"])
    for extra in ("cli", "durable", "testing", "dev", "examples"):
        needed += project["optional-dependencies"][extra]
    return [re.sub(r">=([^,;]+)[^;]*", r"==\1", need) for need in needed if not need.startswith("trooper-async")]


def _pythons() -> list[str]:
    """The versions found, the one that runs nox first; pyenv's too, whose shims may be there and not work."""
    versions_of_pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for version in ("3.11", "3.12", "3.13", "3.14"):
        name = f"python{version}"
        candidates = [str(path) for path in sorted(versions_of_pyenv.glob(f"{version}.*/bin/{name}"), reverse=True)]
        if (on_path := shutil.which(name)) is not None:
            candidates.insert(0, on_path)
        for candidate in candidates:
            if subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:  # noqa: S603 - a Python
                os.environ["PATH"] = f"{Path(candidate).parent}{os.pathsep}{os.environ['PATH']}"
                found.append(version)
                break
    return found


PYTHONS = _pythons()


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The test suite with its dependencies as pip chooses them, and the coverage of the package."""
    session.install("-e", f"{ALL[:-1]},bench]")
    session.run("pytest", "-q", "--cov", "--cov-report=term:skip-covered", *session.posargs)


@nox.session(python=PYTHONS[len(PYTHONS) // 2])
def oldest(session: nox.Session) -> None:
    """The test suite with the oldest allowed version of every dependency."""
    session.install("-e", ALL, *_floors())
    session.run("pytest", "-q", "-n", "4", *session.posargs)


@nox.session(python=PYTHONS[-1])
def newest(session: nox.Session) -> None:
    """The test suite with the newest version of every dependency, on the newest Python found."""
    session.install("--upgrade", "--upgrade-strategy", "eager", "-e", ALL)
    session.run("pytest", "-q", "-n", "4", *session.posargs)


@nox.session
def load(session: nox.Session) -> None:
    """The suite three times in random order, with new examples, beside as many busy processes as there are cores."""
    session.install("-e", ALL)
    session.run("python", "-m", "tests.tools.load", *session.posargs)


@nox.session(python=PYTHONS[-1])
def mutants(session: nox.Session) -> None:
    """300 small faults in the core: the share that the tests detect, and the others (`-- --sample N --seed S`)."""
    session.install("-e", ".[dev]", "mutmut>=3.8")
    session.run("python", "-m", "tests.tools.mutants", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    session.install(*nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict and pyright; the public surface is completely typed."""
    session.install("-e", f"{ALL[:-1]},bench,docs,lint]")
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "trooper_async", "--ignoreexternal")


@nox.session
def build(session: nox.Session) -> None:
    """The wheel, installed alone in a new environment, runs the quickstart."""
    session.install("build")
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--outdir", folder, ".", silent=True)
        (wheel,) = Path(folder).glob("*.whl")
        session.run("python", "-m", "venv", f"{folder}/venv")
        python = f"{folder}/venv/bin/python"
        session.run(python, "-m", "pip", "install", "-q", str(wheel), external=True)
        quickstart = Path("examples/quickstart.py").resolve()
        with session.chdir(folder):  # away from the source, so that the wheel is what is imported
            session.run(python, "-W", "error", str(quickstart), external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The site in `build/site`, from the pages and the docstrings; fails on a broken link or a missing docstring."""
    session.install(*nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["docs"])
    session.run("python", "-m", "tests.tools.site")


@nox.session
def simulate(session: nox.Session) -> None:
    """The real client through 100,000 simulated waits (`-- --waits N --seed S`); prints the table of how they ended."""
    session.install("-e", ".")
    session.run("python", "-m", "tests.tools.simulator", *session.posargs)


@nox.session
def purchases(session: nox.Session) -> None:
    """100,000 purchases whose response is lost, against other strategies; 200 real processes killed in mid-purchase."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.tools.simulator.purchases", *session.posargs)


@nox.session
def hostile(session: nox.Session) -> None:
    """Every hostile response against a client in its own process; `-- --timings` judges the stalls too."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.tools.hostile", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Any response is data or an error of ours (`-- --seconds N --seed S`); guided by atheris where it installs."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pip", "install", "-q", "--only-binary", ":all:", "atheris", success_codes=[0, 1])
    session.run("python", "-m", "tests.tools.fuzz", *(session.posargs or ["--seconds", "300"]))


@nox.session
def screens(session: nox.Session) -> None:
    """The pictures of the command, made again from a real run on the fake."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.tools.screens")


@nox.session
def crash(session: nox.Session) -> None:
    """Durable workflows whose processes are killed: 200 runs on SQLite, 50 on Postgres (`--blind`: tests the judge)."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.tools.crash", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The table of costs beside the peers' and the goals, and its plots (`-- --quick`, `-- --only poll`)."""
    session.install("-e", ".[cli,testing,bench]")
    session.run("python", "-m", "tests.tools.benchmarks", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Every endpoint under every fault, with your session and ours: requests, errors, seconds, records."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.tools.faults", *session.posargs)


@nox.session
def calibration(session: nox.Session) -> None:
    """200 random APIs are recorded, and the fakes of their profiles compared with them (`-- --behaviours N`)."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.tools.calibration", *session.posargs)
