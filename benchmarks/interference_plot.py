"""The frontier: what online requests pay against what the batch gets, one point an arm. Needs nightbatch[bench]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.form import CouldNotMeasure, Figure

OURS = "#0b6e4f"
OTHERS = "#8a8d91"
OURS_PREFIXES = ("online_first", "feedback_cap")
PANELS = (("ttft_p90_ratio", "TTFT p90, of online alone"), ("itl_p50_ratio", "ITL p50, of online alone"))
SHARE = "ceiling_share"
NOT_BATCH = ("other_engine", "with_upload")
"""Their share is of other work."""

TICKS = (1.0, 1.5, 2.0, 3.0, 5.0)
INCHES, DOTS_PER_INCH = (11.0, 4.8), 130


def check_available() -> None:
    """Before an hour of measuring, not after it."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError as error:
        raise CouldNotMeasure("--plot needs matplotlib: pip install 'nightbatch[bench]'") from error


def points(figures: Mapping[str, Figure], ratio: str) -> dict[str, tuple[Figure, Figure]]:
    """Arm -> (share of the ceiling, ratio), of those that have both."""
    names = [name.removesuffix(f"_{SHARE}") for name in figures if name.endswith(f"_{SHARE}")]
    return {
        name: (figures[f"{name}_{SHARE}"], figures[f"{name}_{ratio}"])
        for name in names
        if f"{name}_{ratio}" in figures and name not in NOT_BATCH
    }


def draw(figures: Mapping[str, Figure], path: Path, title: str) -> None:
    check_available()
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = plt.subplots(1, len(PANELS), figsize=INCHES)
    for panel, (ratio, label) in zip(axes, PANELS, strict=True):
        for name, (share, paid) in points(figures, ratio).items():
            colour = OURS if name.startswith(OURS_PREFIXES) else OTHERS
            panel.errorbar(
                share.value, paid.value, xerr=_bars(share), yerr=_bars(paid), fmt="o", color=colour, capsize=2, lw=1
            )
            panel.annotate(
                name, (share.value, paid.value), xytext=(6, 6), textcoords="offset points", color=colour, fontsize=8
            )
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=TICKS))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}x"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel("batch tokens/s, share of the batch-alone ceiling")
        panel.set_ylabel(label)
        panel.axhline(1.0, color="black", lw=0.6)
        panel.grid(visible=True, which="both", alpha=0.25)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)


def _bars(figure: Figure) -> list[list[float]] | None:
    if figure.interval is None:
        return None
    low, high = figure.interval
    return [[max(0.0, figure.value - low)], [max(0.0, high - figure.value)]]
