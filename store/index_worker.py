"""The index worker: a process that indexes uploads while they grow, away from the server's event loop and its GIL.

Run as `python -P -m store.index_worker PARENT_PID`. It takes orders on stdin and works on several uploads in turn, a
step at a time, so that a slow upload holds up no other. It never outlives the server: the end of stdin or of the parent
process ends it at once, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from store.allocator import keep_freed_memory
from store.index_builder import IndexBuilder, IndexLimits
from store.index_jobs import AbortJob, Answer, BeginJob, GrowJob, Indexed, JobOrder, NotIndexed, Order, PaceWork
from store.pacing import Pace

NICENESS: Final = 10
NESTING_MAX: Final = 300
"""How deep Python may recurse here: well below what the server can, so that a line accepted here opens there."""

_READ_BYTES: Final = 64 * 1024


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the server ends us when it is done
    _stand_back()
    keep_freed_memory()
    sys.setrecursionlimit(NESTING_MAX)
    orders: queue.SimpleQueue[JobOrder] = queue.SimpleQueue()
    pace = Pace()
    parent_pid = int(sys.argv[1])
    threading.Thread(target=_receive, args=(orders, pace, parent_pid), name="orders", daemon=True).start()
    work = _Work(pace)
    while True:
        work.obey(orders.get())


def _stand_back() -> None:
    """Leave the cores to the engine's processes. They are a session of their own as this worker is, and Linux shares
    CPU time between sessions before it looks at who is nice in them (`autogroup` in sched(7)): the session must be nice
    too. Where the file or the setting is missing, as in many containers, `nice` alone counts."""
    os.nice(NICENESS)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICENESS), encoding="ascii")


def _receive(orders: queue.SimpleQueue[JobOrder], pace: Pace, parent_pid: int) -> None:
    """Pass orders on until there is no server any more, then end the process. A new pace holds at once: it must not
    wait behind the work that it is to slow down."""
    decode = msgspec.json.Decoder(Order).decode
    try:
        poll = _poll_server(parent_pid)
        tail = b""
        while True:
            if any(fd != 0 for fd, _ in poll.poll()):
                break
            data = os.read(0, _READ_BYTES)
            if not data:
                break
            *whole, tail = (tail + data).split(b"\n")
            for order in map(decode, whole):
                if isinstance(order, PaceWork):
                    pace.limit(order.bytes_per_s)
                else:
                    orders.put(order)
    finally:
        os._exit(0)


def _poll_server(parent_pid: int) -> select.poll:
    """Watches stdin and the parent itself: another child of the server could hold the other end of our stdin open."""
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    with contextlib.suppress(OSError):  # no pidfd on this kernel: the end of stdin has to do
        poll.register(os.pidfd_open(parent_pid), select.POLLIN)
    if os.getppid() != parent_pid:
        os._exit(0)
    return poll


class _Work:
    """The uploads being indexed. A job that failed is answered at once; what is said about it later is ignored."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._builders: dict[int, IndexBuilder] = {}

    def obey(self, order: JobOrder) -> None:
        try:
            if isinstance(order, BeginJob):
                self._builders[order.job] = _builder(order, self._pace)
            elif order.job in self._builders:
                self._go_on(order)
        except Exception as error:  # noqa: BLE001 (a worker has other uploads to index: the upload's owner is told)
            self._close(order.job)
            code = error.errno if isinstance(error, OSError) else None
            _answer(NotIndexed(order.job, f"{type(error).__name__}: {error}", code))

    def _go_on(self, order: JobOrder) -> None:
        builder = self._builders[order.job]
        if isinstance(order, GrowJob):
            builder.feed(order.size)
        elif isinstance(order, AbortJob):
            if (given_up := self._builders.pop(order.job, None)) is not None:
                given_up.discard()
        elif not isinstance(order, BeginJob):
            summary = builder.finish(order.size)
            self._close(order.job)
            _answer(Indexed(order.job, summary))

    def _close(self, job: int) -> None:
        builder = self._builders.pop(job, None)
        if builder is not None:
            builder.close()


def _builder(order: BeginJob, pace: Pace) -> IndexBuilder:
    limits = IndexLimits(order.line_bytes_max, order.lines_max, order.line_errors_shown_max)
    blob_path, index_path = (Path(os.fsdecode(path)) for path in (order.blob_path, order.index_path))
    return IndexBuilder(blob_path, index_path, order.secret, limits, before_bytes=pace.take)


def _answer(answer: Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
