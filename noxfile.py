"""What to run before a commit: `nox` for all of it, `nox -l` for the list, `nox -s tests-3.11`."""

import nox

nox.options.sessions = ["lint", "types", "tests-3.11", "doctests", "docs"]
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
TESTED = ("-c", "constraints.txt")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests; further arguments go to pytest."""
    session.install(*TESTED, "-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*TESTED, "ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    session.install(*TESTED, "-e", ".[plot]", "mypy")
    session.run("mypy")


@nox.session
def doctests(session: nox.Session) -> None:
    """Run the examples in docstrings and pages."""
    session.install(*TESTED, "-e", ".[test]")
    globs = ("--doctest-glob=*.rst", "--doctest-glob=*.md")
    session.run("pytest", "--doctest-modules", *globs, "src", "docs", "README.md")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build/html."""
    session.install(*TESTED, "-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def ci(session: nox.Session) -> None:
    """Run everything that CI runs; it makes its own environments."""
    session.run("bash", ".ci/run", external=True)
