"""Frames between the server and an engine's host, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import EMBEDDINGS
from engine.vllm import frames
from engine.vllm.framing import FrameReader, FrameTooLarge, FrameWriter, encoded

BIG_BYTES = 3 * 1024 * 1024

Answers = st.lists(st.binary(max_size=300), max_size=12)


def answers(bodies: Sequence[bytes]) -> list[frames.FromHost]:
    return [frames.Answer(no, 200, body, prompt_tokens=no) for no, body in enumerate(bodies)]


async def read_all(chunks: Sequence[bytes]) -> list[frames.FromHost]:
    reader = asyncio.StreamReader()
    for chunk in chunks:
        reader.feed_data(chunk)
    reader.feed_eof()
    return [frame async for frame in FrameReader(reader, frames.decode_from_host)]


@settings(deadline=None)
@given(bodies=Answers, cuts=st.lists(st.integers(min_value=1, max_value=200), min_size=1, max_size=8))
def test_frames_come_whole_however_their_bytes_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    sent = answers(bodies)
    left = b"".join(map(encoded, sent))
    chunks = []
    while left:
        size = cuts[len(chunks) % len(cuts)]
        chunks.append(left[:size])
        left = left[size:]
    assert asyncio.run(read_all(chunks)) == sent


async def test_a_stream_that_ends_inside_a_frame_gives_what_was_whole() -> None:
    first, second = answers([b"one", b"two"])
    assert await read_all([encoded(first), encoded(second)[:-1]]) == [first]


async def test_a_frame_above_the_limit_is_neither_written_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    too_large = encoded(frames.Answer(1, 200, bytes(2_000)))
    monkeypatch.setattr(frames, "FRAME_BYTES_MAX", 1_000)
    with pytest.raises(FrameTooLarge, match="above the limit of 1000"):
        encoded(frames.Answer(1, 200, bytes(2_000)))
    with pytest.raises(FrameTooLarge, match="above the limit of 1000"):
        await read_all([too_large[:10]])


async def writer_to(theirs: socket.socket, ours: socket.socket) -> FrameWriter:
    theirs.setblocking(False)
    _, writer = await asyncio.open_unix_connection(sock=ours)
    return FrameWriter(writer)


async def test_what_is_sent_in_one_round_is_one_write() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    writer = await writer_to(theirs, ours)
    sent = [frames.Ask(no, "m", EMBEDDINGS, b"{}", 10) for no in range(20)]
    for frame in sent:
        writer.send(frame)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    await asyncio.sleep(0)
    assert theirs.recv(1024 * 1024) == b"".join(map(encoded, sent))
    writer.close()
    theirs.close()


async def test_frames_keep_their_order_when_a_large_one_is_written_at_once() -> None:
    ours, theirs = socket.socketpair()
    writer = await writer_to(theirs, ours)
    reader, other = await asyncio.open_unix_connection(sock=theirs)
    sent = answers([b"small", bytes(BIG_BYTES), b"last"])
    for frame in sent:
        writer.send(frame)
    incoming = aiter(FrameReader(reader, frames.decode_from_host))
    assert [await anext(incoming) for _ in sent] == sent
    writer.close()
    assert await anext(incoming, None) is None
    other.close()


async def test_a_writer_is_finished_when_nothing_is_left_in_this_process() -> None:
    ours, theirs = socket.socketpair()
    writer = await writer_to(theirs, ours)
    writer.send(frames.Answer(1, 200, bytes(BIG_BYTES)))
    finishing = asyncio.create_task(writer.finish())
    taken = 0
    loop = asyncio.get_running_loop()
    while writer.unsent_bytes or taken < BIG_BYTES:
        taken += len(await loop.sock_recv(theirs, 256 * 1024))
    await finishing
    writer.close()
    theirs.close()
