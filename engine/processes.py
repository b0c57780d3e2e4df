"""Which processes belong to an engine, on disk, so that a later server can end what a former one left behind.

A process is itself only when pid and start time agree. Besides the records, engine processes carry the data folder in
their environment: one that was born in the moment before its pid could be written is found all the same.
All functions block; the server calls them in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TIME_TOLERANCE_SECONDS = 2.0
"""psutil derives start times from the boot time, which moves when the clock is set."""

END_SECONDS_MAX = 10.0
TRACKER_ARGUMENT = "multiprocessing.resource_tracker"
"""Python's helper that unlinks shared memory once its users are gone. Killing it would leave the memory behind."""


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (named by the C library, nothing of ours is written there)


@dataclass(frozen=True, slots=True)
class ProcessMark:
    pid: int
    started_at: float
    what: str


@dataclass(frozen=True, slots=True)
class EngineRecord:
    engine: str
    server_pid: int
    processes: tuple[ProcessMark, ...]


def mark_of(process: psutil.Process, what: str) -> ProcessMark | None:
    """None when it is gone already."""
    try:
        return ProcessMark(process.pid, process.create_time(), what)
    except psutil.Error:
        return None


def tree_of(pid: int, what: str) -> tuple[ProcessMark, ...]:
    """The process and all that it started, itself first."""
    try:
        root = psutil.Process(pid)
        below = root.children(recursive=True)
    except psutil.Error:
        return ()
    marks = [mark_of(root, what), *(mark_of(child, _kind_of(child)) for child in below)]
    return tuple(mark for mark in marks if mark is not None)


def write_record(folder: Path, record: EngineRecord) -> None:
    path = record_path(folder, record.engine)
    temporary = path.with_suffix(".json.tmp")
    document = {
        "engine": record.engine,
        "server_pid": record.server_pid,
        "processes": [[mark.pid, mark.started_at, mark.what] for mark in record.processes],
    }
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(path)


def read_record(path: Path) -> EngineRecord | None:
    """None for a file that is not a record (torn, or of another version): its processes are found by their mark."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        marks = tuple(ProcessMark(int(pid), float(at), str(what)) for pid, at, what in document["processes"])
        return EngineRecord(str(document["engine"]), int(document["server_pid"]), marks)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def file_stem(engine: str) -> str:
    """An engine's name as a file name: a hub id has a slash in it. Changed names get a digest, so that two stay two."""
    stem = re.sub(r"[^\w.-]", "_", engine)
    return stem if stem == engine else f"{stem}-{hashlib.blake2b(engine.encode(), digest_size=4).hexdigest()}"


def record_path(folder: Path, engine: str) -> Path:
    return folder / f"{file_stem(engine)}.json"


def forget_record(folder: Path, engine: str) -> None:
    record_path(folder, engine).unlink(missing_ok=True)


def alive(marks: Iterable[ProcessMark]) -> list[psutil.Process]:
    """Those that still run as themselves; a zombie does not run."""
    return [process for mark in marks if (process := _same(mark)) is not None]


def end(processes: Iterable[psutil.Process], seconds: float = END_SECONDS_MAX) -> list[psutil.Process]:
    """Kill them and wait. Resource trackers come last: they end by themselves once the memory is unlinked.

    Returns what would not end.
    """
    waiting = list(processes)
    workers = [process for process in waiting if not is_tracker(process)]
    trackers = [process for process in waiting if process not in workers]
    for process in workers:
        kill(process)
    _, stubborn = psutil.wait_procs(workers, timeout=seconds)
    _, late = psutil.wait_procs(trackers, timeout=seconds)
    for process in late:
        kill(process)
    return list(stubborn)


def end_orphans(folder: Path, environment_mark: str = "NIGHTBATCH_ENGINE") -> list[str]:
    """End engine processes of a former server of this data folder; one sentence per engine, for the log.

    Call it at start, after the folder's lock is held: then no living server owns them.
    """
    if not folder.is_dir():
        return []
    found: dict[int, tuple[str, psutil.Process]] = {}
    recorded: set[int] = set()
    for path in sorted(folder.glob("*.json")):
        record = read_record(path)
        if record is None:
            continue
        recorded.update(mark.pid for mark in record.processes)
        for process in alive(record.processes):
            found[process.pid] = (record.engine, process)
    for engine, process in _marked(folder, environment_mark):
        found.setdefault(process.pid, (engine, process))
    stubborn = {process.pid for process in end(process for _, process in found.values())}
    remove_openmp_marks((recorded | found.keys()) - stubborn)
    sentences = []
    for engine in sorted({engine for engine, _ in found.values()}):
        pids = sorted(pid for pid, (name, _) in found.items() if name == engine)
        listed = ", ".join(str(pid) for pid in pids)
        sentences.append(f"engine {engine}: ended {len(pids)} processes left by a former server (pid {listed})")
        if left := [pid for pid in pids if pid in stubborn]:
            sentences.append(f"engine {engine}: pid {', '.join(map(str, left))} would not end; end them by hand")
    for path in folder.glob("*.json"):
        path.unlink(missing_ok=True)
    return sentences


def remove_openmp_marks(pids: Iterable[int]) -> None:
    """Intel's OpenMP registers each process in shared memory, and a killed one stays registered. For pids of ours."""
    for pid in pids:
        for path in SHARED_MEMORY.glob(f"__KMP_REGISTERED_LIB_{pid}_*"):
            with contextlib.suppress(OSError):
                path.unlink()


def _same(mark: ProcessMark) -> psutil.Process | None:
    try:
        process = psutil.Process(mark.pid)
        if abs(process.create_time() - mark.started_at) > START_TIME_TOLERANCE_SECONDS:
            return None
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.Error:
        return None


def _marked(folder: Path, variable: str) -> list[tuple[str, psutil.Process]]:
    """Processes of this user that carry this folder's mark."""
    prefix = f"{folder.resolve()}:"
    found = []
    for process in psutil.process_iter():
        try:
            value = "" if process.pid == os.getpid() else process.environ().get(variable, "")
            if value.startswith(prefix) and process.status() != psutil.STATUS_ZOMBIE:
                found.append((value.removeprefix(prefix), process))
        except (psutil.Error, OSError):
            continue
    return found


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()


def is_tracker(process: psutil.Process) -> bool:
    try:
        return any(TRACKER_ARGUMENT in part for part in process.cmdline())
    except psutil.Error:
        return False


def _kind_of(process: psutil.Process) -> str:
    if is_tracker(process):
        return "resource tracker"
    try:
        return str(process.name())
    except psutil.Error:
        return "gone"
