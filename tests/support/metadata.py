"""The repositories on a real database on disk, and short ways to put things into them."""

from __future__ import annotations

from pathlib import Path

from store.batches import Batches
from store.files import Files
from store.records import (
    BatchRecord,
    FileRecord,
    NewBatch,
    NewShard,
    OnDeadline,
    PinnedModel,
    ShardProgress,
    TokenUsage,
)
from store.settings import StoreSettings
from store.sqlite import Database
from store.work import Work


class Metadata:
    """The three repositories on one database, with a clock that tests turn by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = 1_000.0
        self.database = Database(path, StoreSettings(readers_max=4))
        self.files = Files(self.database, lambda: self.clock)
        self.batches = Batches(self.database)
        self.work = Work(self.database, lambda: self.clock)

    async def file(self, number: int = 0, *, tenant: str = "alice", **changed: object) -> FileRecord:
        values: dict[str, object] = {
            "id": f"file-{tenant}-{number}",
            "tenant": tenant,
            "purpose": "batch",
            "filename": f"{number}.jsonl",
            "bytes": 100,
            "created_at": 900,
            "expires_at": None,
            "blob": f"{tenant}-{number}",
        }
        record = FileRecord(**(values | changed))  # type: ignore[arg-type]
        await self.files.insert(record)
        return record

    async def batch(
        self, number: int = 0, *, tenant: str = "alice", on_deadline: OnDeadline = OnDeadline.EXPIRE
    ) -> BatchRecord:
        """A batch `validating`, on an input file of its own."""
        file = await self.file(number + 10_000, tenant=tenant)
        return await self.batch_on(file.id, number, tenant=tenant, on_deadline=on_deadline)

    async def batch_on(
        self, file_id: str, number: int = 0, *, tenant: str = "alice", on_deadline: OnDeadline = OnDeadline.EXPIRE
    ) -> BatchRecord:
        return await self.batches.create(
            NewBatch(
                id=f"batch-{tenant}-{number}",
                tenant=tenant,
                endpoint="/v1/chat/completions",
                input_file_id=file_id,
                completion_window="24h",
                created_at=1_000,
                expires_at=2_000,
                on_deadline=on_deadline,
                models={"small": PinnedModel("small", "r1")},
                metadata={"team": "search"},
            )
        )

    async def running(self, number: int = 0, *, shards: int = 2, lines: int = 10, tenant: str = "alice") -> BatchRecord:
        """A batch `in_progress`, cut into `shards` of `lines` lines each."""
        batch = await self.batch(number, tenant=tenant)
        assert await self.work.admit(batch.id, shards=cut(shards, lines), total=shards * lines, at=1_001)
        found = await self.batches.get(tenant, batch.id)
        assert found is not None
        return found

    def output(self, number: int, *, tenant: str = "alice") -> FileRecord:
        """What finishing a batch stores; nothing is inserted here."""
        name = f"output-{number}"
        return FileRecord(f"file-{name}", tenant, "batch_output", f"{name}.jsonl", 50, 1_200, None, name)

    async def close(self) -> None:
        await self.database.close()


def cut(shards: int, lines: int) -> list[NewShard]:
    return [NewShard(number, number * lines, (number + 1) * lines, "small", "r1") for number in range(shards)]


def done(batch_id: str, shard_no: int, generation: int, *, completed: int = 10, failed: int = 0) -> ShardProgress:
    return ShardProgress(batch_id, shard_no, generation, completed, failed, TokenUsage(7, 3, 5))
