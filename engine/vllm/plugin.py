"""What vLLM loads into each of its processes: the thread that ends a child whose parent is gone.

Registered as a `vllm.general_plugins` entry point, so it also runs in a plain vLLM on the same machine: it does nothing
unless our host marked the environment.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading

from engine.processes import remove_openmp_marks

ENGINE_MARK = "NIGHTBATCH_ENGINE"
"""Set by the server for the host and inherited by its children: `<data folder>/engines:<engine name>`."""

ORPHANED_EXIT_CODE = 70


def register() -> None:
    """Called once in every vLLM process: host, EngineCore, Worker.

    No `setsid` here: the three share the host's session, which no terminal owns, so Ctrl-C reaches none of them. A
    session of its own for each would cost half the speed: Linux shares CPU time between sessions first (autogroup), and
    EngineCore, which spins with sched_yield while it waits for the Worker, would yield to nobody.
    """
    if ENGINE_MARK not in os.environ:
        return
    parent = multiprocessing.parent_process()
    if parent is None:  # the host itself: it watches the server, not a parent
        return
    threading.Thread(target=_end_with, args=(parent.sentinel,), name="nightbatch-parent-watch", daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process at once when its parent does. No clean-up: shared memory belongs to multiprocessing's resource
    tracker, which removes it when the last holder of its pipe is gone."""
    parent = os.getppid()
    multiprocessing.connection.wait([sentinel])
    remove_openmp_marks([os.getpid(), parent])
    os._exit(ORPHANED_EXIT_CODE)
