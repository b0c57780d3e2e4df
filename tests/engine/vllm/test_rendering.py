from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.vllm import rendering
from engine.vllm.rendering import Rendering


class Recorded:
    """Renders a text as its upper case, in a real thread, and remembers its calls."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.calls: list[tuple[list[str], str]] = []
        self.open = threading.Event()
        self.open.set()
        self.rendering: Rendering[str, str] = Rendering(self._render, executor)

    def _render(self, texts: Sequence[str], how: str) -> list[str]:
        self.calls.append((list(texts), how))
        assert self.open.wait(10)
        if "bad" in texts:
            raise ValueError("a bad text")
        return [text.upper() for text in texts]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with ThreadPoolExecutor(1) as executor:
        yield Recorded(executor)


async def test_texts_that_are_asked_for_together_are_rendered_in_one_call(recorded: Recorded) -> None:
    found = await asyncio.gather(*(recorded.rendering.render([f"a{no}", f"b{no}"], "how") for no in range(5)))
    assert found == [[f"A{no}", f"B{no}"] for no in range(5)]
    assert [len(texts) for texts, _ in recorded.calls] == [10]


async def test_texts_that_are_wanted_otherwise_are_rendered_apart(recorded: Recorded) -> None:
    hows = ["one", "one", "other", "one"]
    await asyncio.gather(*(recorded.rendering.render([how], how) for how in hows))
    assert [(len(texts), how) for texts, how in recorded.calls] == [(2, "one"), (1, "other"), (1, "one")]


@pytest.mark.parametrize(
    ("sizes", "calls"),
    [([30, 30, 30], [60, 30]), ([200, 1, 1], [200, 2]), ([1] * 70, [64, 6])],
    ids=["whole requests up to the limit", "a large request by itself", "many small ones"],
)
async def test_a_call_takes_whole_requests_up_to_a_limit(
    recorded: Recorded, sizes: list[int], calls: list[int]
) -> None:
    found = await asyncio.gather(*(recorded.rendering.render(["x"] * size, "how") for size in sizes))
    assert [len(one) for one in found] == sizes
    assert [len(texts) for texts, _ in recorded.calls] == calls


async def test_long_texts_are_not_gathered_into_long_calls(recorded: Recorded) -> None:
    text = "x" * (rendering.CHARACTERS_AT_ONCE // 2)
    await asyncio.gather(*(recorded.rendering.render([text], "how") for _ in range(3)))
    assert [len(texts) for texts, _ in recorded.calls] == [2, 1]


async def test_who_gave_up_is_passed_over_and_the_others_are_answered(recorded: Recorded) -> None:
    recorded.open.clear()
    first = asyncio.create_task(recorded.rendering.render(["first"], "how"))
    await asyncio.sleep(0)
    gone = asyncio.create_task(recorded.rendering.render(["gone"], "how"))
    last = asyncio.create_task(recorded.rendering.render(["last"], "how"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    recorded.open.set()
    assert [await first, await last] == [["FIRST"], ["LAST"]]
    assert [texts for texts, _ in recorded.calls] == [["first"], ["last"]]


async def test_a_call_that_fails_is_the_failure_of_those_in_it_only(recorded: Recorded) -> None:
    outcomes = await asyncio.gather(
        recorded.rendering.render(["bad"], "how"), recorded.rendering.render(["good"], "other"), return_exceptions=True
    )
    assert isinstance(outcomes[0], ValueError)
    assert outcomes[1] == ["GOOD"]
    assert await recorded.rendering.render(["again"], "how") == ["AGAIN"]
