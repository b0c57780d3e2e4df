"""The cache of answers: bounded, checked, and never anybody's trouble."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from store.kept import Kept
from store.kept_answers import ANSWER_BYTES_MAX, REST_SECONDS, ROW_BYTES, USED_SECONDS, KeptAnswers
from store.records import BatchRecord, BatchStatus, KeptAnswer, OnDeadline, Reuse

Make = Callable[..., KeptAnswers]
DAY = 86_400


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def an_answer(number: int, *, size: int = 100) -> KeptAnswer:
    return KeptAnswer(key(number), 200, (b"%d " % number).ljust(size, b"x"))


@pytest.fixture
def clock() -> list[float]:
    """The wall clock, and the monotonic one."""
    return [1_000_000.0, 50.0]


@pytest.fixture
def make(tmp_path: Path, clock: list[float]) -> Iterator[Make]:
    made: list[KeptAnswers] = []

    def make(**changed: Any) -> KeptAnswers:
        wanted: dict[str, Any] = {"bytes_max": 1_000_000, "kept_seconds": 10 * DAY, "has_room": lambda: True, **changed}
        kept = KeptAnswers(
            tmp_path / "reuse" / "answers.sqlite3", now=lambda: clock[0], monotonic=lambda: clock[1], **wanted
        )
        made.append(kept)
        return kept

    yield make
    for kept in made:
        kept.close()


def test_an_answer_is_found_by_its_key_and_after_a_restart(make: Make) -> None:
    kept = make()
    assert kept.keep([an_answer(1), an_answer(2, size=7)]) == 2
    assert kept.known([key(2), key(3)]) == {key(2): 7}
    kept.close()
    assert make().read([key(1), key(3), key(1)]) == {key(1): an_answer(1)}


def test_no_file_is_made_before_something_is_kept_or_asked_for(make: Make) -> None:
    kept = make()
    kept.trim()
    kept.keep([])
    assert not kept.path.parent.exists()


def test_the_first_answer_stays(make: Make) -> None:
    kept = make()
    kept.keep([an_answer(1)])
    assert kept.keep([KeptAnswer(key(1), 200, b"another")]) == 0
    assert kept.read([key(1)]) == {key(1): an_answer(1)}


def test_more_keys_than_one_query_takes_are_found(make: Make) -> None:
    kept = make()
    kept.keep([an_answer(number) for number in range(1000)])
    assert len(kept.read(map(key, range(1200)))) == 1000


def test_at_its_limit_the_longest_unused_go(make: Make, clock: list[float]) -> None:
    kept = make(bytes_max=10 * (100 + ROW_BYTES))
    for number in range(10):
        clock[0] += USED_SECONDS + 1
        kept.keep([an_answer(number)])
    clock[0] += USED_SECONDS + 1
    kept.read([key(0)])
    kept.keep([an_answer(10), an_answer(11)])
    assert sorted(kept.known(map(key, range(20)))) == [key(0), *map(key, range(3, 12))]


def test_the_limit_holds_over_restarts(make: Make) -> None:
    for start in range(0, 100, 10):
        kept = make(bytes_max=25 * (100 + ROW_BYTES))
        kept.keep([an_answer(number) for number in range(start, start + 10)])
        assert len(kept.known(map(key, range(100)))) <= 25
        kept.close()


def test_an_answer_larger_than_may_be_kept_is_left_out(make: Make) -> None:
    assert make(bytes_max=50).keep([an_answer(1)]) == 0
    assert make().keep([an_answer(1, size=ANSWER_BYTES_MAX + 1)]) == 0


def test_what_is_not_used_for_long_is_forgotten_and_what_is_used_stays(make: Make, clock: list[float]) -> None:
    kept = make()
    kept.keep([an_answer(number) for number in range(2500)])
    clock[0] += 9 * DAY
    assert len(kept.read([key(7)])) == 1
    clock[0] += 2 * DAY
    assert list(kept.known(map(key, range(2500)))) == [key(7)]
    assert kept.read([key(8)]) == {}
    assert kept.trim() == 2499
    assert kept.read([key(7)]) == {key(7): an_answer(7)}


def test_without_room_on_the_disk_nothing_is_added(make: Make) -> None:
    kept = make(has_room=lambda: False)
    assert kept.keep([an_answer(1)]) == 0
    assert kept.read([key(1)]) == {}


@pytest.mark.parametrize("change", ["UPDATE bodies SET body = 'other'", "UPDATE answers SET status = 404"])
def test_an_answer_that_fails_its_checksum_is_none_and_makes_way_for_another(make: Make, change: str) -> None:
    kept = make()
    kept.keep([an_answer(1), an_answer(2)])
    kept.close()
    with sqlite3.connect(kept.path) as connection:
        connection.execute(f"{change} WHERE id = 1")
    connection.close()
    kept = make()
    assert kept.read([key(1), key(2)]) == {key(2): an_answer(2)}
    assert kept.keep([an_answer(1)]) == 1
    assert kept.read([key(1)]) == {key(1): an_answer(1)}


def test_a_damaged_file_is_begun_anew_when_it_has_rested(make: Make, clock: list[float]) -> None:
    kept = make()
    kept.keep([an_answer(1)])
    kept.close()
    kept.path.write_bytes(b"no database at all" * 1000)
    kept = make()
    assert kept.read([key(1)]) == {}
    assert kept.keep([an_answer(2)]) == 0
    clock[1] += REST_SECONDS
    assert kept.keep([an_answer(2)]) == 1
    assert kept.read([key(1), key(2)]) == {key(2): an_answer(2)}


def test_a_file_of_another_format_is_begun_anew(make: Make) -> None:
    kept = make()
    kept.keep([an_answer(1)])
    kept.close()
    connection = sqlite3.connect(kept.path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    kept = make()
    assert kept.read([key(1)]) == {}
    assert kept.keep([an_answer(1)]) == 1


def test_a_folder_that_cannot_be_written_is_nobodys_trouble(make: Make, tmp_path: Path) -> None:
    (tmp_path / "reuse").write_text("a file in its place")
    kept = make()
    assert kept.keep([an_answer(1)]) == 0
    assert kept.read([key(1)]) == {}
    assert kept.trim() == 0


def test_once_closed_it_finds_and_keeps_nothing(make: Make) -> None:
    kept = make()
    kept.keep([an_answer(1)])
    kept.close()
    assert (kept.read([key(1)]), kept.known([key(1)]), kept.keep([an_answer(2)])) == ({}, {}, 0)


def test_whatever_happens_an_answer_that_is_found_is_the_one_that_was_kept(make: Make, clock: list[float]) -> None:
    chance = random.Random(5)
    kept = make(bytes_max=5_000)
    kept.keep([an_answer(0)])
    for _ in range(150):
        match chance.randrange(6):
            case 0 | 1 | 2:
                kept.keep([an_answer(chance.randrange(60), size=chance.randrange(10, 200)) for _ in range(5)])
            case 3 | 4:
                for found in kept.read(map(key, range(60))).values():
                    assert found.body.split()[0] == b"%d" % int.from_bytes(found.key, "big")
            case _:
                clock[0] += chance.randrange(DAY)
                kept.trim()
                if chance.random() < 0.2:
                    kept.close()
                    kept = make(bytes_max=5_000)
        with sqlite3.connect(f"file:{kept.path}?mode=ro", uri=True) as connection:
            (size,) = connection.execute("SELECT coalesce(sum(size), 0) FROM answers").fetchone()
        connection.close()
        assert size <= 5_000


def a_kept(folder: Path) -> Kept:
    return Kept(folder, bytes(32), bytes_max=1000, kept_seconds=10.0, has_room=lambda: True, now=lambda: 0.0)


def batch_of(tenant: str, batch_id: str, reuse: Reuse) -> BatchRecord:
    return BatchRecord(
        batch_id, tenant, "/v1/x", "file", "24h", BatchStatus.IN_PROGRESS, 0, 1, OnDeadline.EXPIRE, {}, reuse=reuse
    )


def test_a_key_is_shared_within_a_tenant_or_within_a_batch_and_never_beyond(tmp_path: Path) -> None:
    kept = a_kept(tmp_path)
    first, second, other = (
        kept.hasher(batch_of(tenant, batch_id, Reuse.SERVER), "m", "r", "/v1/x").digest()
        for tenant, batch_id in (("a", "1"), ("a", "2"), ("b", "3"))
    )
    assert first == second != other
    own = {
        kept.hasher(batch_of("a", batch_id, Reuse.BATCH), "m", "r", "/v1/x").digest() for batch_id in ("1", "2", "3")
    }
    assert len(own | {first}) == 4
    assert kept.hasher(batch_of("a", "1", Reuse.SERVER), "m", "r2", "/v1/x").digest() != first


def test_a_batch_that_shares_nothing_has_no_file(tmp_path: Path) -> None:
    kept = a_kept(tmp_path)
    assert kept.of(batch_of("a", "1", Reuse.OFF)) is None
    own = kept.of(batch_of("a", "1", Reuse.BATCH))
    assert own is kept.of(batch_of("a", "1", Reuse.BATCH))
    assert own is not kept.of(batch_of("a", "2", Reuse.BATCH))
    assert kept.of(batch_of("a", "1", Reuse.SERVER)) is kept.of(batch_of("b", "2", Reuse.SERVER))
    assert kept.take_away("1") is own
    assert kept.take_away("1") is None
    assert not list(tmp_path.iterdir())
