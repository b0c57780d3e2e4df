"""The index workers of a server: started when needed, kept, replaced when they die.

Every upload that is indexed is one job of one worker, the one with the fewest. A worker's death fails its jobs with
`WorkerDied`; whoever owns a job may give it to another worker from the start, for the bytes are on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from pathlib import Path
from typing import Final

import msgspec
import psutil

from store.durable import disk_full
from store.index_jobs import FRAME_BYTES_MAX, AbortJob, Answer, BeginJob, EndJob, GrowJob, Indexed, Order, PaceWork
from store.records import DiskFull, InputSummary, StoreError
from store.settings import StoreSettings

STOP_SECONDS: Final = 5.0
"""How long a worker may take to see that its stdin ended; then it is killed."""


ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""numpy's libraries would start a thread for each core as they load; a worker multiplies no matrices."""


class WorkerDied(StoreError):
    """The process that indexed an upload ended before it was done."""


class IndexPool:
    """At most `index_workers_max` worker processes. Lives on one event loop; close it."""

    def __init__(self, settings: StoreSettings, secret: bytes) -> None:
        self._settings = settings
        self._secret = secret
        self._workers: list[_Worker] = []
        self._starting = asyncio.Lock()
        self._jobs = itertools.count(1)
        self._yielding = False

    async def begin(self, blob_path: Path, index_path: Path) -> IndexJob:
        """A job for a file that may still be empty."""
        worker = await self._least_busy()
        order = BeginJob(
            job=next(self._jobs),
            blob_path=os.fsencode(blob_path),
            index_path=os.fsencode(index_path),
            secret=self._secret,
            line_bytes_max=self._settings.line_bytes_max,
            lines_max=self._settings.lines_max,
            line_errors_shown_max=self._settings.line_errors_shown_max,
        )
        return worker.begin(order)

    async def prepare(self) -> None:
        """Have a worker before the first upload comes: starting one takes longer than indexing a small file."""
        await self._least_busy()

    def pids(self) -> list[int]:
        """The live workers' process ids."""
        return [worker.pid for worker in self._workers if worker.alive]

    def yield_to_online(self, present: bool) -> None:
        """Index slowly, and let others to the disk first, while somebody waits for an online answer."""
        self._yielding = present
        for worker in self._workers:
            self._pace(worker)

    async def close(self) -> None:
        """End the workers; jobs that are not done fail."""
        workers, self._workers = self._workers, []
        await asyncio.gather(*(worker.stop() for worker in workers))

    async def _least_busy(self) -> _Worker:
        async with self._starting:
            gone = [worker for worker in self._workers if not worker.alive]
            self._workers = [worker for worker in self._workers if worker.alive]
            for worker in gone:
                await worker.stop()
            idle = min(self._workers, key=lambda worker: worker.jobs, default=None)
            if idle is not None and (idle.jobs == 0 or len(self._workers) >= self._settings.index_workers_max):
                return idle
            worker = await _Worker.start()
            self._workers.append(worker)
            if self._yielding:
                self._pace(worker)
            return worker

    def _pace(self, worker: _Worker) -> None:
        """Each worker gets the whole rate: uploads are slowed down together as they come, and only what they left to
        index is slowed down here."""
        rate = self._settings.intake_bytes_per_s_online if self._yielding else None
        worker.pace(rate, disk_last=self._yielding)


class IndexJob:
    """One file being indexed. Say how it grows, then `end` or `abort`."""

    def __init__(self, worker: _Worker, job: int, answered: asyncio.Future[Answer]) -> None:
        self._worker = worker
        self._job = job
        self._answered = answered

    def grow(self, size: int) -> None:
        """The file has at least `size` bytes. Never waits; a job that failed meanwhile says so at `end`."""
        self._worker.send(GrowJob(self._job, size))

    async def end(self, size: int) -> InputSummary:
        """The index is durable under its path. DiskFull, WorkerDied or StoreError when it is not."""
        self._worker.send(EndJob(self._job, size))
        answer = await self._answered
        if isinstance(answer, Indexed):
            return answer.summary
        if answer.errno is not None and disk_full(OSError(answer.errno, "")):
            raise DiskFull(f"no room for the index of an upload: {os.strerror(answer.errno)}")
        raise StoreError(f"an upload could not be indexed: {answer.message}")

    def abort(self) -> None:
        self._worker.abort(self._job)


class _Worker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._ended = False
        self._reading = asyncio.create_task(self._read_answers())

    @classmethod
    async def start(cls) -> _Worker:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "store.index_worker", str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=FRAME_BYTES_MAX,
            env={**os.environ, **ONE_THREAD},
            start_new_session=True,  # a Ctrl-C for the server is not one for the upload that it is finishing
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._ended

    @property
    def jobs(self) -> int:
        return len(self._answers)

    def begin(self, order: BeginJob) -> IndexJob:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answered.add_done_callback(_seen)
        self._answers[order.job] = answered
        self.send(order)
        return IndexJob(self, order.job, answered)

    def send(self, order: Order) -> None:
        """Orders are small and few (one a megabyte): the pipe's buffer takes them without waiting."""
        stdin = self._process.stdin
        assert stdin is not None
        if not self._ended and not stdin.is_closing():
            stdin.write(msgspec.json.encode(order) + b"\n")

    def pace(self, bytes_per_s: float | None, *, disk_last: bool) -> None:
        self.send(PaceWork(bytes_per_s))
        if not self._ended:
            _queue_for_disk(self._process.pid, last=disk_last)

    def abort(self, job: int) -> None:
        answered = self._answers.pop(job, None)
        if answered is not None:
            answered.cancel()
            self.send(AbortJob(job))

    async def stop(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):  # `wait_for` can lose a cancellation on Python 3.11
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await stdin.wait_closed()

    async def _read_answers(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        decode = msgspec.json.Decoder(Answer).decode
        try:
            while line := await stdout.readline():
                answer = decode(line)
                answered = self._answers.pop(answer.job, None)
                if answered is not None and not answered.done():
                    answered.set_result(answer)
        except BaseException:
            self._process.kill()  # it can no longer be understood, and nothing else would end it
            raise
        finally:
            self._ended = True
            await self._fail_jobs()

    async def _fail_jobs(self) -> None:
        status = await self._process.wait()
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        failed, self._answers = self._answers, {}
        for answered in failed.values():
            if not answered.done():
                answered.set_exception(WorkerDied(f"the index worker ended ({how}) before the upload was indexed"))


def _queue_for_disk(pid: int, *, last: bool) -> None:
    """In the idle class, or as everyone. Disk schedulers without classes ignore it, some kernels refuse it."""
    with contextlib.suppress(psutil.Error, OSError):
        psutil.Process(pid).ionice(psutil.IOPRIO_CLASS_IDLE if last else psutil.IOPRIO_CLASS_NONE)


def _seen(answered: asyncio.Future[Answer]) -> None:
    """The failure of a job whose upload was given up needs no one to look at it."""
    if not answered.cancelled():
        answered.exception()
