"""Learns how long answers are, tells what lines should need, and remembers it over restarts in one small file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from engine.protocol import EngineResult
from scheduler import metrics
from scheduler.actors.held import HeldShard, Line
from scheduler.actors.inputs import BatchInput, Inputs
from scheduler.actors.slicing import Slice
from scheduler.facts import lengths
from scheduler.facts.curve import WorkCurve, curve_of
from scheduler.facts.expecting import Array, expected_outputs, expected_work
from scheduler.facts.lengths import Known, LengthBook
from scheduler.facts.templates import seed_of, shared_prefixes, templates_of
from scheduler.policy.costs import peak_cost
from scheduler.settings import SchedulerSettings
from store.durable import replace_file
from store.order import read_order
from store.records import BatchRecord, StoreError

log = logging.getLogger(__name__)

FILE_NAME = "output-lengths.json"
LINES_AT_ONCE = 65_536
"""Of an order that are looked at together."""

CURVE_GROWTH = 2
"""A batch's work is expected anew when so many times more of its lines have ended: much has been learnt since."""

CURVE_LINES_MIN = 64


class Predictions:
    """Event loop only, but for `expect`."""

    def __init__(self, folder: Path | None, settings: SchedulerSettings) -> None:
        """`folder` None: nothing is remembered."""
        self._path = None if folder is None else folder / FILE_NAME
        self._settings = settings
        self._book = LengthBook()
        self._written = 0
        self._curves: dict[str, tuple[int, WorkCurve | None]] = {}
        self._predicted = self._needed = 0
        self._seen: dict[tuple[str, int], dict[int, Known | None]] = {}

    async def load(self) -> None:
        """A file that is absent or broken is an empty one: losing it costs a few estimates."""
        if self._path is None:
            return
        try:
            data = await asyncio.to_thread(self._path.read_bytes)
            self._book = lengths.decode(data)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            log.warning("how long answers were is not known any more: %s: %s", FILE_NAME, error)

    async def save(self) -> None:
        """If there is anything new. A full disk is no reason to stop."""
        answers = self._book.answers
        if self._path is None or answers == self._written:
            return
        try:
            await asyncio.to_thread(replace_file, self._path, self._book.encode())
        except OSError as error:
            log.warning("%s could not be written: %s", self._path.name, error)
        self._written = answers

    # --- learning

    def learn(self, line: Line, result: EngineResult) -> None:
        """What an answer says of the next ones of its template. Refusals and slices say nothing."""
        usage = result.usage
        if usage.completion_tokens <= 0 or not result.ok or isinstance(line, Slice):
            return
        cost = line.cost
        each = usage.completion_tokens / cost.requests
        self._book.learn(
            line.template,
            line.shard.batch_id,
            round(each),
            at_limit=line.output_limit > 0 and each >= line.output_limit,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            estimated=cost.prompt_tokens,
        )
        self._predicted += cost.tokens
        self._needed += usage.prompt_tokens + usage.completion_tokens

    # --- what a line needs

    def cost(self, shard: HeldShard) -> None:
        """Let the waiting lines of a shard cost what they should need at their peak, as far as that has changed."""
        templates = {line.template for line in shard.waiting}
        now_known = {template: self._book.known(template, shard.batch_id) for template in templates}
        before = self._seen.get((shard.batch_id, shard.shard_no), {})
        changed = {template for template, known in now_known.items() if before.get(template) is not known}
        if not changed:
            return
        self._seen[shard.batch_id, shard.shard_no] = now_known
        for line in shard.waiting:
            if line.template in changed and not isinstance(line, Slice):
                line.most = line.most or line.cost
                line.cost = peak_cost(line.most, now_known[line.template], output_limit=line.output_limit)

    def keep_up(self, shards: Iterable[HeldShard], batches: Collection[str]) -> None:
        """Cost anew what waits in `shards`, all that are held; forget what no batch of `batches` needs."""
        held = list(shards)
        for shard in held:
            self.cost(shard)
        places = {(shard.batch_id, shard.shard_no) for shard in held}
        for gone in self._seen.keys() - places:
            del self._seen[gone]
        running = frozenset(batches)
        self._book.forget_batches(running)
        for batch_id in self._curves.keys() - running:
            del self._curves[batch_id]
        metrics.TEMPLATES_KNOWN.set(len(self._book))
        metrics.PREDICTED_TOKENS.labels("predicted").inc(self._predicted)
        metrics.PREDICTED_TOKENS.labels("needed").inc(self._needed)
        self._predicted = self._needed = 0

    def known(self) -> Mapping[int, Known]:
        """Of templates, for work on a thread."""
        if not self._settings.predict_lengths:
            return {}
        return self._book.all_known()

    # --- what a batch needs

    def curve(self, batch_id: str) -> WorkCurve | None:
        """How the batch's work lies in its lines, once it has been looked at."""
        return self._curves.get(batch_id, (0, None))[1]

    def is_due(self, batch: BatchRecord) -> bool:
        """Whether to look (again)."""
        found = self._curves.get(batch.id)
        ended = batch.counts.completed + batch.counts.failed
        if found is None:
            return ended >= CURVE_LINES_MIN
        return ended >= CURVE_GROWTH * max(found[0], CURVE_LINES_MIN)

    async def look(self, batch: BatchRecord, inputs: Inputs) -> None:
        ended = batch.counts.completed + batch.counts.failed
        known = self._book.all_known()
        own = self._book.known(0, batch.id)
        try:
            source = await inputs.open(batch)
            curve = await asyncio.to_thread(self.expect, batch, source, known, own)
        except StoreError:  # whoever needs the file says what is wrong with it
            curve = None
        self._curves[batch.id] = (ended, curve)

    def expect(
        self, batch: BatchRecord, source: BatchInput, known: Mapping[int, Known], own: Known | None
    ) -> WorkCurve | None:
        """Blocking. `own` is what is known of the batch as a whole, for lines that share no prefix."""
        pieces = []
        lines = batch.counts.total - batch.invalid_lines
        for start in range(0, lines, LINES_AT_ONCE):
            stop = min(lines, start + LINES_AT_ONCE)
            places = np.asarray(read_order(source.order_path, start, stop), dtype=np.int64)
            records = source.index.records[places]
            source.index.release_memory()
            templates = _templates(batch, source.index.models, partial(_field, records), len(records))
            if own is not None:
                known = {**known, _OWN: own}
                templates = np.where(templates == 0, np.uint64(_OWN), templates)
            pieces.append(
                expected_work(
                    templates,
                    known,
                    prompt_bytes=records["prompt_bytes"],
                    limits=records["output_tokens"],
                    sub_requests=records["sub_requests"],
                    output_tokens_assumed=self._settings.output_tokens_assumed,
                ).astype(np.float32)
            )
        return curve_of(np.concatenate(pieces)) if pieces else None


