"""Other people's client packages, each in an environment of its own below `.clients/`: made once, then kept.

They bring pins that contradict ours (an older `openai`, another `httpx`), and some bring a package called `tests`, so
none may come into the environment of the server. An environment is made again when its lock file changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
CACHE = PROJECT / ".clients"
LOCKS = PROJECT / "tests" / "acceptance" / "clients"
NODE = PROJECT / "tests" / "acceptance" / "node"

INSTALL_SECONDS_MAX = 240.0
RUN_SECONDS_MAX = 120.0
OUT_OF_REACH = re.compile(
    r"NameResolution|name resolution|NewConnectionError|ConnectTimeout|Read timed out|ProxyError"
    r"|No matching distribution|Network is unreachable|Connection refused"
    r"|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|network timeout|E404|ETARGET|E403|E502|E503"
)
"""What pip and npm say when a registry cannot be reached or lacks the pinned version."""


class Unavailable(Exception):
    """This machine cannot have the client: a reason to skip, in one line. Anything else that fails is a defect."""


def python_of(name: str) -> Path:
    """The interpreter of an environment with exactly the packages of `tests/acceptance/clients/NAME.txt`."""
    lock = LOCKS / f"{name}.txt"
    folder = CACHE / name
    with _made(folder, lock.read_bytes()) as missing:
        if missing:
            _run([sys.executable, "-m", "venv", str(folder)], "make a virtual environment")
            pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--retries", "1"]
            _run([*pip, "install", "--quiet", "--no-deps", "-r", str(lock)], f"install {lock.name}")
            _run([*pip, "check"], f"check {lock.name}")
    return folder / "bin" / "python"


def node_folder() -> Path:
    """A folder whose `node_modules` are the packages locked in `tests/acceptance/node`."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is not installed")
    folder = CACHE / "node"
    lock = b"".join((NODE / name).read_bytes() for name in ("package.json", "package-lock.json"))
    with _made(folder, lock) as missing:
        if missing:
            folder.mkdir(parents=True)
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(NODE / name, folder / name)
            _run(["npm", "ci", "--fetch-retries=1", "--no-audit", "--no-fund"], "npm ci", folder=folder)
    return folder


def run(command: Sequence[str | Path], *, folder: Path, environment: Mapping[str, str]) -> Any:
    """Run a client program as its user would; its last line of output is JSON about what it saw."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENAI_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**clean, "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def _made(folder: Path, lock: bytes) -> Iterator[bool]:
    """Whether `folder` must be made, under a lock against other test runs; it counts once the block has ended well."""
    CACHE.mkdir(exist_ok=True)
    digest = hashlib.sha256(lock).hexdigest()
    stamp = CACHE / f"{folder.name}.stamp"
    with (CACHE / f"{folder.name}.lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        missing = not stamp.exists() or stamp.read_text() != digest or not folder.is_dir()
        if missing:
            stamp.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        yield missing
        stamp.write_text(digest)


def _run(command: Sequence[str], what: str, *, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{what}: not done within {INSTALL_SECONDS_MAX:.0f} s") from None
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    found = OUT_OF_REACH.search(said)
    if found:
        raise Unavailable(f"{what}: the registry cannot be reached or lacks a pinned version ({found.group()})")
    raise AssertionError(f"{what} failed:\n{said}")
