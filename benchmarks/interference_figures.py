"""From windows to figures: pooled percentiles, ratios to online alone, shares of the ceiling. Pure.

Intervals are bootstrapped over rounds, not requests: requests of one window meet the same burst, so they are no
independent measurements. A round is drawn with all its arms, so drift of the machine cancels out of a ratio.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from benchmarks import statistics
from benchmarks.form import Figure
from benchmarks.online_trace import covered

RESAMPLES = 1_000
TTFT_P99_REQUESTS_MIN = 500

Sampler = Callable[["Window"], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Window:
    """One arm in one round. Milliseconds; tokens and sub-requests are the batch's, inside the window."""

    seconds: float
    ttft_ms: Sequence[float] = ()
    itl_ms: Sequence[float] = ()
    present_seconds: float = 0.0
    batch_output: int = 0
    batch_prompt: int = 0
    embedded_tokens: int = 0
    moved_mib: float = 0.0
    step_ms: Sequence[float] = field(default_factory=tuple)
    running: float = 0.0


def window_of(
    sent: Sequence[tuple[float, Sequence[float]]], start: float, end: float, **rest: float | Sequence[float]
) -> Window:
    """`sent` is (sent at, tokens at) of every request of the window, whether or not it ended inside."""
    return Window(
        seconds=end - start,
        ttft_ms=[(tokens[0] - at) * 1000 for at, tokens in sent],
        itl_ms=[(after - before) * 1000 for _, tokens in sent for before, after in pairwise(tokens)],
        present_seconds=covered(((at, tokens[-1]) for at, tokens in sent), start, end),
        **rest,  # type: ignore[arg-type]
    )


def pooled(windows: Sequence[Window], sample: Sampler, share: float) -> float:
    """The smallest measured value that at least `share` of all do not exceed."""
    values = np.concatenate([np.asarray(sample(one), dtype=float) for one in windows])
    return float(np.quantile(values, share, method="inverted_cdf"))


def count(windows: Sequence[Window], sample: Sampler) -> int:
    return sum(len(sample(one)) for one in windows)


def resampled(rounds: int, value: Callable[[Sequence[int]], float], *, seed: int = 0) -> tuple[float, float] | None:
    """Where 95 % of the values lie when rounds are drawn with replacement; None below two rounds."""
    if rounds < 2:
        return None
    source = random.Random(seed)
    values = []
    for _ in range(RESAMPLES):
        try:
            values.append(value(source.choices(range(rounds), k=rounds)))
        except (ValueError, ZeroDivisionError, IndexError):
            continue  # a draw of rounds without a single request
    if not values:
        return None
    return statistics.quantile(sorted(values), 0.025), statistics.quantile(sorted(values), 0.975)


def ttft(window: Window) -> Sequence[float]:
    return window.ttft_ms


def itl(window: Window) -> Sequence[float]:
    return window.itl_ms


PERCENTILES: tuple[tuple[str, Sampler, float], ...] = (
    ("ttft_p50", ttft, 0.5),
    ("ttft_p90", ttft, 0.9),
    ("ttft_p99", ttft, 0.99),
    ("itl_p50", itl, 0.5),
    ("itl_p90", itl, 0.9),
    ("itl_p99", itl, 0.99),
)
RATIOS = frozenset({"ttft_p50", "ttft_p90", "ttft_p99", "itl_p50", "itl_p99"})


def enough(name: str, windows: Sequence[Window], sample: Sampler) -> bool:
    found = count(windows, sample)
    return found >= (TTFT_P99_REQUESTS_MIN if name == "ttft_p99" else 1)


def latencies(windows: Sequence[Window]) -> dict[str, Figure]:
    """Presence and percentiles of one arm, in milliseconds."""
    if not count(windows, ttft):
        return {}
    found = {"presence": _presence(windows)}
    for name, sample, share in PERCENTILES:
        if enough(name, windows, sample):
            found[f"{name}_ms"] = Figure(
                pooled(windows, sample, share),
                "ms",
                count(windows, sample),
                _spread(windows, sample, share),
            )
    return found


def _spread(windows: Sequence[Window], sample: Sampler, share: float) -> tuple[float, float] | None:
    return resampled(len(windows), lambda draw: pooled([windows[i] for i in draw], sample, share))


def _presence(windows: Sequence[Window]) -> Figure:
    def value(draw: Sequence[int]) -> float:
        return sum(windows[i].present_seconds for i in draw) / sum(windows[i].seconds for i in draw)

    return Figure(value(range(len(windows))), "share of time", len(windows), resampled(len(windows), value))


def ratios(arm: str, windows: Sequence[Window], alone: Sequence[Window]) -> dict[str, Figure]:
    """`A_ttft_p50_ratio` and so on: this arm's percentile over that of online alone, with the arm's n."""
    rounds = min(len(windows), len(alone))
    found = {}
    for name, sample, share in PERCENTILES:
        if name in RATIOS and enough(name, windows, sample) and enough(name, alone, sample):

            def value(draw: Sequence[int], sample: Sampler = sample, share: float = share) -> float:
                return pooled([windows[i] for i in draw], sample, share) / pooled(
                    [alone[i] for i in draw], sample, share
                )

            found[f"{arm}_{name}_ratio"] = Figure(
                value(range(rounds)), "x", count(windows, sample), resampled(rounds, value)
            )
    return found


def rate(windows: Sequence[Window], amount: Callable[[Window], float]) -> float:
    seconds = sum(one.seconds for one in windows)
    return sum(map(amount, windows)) / seconds if seconds else 0.0


def rate_figure(windows: Sequence[Window], amount: Callable[[Window], float], unit: str) -> Figure:
    return Figure(
        rate(windows, amount),
        unit,
        len(windows),
        resampled(len(windows), lambda draw: rate([windows[i] for i in draw], amount)),
    )


def share(windows: Sequence[Window], ceiling: Sequence[Window], amount: Callable[[Window], float]) -> Figure:
    """What this arm got done per second, over what the ceiling's windows of the same rounds did."""
    rounds = min(len(windows), len(ceiling))

    def value(draw: Sequence[int]) -> float:
        return rate([windows[i] for i in draw], amount) / rate([ceiling[i] for i in draw], amount)

    return Figure(value(range(rounds)), "share", rounds, resampled(rounds, value))


def output_tokens(window: Window) -> float:
    return window.batch_output


def all_tokens(window: Window) -> float:
    """What the engine worked on: prompt tokens that no cache had, and output tokens. Output alone tells more of what
    was resident when a window began than of the policy."""
    return window.batch_output + window.batch_prompt


def better(windows: Mapping[str, Sequence[Window]], names: Sequence[str]) -> str:
    """The ceiling: the arm of those that were run which got most done."""
    return max((name for name in names if name in windows), key=lambda name: rate(windows[name], all_tokens))
