"""All errors of a file at once, by line, with messages that say what to do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from engine.protocol import CHAT_COMPLETIONS, EMBEDDINGS, ModelInfo, ModelKind
from scheduler.policy.validation import Found, find_errors, normal_url
from store.records import LineError, PinnedModel

SERVED = {
    "smol": ModelInfo("smol", "r1", ModelKind.GENERATE, frozenset({CHAT_COMPLETIONS}), 2048, 0),
    "mini": ModelInfo("mini", "r1", ModelKind.POOLING, frozenset({EMBEDDINGS}), 256, 0),
}
PINNED = {"smol": PinnedModel("smol", "r1"), "mini": PinnedModel("mini", "r1"), "gone": PinnedModel("gone", "r0")}


def errors_of(
    lines: Sequence[tuple[str, str] | None],
    *,
    endpoint: str = CHAT_COMPLETIONS,
    shown_max: int = 10,
    first_line: int = 1,
) -> Found:
    """`lines` are (url, model), or None for one whose form is broken."""
    urls = tuple(dict.fromkeys(line[0] for line in lines if line))
    models = tuple(dict.fromkeys(line[1] for line in lines if line))
    broken = [no for no, line in enumerate(lines) if line is None]
    return find_errors(
        endpoint=endpoint,
        urls=urls,
        models=models,
        url_column=np.array([urls.index(line[0]) if line else 0 for line in lines], dtype=np.uint16),
        model_column=np.array([models.index(line[1]) if line else 0 for line in lines], dtype=np.uint16),
        error_column=np.array([line is None for line in lines], dtype=np.uint16),
        line_column=np.arange(len(lines), dtype=np.uint32) + first_line,
        form_errors=iter([LineError("invalid_json_line", "not JSON", line=no + first_line) for no in broken]),
        pinned=PINNED,
        served=SERVED,
        shown_max=shown_max,
    )


GOOD = (CHAT_COMPLETIONS, "smol")


def test_a_good_file_has_no_errors() -> None:
    assert errors_of([GOOD, GOOD]) == Found((), 0)


def test_an_empty_file_says_so() -> None:
    found = errors_of([])
    assert found.total == 1
    assert (found.shown[0].code, found.shown[0].line) == ("empty_file", None)


def test_all_kinds_of_errors_come_in_line_order_with_one_based_lines() -> None:
    found = errors_of([(EMBEDDINGS, "smol"), GOOD, None, (CHAT_COMPLETIONS, "gpt-4o")])
    assert [(error.line, error.code) for error in found.shown] == [
        (1, "invalid_url"),
        (3, "invalid_json_line"),
        (4, "model_not_found"),
    ]
    assert found.total == 3


def test_a_line_with_two_errors_gets_both() -> None:
    assert [error.code for error in errors_of([("/v1/nope", "gpt-4o")]).shown] == ["invalid_url", "model_not_found"]


def test_only_the_first_errors_are_kept_but_all_are_counted() -> None:
    found = errors_of([None, *[("/v1/nope", "gpt-4o")] * 50], shown_max=3)
    assert (len(found.shown), found.total) == (3, 101)
    assert [error.line for error in found.shown] == [1, 2, 2]


def test_lines_are_numbered_as_in_the_file_when_blank_ones_were_left_out() -> None:
    assert errors_of([None], first_line=7).shown[0].line == 7


@pytest.mark.parametrize(
    "url", ["/v1/chat/completions", "/chat/completions", "v1/chat/completions", "/chat/completions/"]
)
def test_a_url_is_the_same_with_and_without_v1(url: str) -> None:
    assert normal_url(url) == CHAT_COMPLETIONS
    assert errors_of([(url, "smol")]).total == 0


def test_an_unknown_model_is_told_what_is_served_and_which_line_to_add() -> None:
    message = errors_of([(CHAT_COMPLETIONS, "gpt-4o")]).shown[0].message
    assert "This server serves: mini, smol." in message
    assert '"gpt-4o" = "mini"' in message


def test_a_model_of_the_wrong_kind_says_what_it_serves() -> None:
    error = errors_of([(EMBEDDINGS, "smol")], endpoint=EMBEDDINGS).shown[0]
    assert (error.code, error.param) == ("model_not_found", "body.model")
    assert "does not support /v1/embeddings: it serves /v1/chat/completions" in error.message


def test_a_pinned_model_that_is_no_longer_served_is_no_error() -> None:
    assert errors_of([(CHAT_COMPLETIONS, "gone")]).total == 0
