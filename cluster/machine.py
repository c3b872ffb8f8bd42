"""Where something ran and with what: processor, memory, system, versions. No value of the environment is in it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STACK = ("tunefleet", "torch", "ray", "deepspeed", "transformers", "peft", "datasets", "pyarrow", "tokenizers", "numpy")


def machine() -> dict[str, Any]:
    """Processor, its cores, memory in GiB, and system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": _processor(), "cores": os.cpu_count(), "memory_gib": round(memory, 1), "system": platform.platform()}


def versions(names: Sequence[str] = STACK) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of this code where it is run from its repository, ``+`` behind it when files differ from it; empty for an installed package."""
    top = Path(__file__).resolve().parents[1]
    if not (top / ".git").exists():  # a folder, or the file of a work tree
        return ""
    name, changed = _git(top, "rev-parse", "--short=12", "HEAD"), _git(top, "status", "--porcelain", "--untracked-files=no")
    return name + ("+" if changed else "")


def _git(top: Path, *words: str) -> str:
    """What git says, or nothing where there is none."""
    try:
        done = subprocess.run(["git", *words], cwd=top, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603, S607 - words of our own
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def hardware(device: torch.device) -> str:
    """What a device is: the name of the GPU, or of the processor."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
