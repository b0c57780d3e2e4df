"""How fast a model's lines end, in peak hours and outside them."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.facts.capacity import PEAK_SHARE_ASSUMED
from scheduler.facts.estimates import RateMeter

MEMORY_SECONDS = 600.0
PEAK_SHARE_MIN = 0.05
UNSURE_SECONDS_MAX = 60.0


def _meter() -> RateMeter:
    return RateMeter(MEMORY_SECONDS)


@dataclass(slots=True)
class ModelRate:
    """Measured while the model has lines waiting, so that its engines are as busy as they may be. Before that happens
    for the first time any line counts, a rough figure being better than none. Time in which none ended may have been
    idle: of that only the last UNSURE_SECONDS_MAX before a line count."""

    _off_peak: RateMeter = field(default_factory=_meter)
    _peak: RateMeter = field(default_factory=_meter)
    _is_sure: bool = False
    _unsure_seconds: float = 0.0

    def add(self, *, lines: int, busy_seconds: float, is_peak: bool, is_full: bool) -> None:
        if is_full and not self._is_sure:
            self._is_sure, self._off_peak, self._peak, self._unsure_seconds = True, _meter(), _meter(), 0.0
        if not is_full and self._is_sure:
            return
        if not is_full and not lines:
            self._unsure_seconds = min(UNSURE_SECONDS_MAX, self._unsure_seconds + busy_seconds)
            return
        meter = self._peak if is_peak else self._off_peak
        meter.add(lines=lines, busy_seconds=busy_seconds + self._unsure_seconds)
        self._unsure_seconds = 0.0

    @property
    def seconds_per_line(self) -> float:
        """Outside peak hours, or inside them where nothing else is known; 0 while nothing is."""
        return self._off_peak.seconds_per_line or self._peak.seconds_per_line

    @property
    def peak_share(self) -> float:
        """How much of `seconds_per_line`'s rate is left in peak hours."""
        off_peak, peak = self._off_peak.seconds_per_line, self._peak.seconds_per_line
        if not off_peak:
            return 1.0 if peak else PEAK_SHARE_ASSUMED
        return min(1.0, max(PEAK_SHARE_MIN, off_peak / peak)) if peak else PEAK_SHARE_ASSUMED