def _field(records: Array, name: str, place: int | None) -> Array:
    field: Array = records[name] if place is None else records[name][:, place]
    return field


_OWN = 1
"""Stands for the batch itself among its templates: no hash of a prefix is that small."""


def order_lengths(
    batch: BatchRecord,
    models: Sequence[str],
    column: Callable[[str, int | None], Array],
    order: Array,
    known: Mapping[int, Known],
) -> Array | None:
    """What each sequence of each line should generate; None where nothing more than limits is known.

    `models` are the names that lines use, `column` gives a field of all lines, and in `order` lines that begin alike
    stand together. Blocking.
    """
    if not known:
        return None
    templates = _templates(batch, models, lambda name, place: column(name, place)[order], len(order))
    limits = column("output_tokens", None)
    outputs = np.ceil(expected_outputs(templates, known, limits=limits[order])).astype(np.uint32)
    if np.array_equal(outputs, limits[order]):
        return None
    found = np.empty(len(order), dtype=np.uint32)
    found[order] = outputs
    return found


def _templates(
    batch: BatchRecord, models: Sequence[str], column: Callable[[str, int | None], Array], lines: int
) -> Array:
    """Of lines in the order in which they run, by the prefixes that they share."""
    pins = [batch.models.get(name) for name in models]
    seeds = [0 if pin is None else seed_of(pin.id, pin.revision, batch.endpoint) for pin in pins]
    hashes, _ = shared_prefixes(lambda step: column("ladder", step), lines)
    if not hashes.any():
        return hashes
    return templates_of(hashes, np.array(seeds, dtype=np.uint64)[column("model", None)])
