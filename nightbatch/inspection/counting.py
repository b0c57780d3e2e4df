"""Which tokenizer counts for which model, opened only when a line needs it (opening one takes seconds)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.tokens import PromptCounter, TokenizerError, open_counter


class Counters:
    """`sources` by model id; `chosen` counts for every model. A tokenizer that was chosen must open; one that is merely
    at hand may not, and then `problems` says why there are only estimates."""

    def __init__(
        self,
        sources: Mapping[str, str],
        chosen: str | None = None,
        opener: Callable[[str], PromptCounter] = open_counter,
    ) -> None:
        self._sources = sources
        self._chosen = chosen
        self._opener = opener
        self._opened: dict[str, PromptCounter | None] = {}
        self.problems: list[str] = []

    def context_of(self, model: str) -> int | None:
        """What the chosen tokenizer's own files say; for other models their context is known without opening it."""
        counter = self.of(model) if self._chosen else None
        return counter.context_tokens_max if counter else None

    def of(self, model: str) -> PromptCounter | None:
        source = self._chosen or self._sources.get(model)
        if source is None:
            return None
        if source not in self._opened:
            try:
                self._opened[source] = self._opener(source)
            except TokenizerError as error:
                if self._chosen:
                    raise
                self.problems.append(str(error))
                self._opened[source] = None
        return self._opened[source]
