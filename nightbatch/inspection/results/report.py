"""A comparison on a screen of any width, and the same for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nightbatch.inspection.report import indented, shown
from nightbatch.inspection.results.agreement import QUANTILES, Labels, Samples, Tally
from nightbatch.inspection.results.answers import canonical
from nightbatch.inspection.results.comparison import SAME_DIRECTION, Comparison, Difference
from nightbatch.inspection.results.joining import Joined, ResultFile
from nightbatch.inspection.results.reading import reading

FIELDS_SHOWN_MAX = 12
CONFUSIONS_SHOWN_MAX = 8
ROWS_SHOWN_MAX = 6
NAME_CHARS_MAX = 36
EXAMPLE_CHARS_MAX = 240


def screen(joined: Joined, found: Comparison) -> RenderableType:
    parts: list[RenderableType] = [_files(joined, found), Text(), *_failures(found)]
    if any(tally.of for _, tally, _ in _tallies(found)):
        parts += [_agreement(found), Text()]
    for name, labels in _label_tables(found):
        parts += _confusions(name, labels)
    parts += [*_ratios(found), *_finish(found), *_examples(found)]
    parts += [Text("reading", style="bold"), *(indented(Text(one), 2) for one in reading(found))]
    return Group(*parts)


def _plain_table(*headers: str, first: str = "left") -> Table:
    view = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headers))
    for place, header in enumerate(headers):
        left = place == 0 and first == "left"
        view.add_column(header, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    return view


def _files(joined: Joined, found: Comparison) -> Table:
    view = Table(box=None, pad_edge=False, show_header=False)
    view.add_column(style="bold", no_wrap=True)
    view.add_column(overflow="fold")
    for name, side, models in (("ours", joined.ours, found.models[0]), ("theirs", joined.theirs, found.models[1])):
        view.add_row(name, Text(shown(f"{side.path.name}: {side.count:,} results{_of_models(models)}{_odd(side)}")))
    both, answered = joined.count, found.outcomes[True, True]
    view.add_row("in both", f"{both:,}, of which both answered {answered:,}")
    for name, side, places in (
        ("only in ours", joined.ours, joined.only_ours),
        ("only in theirs", joined.theirs, joined.only_theirs),
    ):
        if len(places):
            ids = ", ".join(shown(one, 40) for one in joined.ids_of(side, places))
            view.add_row(name, Text(f"{len(places):,}: {ids}{', ...' if len(places) > 5 else ''}"))
    return view


def _of_models(models: Counter[str]) -> str:
    names = [shown(name, NAME_CHARS_MAX) for name, _ in models.most_common(3)]
    return f" of {', '.join(names)}{', ...' if len(models) > 3 else ''}" if names else ""


def _odd(side: ResultFile) -> str:
    repeated = f"; {side.repeated:,} repeated custom_ids (the first counts)" if side.repeated else ""
    faulty = f"; {side.faulty:,} lines are no results (line {side.faults[0][0]})" if side.faulty else ""
    return repeated + faulty


def _failures(found: Comparison) -> list[RenderableType]:
    if not any(found.causes):
        return []
    view = _plain_table("not answered", "ours", "theirs")
    ours, theirs = found.causes
    for cause, _ in (ours + theirs).most_common(ROWS_SHOWN_MAX):
        view.add_row(Text(shown(cause, 60)), f"{ours[cause]:,}", f"{theirs[cause]:,}")
    return [view, Text()]


def _agreement(found: Comparison) -> Table:
    view = _plain_table("agreement", "same", "of", "share", "95 % interval", "kappa")
    for name, tally, kappa in _tallies(found):
        low, high = tally.interval
        interval = f"{100 * low:.1f} to {100 * high:.1f} %"
        share = f"{100 * tally.share:.1f} %"
        view.add_row(Text(shown(name, NAME_CHARS_MAX)), f"{tally.same:,}", f"{tally.of:,}", share, interval, kappa)
    return view


def _tallies(found: Comparison) -> Iterator[tuple[str, Tally, str]]:
    for path, one in _chosen_fields(found)[:FIELDS_SHOWN_MAX]:
        yield f"field {path}", one.same, _two_digits(one.labels)
    if found.only_field is not None:
        return
    near = _two_digits(found.labels)
    named = (
        ("JSON object", found.objects, ""),
        ("text", found.exact, ""),
        ("text, case and space aside", found.near, near),
        ("tool calls", found.calls, ""),
        ("body", found.others, ""),
    )
    yield from ((name, tally, kappa) for name, tally, kappa in named if tally.of)


def _chosen_fields(found: Comparison) -> list[tuple[str, Any]]:
    chosen = [(path, one) for path, one in found.fields.items() if found.only_field in (None, path)]
    return sorted(chosen, key=lambda item: (-item[1].same.of, item[0]))


def _two_digits(labels: Labels) -> str:
    kappa = labels.kappa if labels.enum_like else None
    return "" if kappa is None else f"{kappa:.2f}"


def _label_tables(found: Comparison) -> Iterator[tuple[str, Labels]]:
    if found.labels.enum_like and found.only_field is None:
        yield "answers", found.labels
    for path, one in _chosen_fields(found)[:FIELDS_SHOWN_MAX]:
        if one.labels.enum_like:
            yield path, one.labels


def _confusions(name: str, labels: Labels) -> list[RenderableType]:
    rows = labels.confusions(CONFUSIONS_SHOWN_MAX)
    if not rows:
        return []
    view = Table(box=None, pad_edge=False, header_style="bold")
    view.add_column(f"{shown(name, NAME_CHARS_MAX)}: ours", overflow="fold")
    view.add_column("theirs", overflow="fold")
    view.add_column("pairs", justify="right", no_wrap=True)
    for ours, theirs, count in rows:
        view.add_row(Text(shown(ours, 40)), Text(shown(theirs, 40)), f"{count:,}")
    return [view, Text()]


def _ratios(found: Comparison) -> list[RenderableType]:
    rows = [
        ("characters, ours / theirs", found.characters),
        ("output tokens, ours / theirs", found.output_tokens),
        ("prompt tokens, ours / theirs", found.prompt_tokens),
        ("words in common (1: all)", found.overlap),
        ("cosine", found.cosines),
    ]
    filled = [(name, samples) for name, samples in rows if samples.values]
    if not filled:
        return []
    view = _plain_table("quantiles", *(f"{round(100 * one)} %" for one in QUANTILES))
    for name, samples in filled:
        digits = 4 if name == "cosine" else 2
        view.add_row(name, *(f"{value:.{digits}f}" for value in samples.quantiles))
    return [view, Text()]


def _finish(found: Comparison) -> list[RenderableType]:
    if not found.finish:
        return []
    view = Table(box=None, pad_edge=False, header_style="bold")
    view.add_column("finish: ours")
    view.add_column("theirs")
    view.add_column("pairs", justify="right")
    for (ours, theirs), count in found.finish.most_common(ROWS_SHOWN_MAX):
        view.add_row(Text(shown(ours, 24) or "none"), Text(shown(theirs, 24) or "none"), f"{count:,}")
    return [view, Text()]


def _examples(found: Comparison) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if found.examples:
        parts.append(Text("differences", style="bold"))
    for one in found.examples:
        parts.append(indented(Text(f"{shown(one.custom_id, 60)}: {shown(one.what, 60)}"), 2))
        for name, value in (("ours", one.ours), ("theirs", one.theirs)):
            parts.append(indented(Text(f"{name:<7} {shown(_text(value), EXAMPLE_CHARS_MAX)}"), 4))
    if any(-lowest < SAME_DIRECTION for lowest, _, _ in found.farthest):
        view = _plain_table("farthest apart", "cosine")
        for lowest, _, custom_id in sorted(found.farthest, reverse=True):
            view.add_row(Text(shown(custom_id, 60)), f"{-lowest:.4f}")
        parts.append(view)
    return [*parts, Text()] if parts else []


def _text(value: Any) -> str:
    """A value as one would write it; None is a field that this side does not have."""
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else canonical(value)


def for_programs(joined: Joined, found: Comparison) -> dict[str, Any]:
    names = ("both", "only_ours", "only_theirs", "neither")
    answered = ((True, True), (True, False), (False, True), (False, False))
    return {
        "ours": _plain_side(joined.ours, found.models[0], found.causes[0]),
        "theirs": _plain_side(joined.theirs, found.models[1], found.causes[1]),
        "in_both": joined.count,
        "only_in_ours": len(joined.only_ours),
        "only_in_theirs": len(joined.only_theirs),
        "answered": {name: found.outcomes[key] for name, key in zip(names, answered, strict=True)},
        "agreement": {
            name: _plain_tally(tally)
            for name, tally in (
                ("text", found.exact),
                ("text_normalised", found.near),
                ("json_object", found.objects),
                ("tool_calls", found.calls),
                ("body", found.others),
            )
            if tally.of
        },
        "labels": _plain_labels(found.labels),
        "fields": {
            path: {**_plain_tally(one.same), "missing": one.missing, "labels": _plain_labels(one.labels)}
            for path, one in _chosen_fields(found)
        },
        "quantiles": {
            name: _plain_samples(samples)
            for name, samples in (
                ("characters_ratio", found.characters),
                ("output_tokens_ratio", found.output_tokens),
                ("prompt_tokens_ratio", found.prompt_tokens),
                ("word_overlap", found.overlap),
                ("cosine", found.cosines),
            )
            if samples.values
        },
        "tokens": dict(
            zip(("ours_prompt", "ours_output", "theirs_prompt", "theirs_output"), found.tokens, strict=True)
        ),
        "finish_reasons": [
            {"ours": ours, "theirs": theirs, "pairs": count} for (ours, theirs), count in found.finish.most_common()
        ],
        "not_comparable": found.not_comparable,
        "examples": [plain_difference(one) for one in found.examples],
        "farthest": [
            {"custom_id": custom_id, "cosine": -lowest} for lowest, _, custom_id in sorted(found.farthest, reverse=True)
        ],
        "reading": reading(found),
    }


def plain_difference(one: Difference) -> dict[str, Any]:
    return {"custom_id": one.custom_id, "what": one.what, "ours": one.ours, "theirs": one.theirs}


def _plain_side(side: ResultFile, models: Counter[str], causes: Counter[str]) -> dict[str, Any]:
    return {
        "file": str(side.path),
        "results": side.count,
        "repeated": side.repeated,
        "faulty_lines": side.faulty,
        "models": dict(models),
        "failures": dict(causes),
    }


def _plain_tally(tally: Tally) -> dict[str, Any]:
    low, high = tally.interval
    return {"same": tally.same, "of": tally.of, "share": tally.share, "interval_95": [low, high]}


def _plain_labels(labels: Labels) -> dict[str, Any] | None:
    if not labels.enum_like:
        return None
    rows: Sequence[tuple[tuple[str, str], int]] = labels.pairs.most_common()
    return {
        "kappa": labels.kappa,
        "pairs": [{"ours": ours, "theirs": theirs, "pairs": count} for (ours, theirs), count in rows],
    }


def _plain_samples(samples: Samples) -> dict[str, float]:
    return {f"p{round(100 * at):02d}": value for at, value in zip(QUANTILES, samples.quantiles, strict=True)}
