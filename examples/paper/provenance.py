"""Command, commit, versions and hardware, to stand beside every number."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch")


def provenance(*packages: str) -> dict[str, object]:
    command = Path(sys.argv[0]).resolve()
    if command.is_relative_to(ROOT):
        command = command.relative_to(ROOT)
    return {
        "command": " ".join(["python", command.as_posix(), *sys.argv[1:]]),
        "commit": COMMIT,
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in (*PACKAGES, *packages)},
        "hardware": {
            "platform": platform.platform(),
            "cpu": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def find_commit() -> str:
    """Name the commit, and whether any file but the results differs from it."""
    git = ("git", "-C", str(ROOT))
    try:
        head = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True).strip()
        changed = subprocess.check_output(
            [*git, "status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results"], text=True
        )
    except (OSError, subprocess.CalledProcessError):  # a copy without history
        return os.environ.get("RESUP_COMMIT", "unknown")
    return head + (" with changes" if changed.strip() else "")


COMMIT = find_commit()  # now: the checkout may change while a program runs


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
