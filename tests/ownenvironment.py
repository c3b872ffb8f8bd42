"""An environment of Python that a tool of the tests needs for itself, beside the project's: made when it is not there, by one process at a time."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def home_of(name: str) -> Path:
    """Where it lies: beside the project's own, which work trees share."""
    return (ROOT / ".venv").resolve().parent / name if (ROOT / ".venv").exists() else ROOT / name


def made(home: Path, *, of: str, requirements: Sequence[str], prepare: Callable[[], None] = lambda: None) -> Path:
    """The folder of its commands. ``of`` says all that it depends on: another text makes it anew. ``prepare`` comes before pip's ``requirements``."""
    stamp = home / ".installed"
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != of:
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            prepare()
            subprocess.run([str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements], check=True)
            stamp.write_text(of)
    return home / "bin"
