"""Check that the wheel and the sdist in a folder hold what they should and nothing else."""

import re
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

SDIST_TOP = {
    *("src", "tests", "benchmarks", "docs", "examples"),
    *("CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "constraints.txt", "pyproject.toml"),
    *("PKG-INFO", ".gitignore"),  # written by the builder
}
SDIST_LIMIT = 5_000_000  # bytes: a data set has slipped in


def check_wheel(path: Path) -> list[str]:
    """Say what is wrong with a wheel: it must mirror src/resup and add only its own metadata."""
    with zipfile.ZipFile(path) as wheel:
        names = {n for n in wheel.namelist() if not n.endswith("/")}
        texts = [wheel.read(n).decode() for n in names if n.endswith(".dist-info/METADATA")]
    expected = {
        p.relative_to("src").as_posix()
        for p in Path("src/resup").rglob("*")
        if p.suffix == ".py" or p.name == "py.typed"
    }
    info = {n for n in names if PurePosixPath(n).parts[0].endswith(".dist-info")}
    problems = [f"{path.name} lacks {n}" for n in sorted(expected - names)]
    problems += [f"{path.name} must not hold {n}" for n in sorted(names - expected - info)]
    if not any(n.endswith("/licenses/LICENSE") for n in info):
        problems.append(f"{path.name} lacks the licence")
    links = [link for text in texts for link in re.findall(r"\]\(([^)]*)\)", text)]
    here = [link for link in links if not link.startswith("https://")]
    problems += [f"{path.name}: the link {link} leads nowhere on a package index" for link in here]
    return problems


def check_sdist(path: Path) -> list[str]:
    """Say what is wrong with an sdist."""
    with tarfile.open(path) as sdist:
        names = {PurePosixPath(*PurePosixPath(m.name).parts[1:]) for m in sdist if m.isfile()}
    top = {n.parts[0] for n in names}
    problems = [f"{path.name} lacks {n}" for n in sorted(SDIST_TOP - top)]
    problems += [f"{path.name} must not hold {n}" for n in sorted(top - SDIST_TOP)]
    cached = sorted(n for n in names if "__pycache__" in n.parts or "generated" in n.parts)
    problems += [f"{path.name} must not hold {n}" for n in cached]
    if path.stat().st_size > SDIST_LIMIT:
        problems.append(f"{path.name} is {path.stat().st_size:,} bytes, more than {SDIST_LIMIT:,}")
    return problems


def main() -> int:
    """Check both and print what is wrong."""
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    problems = check_wheel(wheel) + check_sdist(sdist)
    for problem in problems:
        print("error:", problem, file=sys.stderr)
    for path in (wheel, sdist):
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
