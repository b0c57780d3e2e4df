"""The host's bond with the server: a pipe on standard input that ends when the server does, however it ends.

It runs in a thread, since the host's event loop is blocked for as long as vLLM builds an engine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

import psutil

from engine import processes

SERVER_GONE_EXIT_CODE = 71
ENGINE_DEAD_EXIT_CODE = 72
READ_BYTES = 4096
CHILDREN_SECONDS = 2.0


def die_with_server(fd: int) -> None:
    """Start the watch on `fd`; at its end everything below this process is killed and this process ends."""
    threading.Thread(target=_watch, args=(fd,), name="nightbatch-server-watch", daemon=True).start()


def _watch(fd: int) -> None:
    while os.read(fd, READ_BYTES):
        pass
    end_now(SERVER_GONE_EXIT_CODE)


_started: set[int] = set()


def remember(pids: Iterable[int]) -> None:
    """Children whose traces in shared memory are to be removed at the end, should they be gone by then."""
    _started.update(pids)


def end_now(exit_code: int) -> None:
    """Kill what this process started, but for resource trackers (they unlink the shared memory once its users are
    gone), and leave without clean-up of its own."""
    below = processes.alive(processes.tree_of(os.getpid(), "host")[1:])
    workers = [process for process in below if not processes.is_tracker(process)]
    for process in workers:
        processes.kill(process)
    psutil.wait_procs(workers, timeout=CHILDREN_SECONDS)
    processes.remove_openmp_marks({os.getpid(), *_started, *(process.pid for process in below)})
    os._exit(exit_code)
