from __future__ import annotations

import json

import pytest
from openai.types import Batch

from benchmarks.form import CouldNotMeasure
from benchmarks.reuse import NEW_SHARE, Night, a_line, figures_of, reused_of, second_night
from engine.protocol import CHAT_COMPLETIONS
from scheduler.facts.reuse_keys import canonical


def test_the_second_night_has_its_share_of_new_questions_all_over_the_file() -> None:
    questions = second_night(1_000)
    new = [place for place, question in enumerate(questions) if question >= 1_000]
    assert len(new) == NEW_SHARE * 1_000
    assert len(set(questions)) == 1_000
    assert new[0] < 100 < 900 < new[-1]


def test_lines_with_one_question_may_share_an_answer_and_others_may_not() -> None:
    one, same, other = (
        canonical(json.dumps(json.loads(a_line(number, question))["body"]).encode(), CHAT_COMPLETIONS)
        for number, question in ((0, 7), (1, 7), (2, 8))
    )
    assert one == same
    assert one is not None
    assert one != other


def test_what_ran_is_what_was_not_reused() -> None:
    figures = figures_of(Night(lines=1_000, reused=980, seconds=2.0, cpu_seconds=1.0, rss_peak_bytes=2**20))
    assert figures["run_share"].value == pytest.approx(0.02)
    assert (figures["lines_per_s"].value, figures["rss_peak_mib"].value) == (500, 1)


def test_a_server_that_does_not_count_reused_lines_cannot_be_measured() -> None:
    with pytest.raises(CouldNotMeasure, match="does not say"):
        reused_of(Batch.model_construct(id="batch_1"))
