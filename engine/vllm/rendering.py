"""Turns texts into tokens, for all who ask meanwhile at once: one hop to a thread and one call of the tokenizer for
dozens of short texts, instead of one of each for every text."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

TEXTS_AT_ONCE = 64
CHARACTERS_AT_ONCE = 64 * 1024
"""A call takes whole requests up to either of these; a request larger than that is a call by itself."""

How = TypeVar("How", bound=Hashable)
Rendered = TypeVar("Rendered")


@dataclass(slots=True, eq=False)
class _Asked(Generic[How, Rendered]):
    texts: Sequence[str]
    how: How
    answer: asyncio.Future[list[Rendered]]


class Rendering(Generic[How, Rendered]):
    """`render` takes texts that are wanted alike, runs in `executor`, and returns as many results."""

    def __init__(self, render: Callable[[Sequence[str], How], list[Rendered]], executor: Executor) -> None:
        self._render = render
        self._executor = executor
        self._waiting: deque[_Asked[How, Rendered]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def render(self, texts: Sequence[str], how: How) -> list[Rendered]:
        """Raises whatever `render` raised for the call that these texts were in."""
        asked = _Asked[How, Rendered](texts, how, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await asked.answer

    async def _run(self) -> None:
        try:
            while group := self._next():
                await self._call(group)
        finally:
            self._running = None

    def _next(self) -> list[_Asked[How, Rendered]]:
        """Those who have waited longest and want the same; who gave up meanwhile is passed over."""
        group: list[_Asked[How, Rendered]] = []
        texts = characters = 0
        while self._waiting:
            asked = self._waiting[0]
            if not asked.answer.done():
                texts += len(asked.texts)
                characters += sum(map(len, asked.texts))
                if group and (asked.how != group[0].how or texts > TEXTS_AT_ONCE or characters > CHARACTERS_AT_ONCE):
                    break
                group.append(asked)
            self._waiting.popleft()
        return group

    async def _call(self, group: Sequence[_Asked[How, Rendered]]) -> None:
        texts = [text for asked in group for text in asked.texts]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._executor, self._render, texts, group[0].how)
        except Exception as error:  # noqa: BLE001 (it is those who asked that hear of it)
            for asked in group:
                if not asked.answer.done():
                    asked.answer.set_exception(error)
            return
        at = 0
        for asked in group:
            if not asked.answer.done():
                asked.answer.set_result(found[at : at + len(asked.texts)])
            at += len(asked.texts)
