"""Reports are published: what leaves a benchmark names no folder and no host of the machine that ran it."""

from __future__ import annotations

import re
import shlex
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import __file__ as _here

HOST_NAMES_KEPT = frozenset({"localhost", "127.0.0.1"})


def places() -> tuple[str, ...]:
    """Folders of this machine that may turn up in a log line or an argument, longest first."""
    found = {str(Path.cwd()), str(Path.home()), tempfile.gettempdir(), sys.prefix, str(Path(_here).parent.parent)}
    return tuple(sorted((place for place in found if len(place) > 1), key=len, reverse=True))


def without_places(text: str, folders: Sequence[str], host: str) -> str:
    """Drop a known folder with everything down to the last part of the path, and the host's name."""
    for folder in folders:
        name = re.escape(folder)
        text = re.sub(rf"{name}(?:/[^\s/'\",:]+)*/(?=[^\s/])|{name}(?![\w.-])/?", "", text)
    if host and host not in HOST_NAMES_KEPT:
        text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?:\.[\w.-]+)?(?![\w-])", "HOST", text)
    return text


def anonymous(text: str) -> str:
    return without_places(text, places(), socket.gethostname())


def argument(value: str) -> str:
    """One argument of a command: a path keeps its last part, a URL its scheme and port, a flag its name."""
    flag, equals, rest = value.partition("=")
    if equals and flag.startswith("-"):
        return f"{flag}={argument(rest)}"
    url = re.match(r"(https?)://(?:[^@/]*@)?([^/:]+)(:\d+)?(/.*)?$", value)
    if url:
        scheme, host, port, path = url.groups()
        return f"{scheme}://{host if host in HOST_NAMES_KEPT else 'HOST'}{port or ''}{path or ''}"
    if value.startswith(("/", "~", "./", "../")):
        return Path(value).name or "."
    if " " in value:
        return " ".join(argument(part) for part in value.split(" "))
    return value


def command(name: str, argv: Sequence[str]) -> str:
    """The command to type again. `--json PATH` is left out: where a report went is not part of what was measured."""
    kept: list[str] = []
    skip = False
    for value in argv:
        if skip or value.startswith("--json="):
            skip = False
        elif value == "--json":
            skip = True
        else:
            kept.append(argument(value))
    return shlex.join(["nightbatch", "bench", name, *kept])
