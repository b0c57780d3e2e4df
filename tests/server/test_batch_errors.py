"""Every error of a batch, page by page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from store.records import BatchRecord, FileRecord, LineError
from tests.server.houses import House
from tests.server.test_batches import create

LINES = 25


def error_line(no: int, **error: Any) -> bytes:
    told = {"code": "invalid_json_line", "message": f"wrong {no}", "param": None, "line": no + 1, **error}
    return (
        json.dumps({"id": f"batch_req_{no}", "custom_id": f"c{no}", "response": None, "error": told}).encode() + b"\n"
    )


async def failed(house: House, lines: list[bytes] | None = None) -> BatchRecord:
    """A batch that failed with an error file, as the scheduler leaves it."""
    batch_id = str((await create(house))["id"])
    lines = [error_line(no) for no in range(LINES)] if lines is None else lines
    writer = house.store.blobs.open_writer()
    writer.write(b"".join(lines))
    blob = writer.commit()
    file = FileRecord(f"file-{blob.key}", "default", "batch_output", "e.jsonl", blob.bytes, 1, None, blob.key)
    shown = tuple(LineError("invalid_json_line", f"wrong {no}", line=no + 1) for no in range(10))
    ended = await house.store.batches.fail(batch_id, errors=shown, errors_total=len(lines), at=1, error_file=file)
    assert ended is not None
    return ended


async def get(house: House, batch_id: str, **query: Any) -> Any:
    async with house.http() as http:
        return await http.get(f"/batches/{batch_id}/errors", params=query)


async def test_pages_cover_every_error_once_in_line_order(house: House) -> None:
    batch = await failed(house)
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = (await get(house, batch.id, limit=7, **after)).json()
        assert page["total"] == LINES
        found += page["data"]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert [error["line"] for error in found] == list(range(1, LINES + 1))
    assert [error["custom_id"] for error in found] == [f"c{no}" for no in range(LINES)]
    assert found[3] | {"id": ""} == {
        "code": "invalid_json_line", "message": "wrong 3", "param": None, "line": 4, "id": "", "custom_id": "c3",
    }  # fmt: skip


async def test_the_batch_names_its_error_file_and_its_content_holds_all_of_them(house: House) -> None:
    batch = await failed(house)
    async with house.http() as http:
        shown = (await http.get(f"/batches/{batch.id}")).json()
        content = await http.get(f"/files/{shown['error_file_id']}/content")
    assert (shown["status"], shown["errors"]["total"], len(shown["errors"]["data"])) == ("failed", LINES, 10)
    assert content.content.count(b"\n") == LINES


async def test_refusals_of_an_engine_are_shown_as_their_own_code_or_their_status(house: House) -> None:
    refusals = [(400, {"message": "too long", "code": "too_long"}), (503, {"message": "busy", "code": None})]
    answers = [{"status_code": status, "request_id": "r", "body": {"error": error}} for status, error in refusals]
    lines = [
        json.dumps({"id": "i", "custom_id": f"c{no}", "response": answer, "error": None}).encode() + b"\n"
        for no, answer in enumerate(answers)
    ]
    page = (await get(house, (await failed(house, lines)).id)).json()
    assert [(error["code"], error["message"], error["line"]) for error in page["data"]] == [
        ("too_long", "too long", None),
        ("http_503", "busy", None),
    ]


async def test_a_page_of_long_messages_ends_early_and_stays_small(house: House) -> None:
    batch = await failed(house, [error_line(no, message="m" * 1_500) for no in range(1000)])
    answer = await get(house, batch.id, limit=1000)
    assert len(answer.content) < 1_000_000
    page = answer.json()
    assert page["has_more"]
    rest = (await get(house, batch.id, limit=1000, after=page["last_id"])).json()
    assert rest["data"][0]["line"] == page["data"][-1]["line"] + 1


async def test_a_batch_without_errors_has_an_empty_page(house: House) -> None:
    batch_id = str((await create(house))["id"])
    page = (await get(house, batch_id)).json()
    assert (page["data"], page["has_more"], page["total"]) == ([], False, 0)


async def test_without_its_file_the_first_errors_are_still_there(house: House) -> None:
    batch = await failed(house)
    assert batch.error_file_id is not None
    await house.store.files.delete("default", batch.error_file_id)
    page = (await get(house, batch.id, limit=4)).json()
    assert [error["line"] for error in page["data"]] == [1, 2, 3, 4]
    assert (page["has_more"], page["total"]) == (True, LINES)


@pytest.mark.parametrize("after", ["x", "-1", "3", "9" * 16])
async def test_a_cursor_that_never_was_is_refused(house: House, after: str) -> None:
    batch = await failed(house)
    refused = await get(house, batch.id, after=after)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "after"


async def test_an_unknown_batch_is_a_404(house: House) -> None:
    assert (await get(house, "batch_none")).status_code == 404
