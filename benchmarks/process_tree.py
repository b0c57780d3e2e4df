"""Memory and CPU of a server with all its worker processes, sampled from outside."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

SAMPLE_SECONDS = 0.05

ProcessKey = tuple[int, float]
"""Pid and start time: pids are used again."""


class TreeSampler:
    """Samples a process and its descendants from `start` to `stop` (or as a context manager).

    Resident memory is summed over the processes, so pages that they share count more than once: the figure is an upper
    bound. CPU seconds of a process that ended between two samples are counted up to the last sample that saw it.
    """

    def __init__(self, pid: int, *, sample_seconds: float = SAMPLE_SECONDS) -> None:
        self._root = psutil.Process(pid)
        self._sample_seconds = sample_seconds
        self._stopped = threading.Event()
        self._sampling = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="tree-sampler", daemon=True)
        self._cpu_seconds: dict[ProcessKey, float] = {}
        self._cpu_seconds_before: dict[ProcessKey, float] = {}
        self.rss_start_bytes = 0
        self.rss_peak_bytes = 0
        self.processes_peak = 0
        self.samples = 0

    def _sample(self) -> int:
        rss_bytes = 0
        processes = 0
        try:
            members = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        for process in members:
            try:
                with process.oneshot():
                    rss_bytes += process.memory_info().rss
                    times = process.cpu_times()
                    self._cpu_seconds[process.pid, process.create_time()] = times.user + times.system
                    processes += 1
            except psutil.NoSuchProcess:
                continue
        self.rss_peak_bytes = max(self.rss_peak_bytes, rss_bytes)
        self.processes_peak = max(self.processes_peak, processes)
        self.samples += 1
        return rss_bytes

    def _loop(self) -> None:
        while not self._stopped.wait(self._sample_seconds):
            with self._sampling:
                self._sample()

    def start(self) -> None:
        self.rss_start_bytes = self._sample()
        self.count_cpu_from_here()
        self._thread.start()

    def count_cpu_from_here(self) -> None:
        """Forget the CPU seconds used so far; memory still counts from `start`."""
        with self._sampling:
            self._sample()
            self._cpu_seconds_before = dict(self._cpu_seconds)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._sample()

    @property
    def cpu_seconds(self) -> float:
        """Seconds of CPU since `start` or `count_cpu_from_here`, of every process seen."""
        return sum(seconds - self._cpu_seconds_before.get(key, 0.0) for key, seconds in self._cpu_seconds.items())

    @property
    def rss_growth_bytes(self) -> int:
        return self.rss_peak_bytes - self.rss_start_bytes

    def __enter__(self) -> TreeSampler:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
