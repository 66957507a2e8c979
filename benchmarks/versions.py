"""What stands beside the numbers: device, versions, commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def commit() -> str:
    """The short hash, with "+" where the sources have changes on top."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "src", "benchmarks/*.py")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def processor() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    model = names[0].split(":", 1)[1].strip() if names else platform.processor()
    return f"{cores} cores of {model or platform.machine()}"


def devices() -> list[str]:
    """JAX's devices, asked in a process of its own: this one must hold no device."""
    code = "import jax, json; print(json.dumps([d.device_kind for d in jax.devices()]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else ["unknown"]


def environment() -> dict[str, Any]:
    found = {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "folx", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {"processor": processor(), "devices": devices(), "versions": found}
