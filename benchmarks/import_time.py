"""Time `import resup` against `import torch`.

    python benchmarks/import_time.py [--repeats 7]

Every import happens in a fresh process, the contenders take turns, and the medians are compared,
so that a busy machine slows all of them alike. resup imports its names when they are first used;
the second row asks for all of them at once, and so pays for torch, SciPy and scikit-learn too.
"""

import argparse
import statistics
import subprocess
import sys

CONTENDERS = {
    "import torch": "import torch",
    "import resup": "import resup",
    "every name of resup": "from resup import *",
}
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    """Time one statement in a process of its own."""
    command = [sys.executable, "-c", TIMED.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print a row a contender."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="default: %(default)s")
    repeats = parser.parse_args().repeats
    for statement in CONTENDERS.values():  # fills the disk cache
        seconds(statement)
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(repeats):
        for name, statement in CONTENDERS.items():
            times[name].append(seconds(statement))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        ratio = median / medians["import torch"]
        print(f"{name:<20} {median:7.3f} s   {ratio:6.3f} x import torch")


if __name__ == "__main__":
    main()
