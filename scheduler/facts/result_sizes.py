"""How many bytes the results of a batch will take, before any of it has run."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.protocol import EMBEDDINGS, POOLING_ENDPOINTS, RERANK

LINE_BYTES_LEAST = 300
LINE_BYTES = 600
"""What stands around an answer: ids, the envelope, the usage."""

BYTES_PER_TOKEN = 4.5
NUMBER_BYTES_LEAST = 12
NUMBER_BYTES = 21
"""A float32 in JSON has the digits of a float64: `-0.012345678918063641,`."""

BASE64_NUMBER_BYTES = 16 / 3
ITEM_BYTES = 60
"""What stands around one embedding, one score or one ranked document."""

DIMENSIONS_ASSUMED = 1_024
MEASURED_LINES_MIN = 200
"""From so many measured lines on they say how much a forecast is off."""

MEASURED_LINES_MAX = 100_000.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a batch asks for, as its index says. `dimensions` None: nobody knows the length of an embedding.
    `base64_share` is the part of its lines that want embeddings in base64."""

    endpoint: str
    lines: int
    sub_requests: int = 0
    output_tokens: int = 0
    prompt_bytes: int = 0
    dimensions: int | None = None
    base64_share: float = 0.0


@dataclass(frozen=True, slots=True)
class ResultSize:
    """Bytes of all results of a batch: what they take at least, and what they probably take. `why` says of what."""

    least: float
    likely: float
    why: str


def result_size(asked: Asked) -> ResultSize:
    if asked.endpoint == EMBEDDINGS:
        return _embeddings(asked)
    least = float(asked.lines * LINE_BYTES_LEAST)
    likely = float(asked.lines * LINE_BYTES)
    if asked.endpoint in POOLING_ENDPOINTS:
        documents = asked.prompt_bytes if asked.endpoint == RERANK else 0
        return ResultSize(least, likely + asked.sub_requests * ITEM_BYTES + documents, f"{asked.sub_requests:,} scores")
    why = f"{asked.lines:,} answers with up to {asked.output_tokens:,} tokens in all"
    return ResultSize(least, likely + asked.output_tokens * BYTES_PER_TOKEN, why)


def _embeddings(asked: Asked) -> ResultSize:
    inputs = max(asked.sub_requests, asked.lines)
    around = asked.lines * LINE_BYTES_LEAST + inputs * ITEM_BYTES
    dimensions = asked.dimensions or DIMENSIONS_ASSUMED
    each = dimensions * _mixed(NUMBER_BYTES, asked.base64_share)
    least = 0.0 if asked.dimensions is None else dimensions * _mixed(NUMBER_BYTES_LEAST, asked.base64_share)
    form = "in base64" if asked.base64_share == 1 else "as JSON"
    about = "" if asked.dimensions else "probably "
    why = f"{inputs:,} embeddings of {about}{dimensions:,} numbers, some {each / 1024:.1f} KiB each {form}"
    return ResultSize(around + inputs * least, around + inputs * each, why)


def _mixed(json_bytes: float, base64_share: float) -> float:
    return base64_share * BASE64_NUMBER_BYTES + (1 - base64_share) * json_bytes


@dataclass(slots=True)
class Accuracy:
    """How results of one kind compare with what was forecast: `max_tokens` is a bound that few answers reach."""

    lines: float = 0.0
    _forecast: float = field(default=0.0, repr=False)
    _written: float = field(default=0.0, repr=False)

    def add(self, lines: int, *, forecast: float, written: float) -> None:
        keep = max(0.0, 1.0 - lines / MEASURED_LINES_MAX)
        self.lines = self.lines * keep + lines
        self._forecast = self._forecast * keep + forecast
        self._written = self._written * keep + written

    @property
    def ratio(self) -> float:
        """Written for each byte forecast; 1 while too little is measured."""
        return self._written / self._forecast if self.lines >= MEASURED_LINES_MIN and self._forecast > 0 else 1.0
