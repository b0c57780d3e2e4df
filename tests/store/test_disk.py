from __future__ import annotations

import os
from pathlib import Path

import pytest

from store.disk import MEASURED_FOR_SECONDS, Disk, free_bytes_of
from store.records import DiskFull
from store.settings import MIB, StoreSettings

RESERVE = 100 * MIB


class Room:
    """A disk whose free bytes and clock a test sets by hand."""

    def __init__(self, folder: Path) -> None:
        self.free = 1_000 * MIB
        self.clock = 0.0
        self.work = folder / "work"
        self.work.mkdir()
        self.disk = Disk(
            folder,
            StoreSettings(disk_reserve_bytes=RESERVE),
            free_bytes_of=lambda _folder: self.free,
            monotonic=lambda: self.clock,
        )

    def segment(self, size: int, name: str = "0-1.segment", batch: str = "batch-1") -> None:
        (self.work / batch).mkdir(exist_ok=True)
        with (self.work / batch / name).open("wb") as file:
            file.truncate(size)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_free_bytes_are_what_the_file_system_says(tmp_path: Path) -> None:
    free = free_bytes_of(tmp_path)
    stat = os.statvfs(tmp_path)
    assert 0 < free <= stat.f_blocks * stat.f_frsize


async def test_only_segments_of_running_batches_are_unfinalised(room: Room) -> None:
    assert await room.disk.unfinalised_bytes() == 0
    room.segment(5 * MIB)
    room.segment(7 * MIB, "1-3.segment", "batch-2")
    room.segment(900 * MIB, "order")
    assert await room.disk.unfinalised_bytes() == 12 * MIB


async def test_a_folder_without_work_has_nothing_unfinalised(tmp_path: Path) -> None:
    assert await Disk(tmp_path, StoreSettings()).unfinalised_bytes() == 0


async def test_an_upload_leaves_the_reserve_and_room_to_finalize(room: Room) -> None:
    await room.disk.room_for_upload(900 * MIB)
    room.free -= MIB
    with pytest.raises(DiskFull, match=r"no room for 900\.0 MiB .* 999\.0 MiB free, of which 100\.0 MiB are the res"):
        await room.disk.room_for_upload(900 * MIB)
    room.segment(400 * MIB)
    room.clock += MEASURED_FOR_SECONDS + 1
    with pytest.raises(DiskFull, match=r"400\.0 MiB are for the results of running batches"):
        await room.disk.room_for_upload(500 * MIB)
    await room.disk.room_for_upload(499 * MIB)


async def test_an_upload_that_asks_again_at_once_does_not_measure_again(room: Room) -> None:
    await room.disk.room_for_upload(1)
    room.segment(950 * MIB)
    await room.disk.room_for_upload(1)
    room.clock += MEASURED_FOR_SECONDS + 1
    with pytest.raises(DiskFull):
        await room.disk.room_for_upload(1)


def test_leasing_stops_below_the_reserve_and_what_is_unfinalised(room: Room) -> None:
    room.free = RESERVE + 50 * MIB
    assert not room.disk.below_reserve(50 * MIB)
    assert room.disk.below_reserve(50 * MIB + 1)
