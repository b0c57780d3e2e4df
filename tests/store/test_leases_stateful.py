"""Several holders, clocks that jump, processes that freeze and wake: the fence holds in every order of events."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from store.records import BatchStatus, Lease, RequestCounts, ShardRecord, ShardState
from tests.support.metadata import Metadata, done

BATCH = "batch-alice-0"
SHARDS = 3
LINES = 10
HOLDERS = st.sampled_from(["one", "two", "three"])
LEASE_SECONDS = 30.0


class LeaseMachine(RuleBasedStateMachine):
    """Each holder has a connection of its own, as processes have, and remembers leases that it may have lost."""

    def __init__(self, migrated: Path) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "nightbatch.sqlite3"
        shutil.copy(migrated, path)
        self.runner = asyncio.Runner()
        self.stores = {name: Metadata(path) for name in ("one", "two", "three")}
        self.runner.run(self.stores["one"].running(0, shards=SHARDS, lines=LINES))
        self.clock = 1_000.0
        self.remembered: list[Lease] = []
        self.holder_of: dict[tuple[int, int], str] = {}  # (shard_no, generation): the only holder it ever had
        self.recorded: dict[tuple[int, int], int] = {}  # (shard_no, generation): valid_bytes
        self.before: list[ShardRecord] = self._shards()
        self.running = True

    def _run(self, call):
        return self.runner.run(call)

    def _shards(self) -> list[ShardRecord]:
        return self._run(self.stores["one"].work.shards(BATCH))

    def _is_current(self, lease: Lease) -> bool:
        shard = self._shards()[lease.shard.shard_no]
        return (shard.state, shard.generation, shard.holder) == (ShardState.LEASED, lease.generation, lease.holder)

    @rule(seconds=st.sampled_from([0.5, 14.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock += seconds

    @rule(holder=HOLDERS, shard_no=st.integers(0, SHARDS - 1), lag=st.integers(0, 1), valid_bytes=st.integers(0, 999))
    def take(self, holder: str, shard_no: int, lag: int, valid_bytes: int) -> None:
        """With a generation as just read, or (lag) as read before somebody else was faster."""
        shard = self._shards()[shard_no]
        expected = max(shard.generation - lag, 0)
        lease = self._run(
            self.stores[holder].work.lease(
                BATCH,
                shard_no,
                holder=holder,
                expected_generation=expected,
                valid_bytes=valid_bytes,
                now=self.clock,
                lease_seconds=LEASE_SECONDS,
            )
        )
        free = shard.state is ShardState.READY or (
            shard.state is ShardState.LEASED and shard.lease_expires_at <= self.clock
        )
        assert (lease is not None) is (self.running and free and expected == shard.generation)
        if lease is not None:
            key = (shard_no, lease.generation)
            assert key not in self.holder_of
            self.holder_of[key] = holder
            if expected > 0:
                assert (shard_no, expected) not in self.recorded
                self.recorded[(shard_no, expected)] = valid_bytes
            assert [ref.generation for ref in lease.earlier] == list(range(1, lease.generation))
            self.remembered.append(lease)

    @rule(holder=HOLDERS)
    def renew(self, holder: str) -> None:
        live = {
            (BATCH, shard.shard_no, shard.generation)
            for shard in self._shards()
            if shard.holder == holder and shard.lease_expires_at > self.clock
        }
        expires_at = self.clock + LEASE_SECONDS
        assert self._run(self.stores[holder].work.renew(holder, now=self.clock, expires_at=expires_at)) == live

    @rule(data=st.data(), completed=st.integers(0, LINES))
    def report(self, data: st.DataObject, completed: int) -> None:
        if self.remembered:
            lease = data.draw(st.sampled_from(self.remembered))
            shard_no, current, before = lease.shard.shard_no, self._is_current(lease), self._shards()
            self._run(
                self.stores[lease.holder].work.report([done(BATCH, shard_no, lease.generation, completed=completed)])
            )
            after = self._shards()[shard_no]
            assert after.completed == (completed if current else before[shard_no].completed)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.remembered:
            lease = data.draw(st.sampled_from(self.remembered))
            current = self._is_current(lease)
            assert self._run(self.stores[lease.holder].work.release(lease)) is current

    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        if self.remembered:
            lease = data.draw(st.sampled_from(self.remembered))
            current = self._is_current(lease)
            progress = done(BATCH, lease.shard.shard_no, lease.generation, completed=LINES)
            assert self._run(self.stores[lease.holder].work.seal(lease, progress)) is current

    @rule(holder=HOLDERS)
    def reclaim(self, holder: str) -> None:
        expired = [s for s in self._shards() if s.state is ShardState.LEASED and s.lease_expires_at <= self.clock]
        assert self._run(self.stores[holder].work.reclaim(now=self.clock)) == len(expired)

    @rule()
    def cancel(self) -> None:
        """Once, late: afterwards nothing is leased any more, what is held may still be renewed and sealed."""
        if self.running and len(self.remembered) > 6:
            self.running = False
            in_progress = {BatchStatus.IN_PROGRESS}
            self._run(self.stores["two"].batches.move(BATCH, expected=in_progress, to=BatchStatus.CANCELLING, at=1_500))

    @invariant()
    def the_fence_holds(self) -> None:
        self.generations_only_rise_and_a_seal_is_for_good()
        self.what_was_recorded_as_valid_never_changes()
        self.the_batch_counts_what_its_shards_count()

    def generations_only_rise_and_a_seal_is_for_good(self) -> None:
        after = self._shards()
        for old, new in zip(self.before, after, strict=True):
            assert old.generation <= new.generation <= old.generation + 1
            if old.state is ShardState.SEALED:
                assert new == old
            if new.state is ShardState.LEASED:
                assert new.holder == self.holder_of[(new.shard_no, new.generation)]
        self.before = after

    def what_was_recorded_as_valid_never_changes(self) -> None:
        found = self._run(self.stores["three"].work.segments(BATCH))
        recorded = {(ref.shard_no, ref.generation): ref.valid_bytes for ref in found if ref.valid_bytes is not None}
        assert recorded == self.recorded
        newest = {(ref.shard_no, ref.generation) for ref in found if ref.valid_bytes is None}
        assert newest == {(shard.shard_no, shard.generation) for shard in self.before if shard.generation > 0}

    def the_batch_counts_what_its_shards_count(self) -> None:
        batch = self._run(self.stores["one"].batches.get("alice", BATCH))
        completed = sum(shard.completed for shard in self.before)
        assert batch.counts == RequestCounts(SHARDS * LINES, completed, 0)
        assert batch.usage.output_tokens == sum(shard.usage.output_tokens for shard in self.before)

    def teardown(self) -> None:
        for store in self.stores.values():
            self._run(store.close())
        self.runner.close()
        self.folder.cleanup()


def test_the_fence_holds_in_every_order_of_events(migrated: Path) -> None:
    run_state_machine_as_test(
        lambda: LeaseMachine(migrated),
        settings=settings(
            max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


async def test_of_many_that_reach_for_a_shard_at_once_one_gets_it(migrated: Path, tmp_path: Path) -> None:
    path = tmp_path / "nightbatch.sqlite3"
    shutil.copy(migrated, path)
    stores = [Metadata(path) for _ in range(4)]
    await stores[0].running(0, shards=1)
    for generation in range(5):
        now = 1_000.0 + 100 * generation
        leases = await asyncio.gather(
            *(
                store.work.lease(
                    BATCH,
                    0,
                    holder=f"{number}",
                    expected_generation=generation,
                    valid_bytes=number,
                    now=now,
                    lease_seconds=LEASE_SECONDS,
                )
                for number, store in enumerate(stores)
            )
        )
        (won,) = [lease for lease in leases if lease is not None]
        assert won.generation == generation + 1
        if generation > 0:
            assert won.earlier[-1].valid_bytes == int(won.holder)
    for store in stores:
        await store.close()
