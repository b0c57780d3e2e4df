"""Whatever is asked of a batch in whatever order, its status moves along BATCH_EDGES and nowhere else."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from store.records import BATCH_EDGES, BatchRecord, BatchStatus, LineError, RequestCounts, TokenUsage
from tests.support.metadata import Metadata, cut

STATUSES = st.sampled_from(list(BatchStatus))
BATCHES = st.sampled_from(["batch-alice-0", "batch-alice-1"])
LINES = 20


class BatchMachine(RuleBasedStateMachine):
    """Two batches, so that a change of one that touches the other shows. The model is what is read back."""

    def __init__(self, migrated: Path) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "nightbatch.sqlite3"
        shutil.copy(migrated, path)
        self.runner = asyncio.Runner()
        self.metadata = self.runner.run(self._open(path))
        self.last = {batch.id: batch for batch in self._read()}
        self.clock = 1_001
        self.outputs = 0

    async def _open(self, path: Path) -> Metadata:
        metadata = Metadata(path)
        for number in (0, 1):
            await metadata.batch(number)
        return metadata

    def _read(self) -> list[BatchRecord]:
        async def read() -> list[BatchRecord]:
            return list((await self.metadata.batches.list("alice", after=None, limit=10)).data)

        return self.runner.run(read())

    def _at(self) -> int:
        self.clock += 1
        return self.clock

    def _moved(self, batch_id: str, record: BatchRecord | None, expected: set[BatchStatus], to: BatchStatus) -> None:
        before = self.last[batch_id]
        if before.status in expected:
            assert record is not None
            assert record.status is to
            assert getattr(record, f"{to.value}_at") == self.clock
        else:
            assert record is None

    @rule(batch_id=BATCHES, expected=st.sets(STATUSES, max_size=3), to=STATUSES)
    def move(self, batch_id: str, expected: set[BatchStatus], to: BatchStatus) -> None:
        move = self.metadata.batches.move(batch_id, expected=expected, to=to, at=self._at())
        if not expected or any(to not in BATCH_EDGES.get(status, ()) for status in expected):
            try:
                self.runner.run(move)
            except ValueError:
                return
            raise AssertionError(f"{expected} to {to} was taken for an edge")
        self._moved(batch_id, self.runner.run(move), expected, to)

    @rule(batch_id=BATCHES, data=st.data())
    def move_along_an_edge(self, batch_id: str, data: st.DataObject) -> None:
        before = self.last[batch_id].status
        if following := sorted(BATCH_EDGES.get(before, ())):
            to = data.draw(st.sampled_from(following))
            moved = self.runner.run(self.metadata.batches.move(batch_id, expected={before}, to=to, at=self._at()))
            self._moved(batch_id, moved, {before}, to)

    @rule(batch_id=BATCHES)
    def admit(self, batch_id: str) -> None:
        admitted = self.runner.run(
            self.metadata.work.admit(batch_id, shards=cut(2, LINES // 2), total=LINES, at=self._at())
        )
        assert admitted is (self.last[batch_id].status is BatchStatus.VALIDATING)

    @rule(batch_id=BATCHES)
    def fail(self, batch_id: str) -> None:
        failed = self.runner.run(
            self.metadata.batches.fail(
                batch_id, errors=[LineError("empty_file", "nothing in it")], errors_total=1, at=self._at()
            )
        )
        self._moved(batch_id, failed, set(BATCH_EDGES), BatchStatus.FAILED)

    @rule(batch_id=BATCHES, to=st.sampled_from([BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED]))
    def finish(self, batch_id: str, to: BatchStatus) -> None:
        expected = {status for status, following in BATCH_EDGES.items() if to in following}
        self.outputs += 1
        output = self.metadata.output(self.outputs)
        finished = self.runner.run(
            self.metadata.work.finish(
                batch_id,
                expected=expected,
                to=to,
                at=self._at(),
                output=output,
                error=None,
                counts=RequestCounts(LINES, 3, 1),
                usage=TokenUsage(1, 2, 3),
            )
        )
        self._moved(batch_id, finished, expected, to)
        stored = self.runner.run(self.metadata.files.get("alice", output.id))
        assert (stored is None) is (finished is None)

    @rule(batch_id=BATCHES)
    def pause(self, batch_id: str) -> None:
        self.runner.run(self.metadata.batches.pause(batch_id, reason="no engine", at=self._at()))

    @rule(batch_id=BATCHES)
    def resume(self, batch_id: str) -> None:
        self.runner.run(self.metadata.batches.resume(batch_id))

    @rule(batch_id=BATCHES)
    def miss_deadline(self, batch_id: str) -> None:
        self.runner.run(self.metadata.batches.miss_deadline(batch_id, at=self._at()))

    @invariant()
    def statuses_moved_along_one_edge_or_not_at_all(self) -> None:
        for batch in self._read():
            before = self.last[batch.id]
            assert batch.status is before.status or batch.status in BATCH_EDGES[before.status]
            if before.status.terminal:
                assert batch == before
            if batch.paused_at is not None:
                assert batch.status is BatchStatus.IN_PROGRESS
            if before.deadline_missed_at is not None:
                assert batch.deadline_missed_at == before.deadline_missed_at
            shards = self.runner.run(self.metadata.work.shards(batch.id))
            assert not (batch.status.terminal and shards)
            self.last[batch.id] = batch
        active = [batch.id for batch in self.runner.run(self.metadata.batches.active())]
        assert active == [id_ for id_, batch in sorted(self.last.items()) if not batch.status.terminal]

    def teardown(self) -> None:
        self.runner.run(self.metadata.close())
        self.runner.close()
        self.folder.cleanup()


def test_a_batch_moves_along_its_edges_only(migrated: Path) -> None:
    run_state_machine_as_test(
        lambda: BatchMachine(migrated),
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
