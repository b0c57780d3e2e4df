"""What is wrong with a batch input beyond its form: urls and models, all lines at once, by the index's columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.protocol import ModelInfo
from scheduler.policy.limits import STRICT_SETTING
from store.records import LineError, PinnedModel

NAMES_CHARS_MAX = 200
"""Model names in one message; a registry may hold hundreds."""

VALUE_CHARS_MAX = 64


@dataclass(frozen=True, slots=True)
class Found:
    """The first errors in line order, and how many there are in all."""

    shown: tuple[LineError, ...]
    total: int


EMPTY_FILE = LineError("empty_file", "The input file has no requests: it must contain at least one line.")


def normal_url(url: str) -> str:
    """`/v1/x`, `v1/x` and `/x` are one endpoint."""
    path = "/" + url.strip("/")
    return path if path == "/v1" or path.startswith("/v1/") else "/v1" + path


@dataclass(frozen=True, slots=True, eq=False)
class Problems:
    """What is wrong with a file, not yet put into words. `broken` says of each line whether it has any error; `total`
    counts errors (a line may have two). `whole_file`: it cannot run, whatever becomes of broken
    lines."""

    broken: NDArray[np.bool_]
    total: int
    _each: Callable[[], Iterator[LineError]]
    whole_file: bool = False

    def errors(self) -> Iterator[LineError]:
        """Every error, in line order, its words made as it is asked for."""
        return self._each()


def one_problem(error: LineError, *, lines: int) -> Problems:
    """The whole file is refused for one reason."""
    return Problems(np.ones(lines, dtype=np.bool_), 1, lambda: iter((error,)), whole_file=True)


def find_problems(
    *,
    endpoint: str,
    urls: Sequence[str],
    models: Sequence[str],
    url_column: NDArray[Any],
    model_column: NDArray[Any],
    error_column: NDArray[Any],
    line_column: NDArray[Any],
    form_errors: Callable[[], Iterable[LineError]],
    pinned: Mapping[str, PinnedModel],
    served: Mapping[str, ModelInfo],
    one_model: bool = False,
) -> Problems:
    """Every error of the file. A line whose form is broken gets that one error and no other.

    `form_errors` gives those in line order; `error_column` is not 0 for exactly their lines. `line_column` has the
    1-based numbers in the file. `served` maps the id of a served model to what it is; a pinned model that is served no
    longer is not an error (the batch waits for it). `one_model` asks for the model of the first whole line in all.
    """
    if len(error_column) == 0:
        return one_problem(EMPTY_FILE, lines=0)
    whole = error_column == 0
    url_problems = _by_index(urls, lambda url: _url_problem(url, endpoint))
    model_problems = _by_index(models, lambda name: _model_problem(name, endpoint, pinned, served))
    bad_url = whole & np.isin(url_column, list(url_problems))
    bad_model = whole & np.isin(model_column, list(model_problems))
    other_problems = _other_models(models, model_column[whole]) if one_model else {}
    other_model = whole & np.isin(model_column, list(other_problems))
    total = sum(int(np.count_nonzero(bad)) for bad in (~whole, bad_url, bad_model, other_model))

    def each() -> Iterator[LineError]:
        return merge(
            form_errors(),
            _at_lines(bad_url, line_column, url_column, url_problems),
            _at_lines(bad_model, line_column, model_column, model_problems),
            _at_lines(other_model, line_column, model_column, other_problems),
            key=lambda error: error.line or 0,
        )

    return Problems(~whole | bad_url | bad_model | other_model, total, each)


def find_errors(*, form_errors: Iterable[LineError], shown_max: int, **columns: Any) -> Found:
    """The first `shown_max` errors of the file and their number; the rest as for `find_problems`."""
    problems = find_problems(form_errors=lambda: form_errors, **columns)
    return Found(tuple(islice(problems.errors(), shown_max)), problems.total)


def _by_index(names: Sequence[str], problem: Callable[[str], LineError | None]) -> dict[int, LineError]:
    found = ((index, problem(name)) for index, name in enumerate(names))
    return {index: error for index, error in found if error is not None}


def _at_lines(
    bad: NDArray[Any], lines: NDArray[Any], column: NDArray[Any], problems: Mapping[int, LineError]
) -> Iterator[LineError]:
    for line_no in np.flatnonzero(bad):
        problem = problems[int(column[line_no])]
        yield LineError(problem.code, problem.message, problem.param, int(lines[line_no]))


def _url_problem(url: str, endpoint: str) -> LineError | None:
    if normal_url(url) == normal_url(endpoint):
        return None
    return LineError(
        "invalid_url", f"The url {cut(url)} of this line differs from the batch's endpoint {endpoint!r}.", "url"
    )


def _other_models(models: Sequence[str], used: NDArray[Any]) -> dict[int, LineError]:
    """What is wrong with each model but the first that is used."""
    if len(used) == 0:
        return {}
    first = int(used[0])
    return {
        index: LineError(
            "mismatched_model",
            f"The model {cut(name)} of this line differs from {cut(models[first])}, the first one: all lines of a file "
            f"must have the same model ({STRICT_SETTING}).",
            "body.model",
        )
        for index, name in enumerate(models)
        if index != first
    }


def _model_problem(
    name: str, endpoint: str, pinned: Mapping[str, PinnedModel], served: Mapping[str, ModelInfo]
) -> LineError | None:
    pin = pinned.get(name)
    if pin is None:
        return LineError("model_not_found", unknown_model_message(name, list(served)), "body.model")
    info = served.get(pin.id)
    if info is None or normal_url(endpoint) in {normal_url(known) for known in info.endpoints}:
        return None
    supported = ", ".join(sorted(info.endpoints))
    return LineError(
        "model_not_found", f"The model {cut(name)} does not support {endpoint}: it serves {supported}.", "body.model"
    )


def unknown_model_message(name: str, served_ids: Sequence[str]) -> str:
    if not served_ids:
        return f"The model {cut(name)} does not exist: this server serves no model."
    listed, ids = "", sorted(served_ids)
    shown = 0
    while shown < len(ids) and (not shown or len(listed) + len(ids[shown]) < NAMES_CHARS_MAX):
        listed += (", " if shown else "") + ids[shown]
        shown += 1
    more = len(ids) - shown
    listed += f" and {more} more" if more else ""
    alias = f"{_toml(name)} = {_toml(ids[0])}"
    return (
        f"The model {cut(name)} does not exist. This server serves: {listed}. "
        f"To let {cut(name)} stand for one of them, add under [aliases] in nightbatch.toml: {alias}"
    )


def cut(value: str) -> str:
    """A client's text as a message may show it: quoted, escaped and short. A file may repeat it a million times."""
    return repr(value if len(value) <= VALUE_CHARS_MAX else value[:VALUE_CHARS_MAX] + "...")


def _toml(value: str) -> str:
    return json.dumps(value if len(value) <= VALUE_CHARS_MAX else value[:VALUE_CHARS_MAX] + "...")
