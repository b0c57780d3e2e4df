"""Tiers, tenants' shares and admission as the configuration gives them, and what of them is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightbatch.config import Config, ConfigError, load
from nightbatch.config.tiers import doubtful
from nightbatch.terms import hold, terms
from scheduler.facts.tiers import Outside
from scheduler.policy.terms import OnInfeasible

NIGHT = '[windows]\ntimezone = "Europe/Berlin"\n[[windows.off_peak]]\nstart = "22:00"\nend = "06:00"\n'


def configured(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "nightbatch.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environment={})


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        configured(tmp_path, text)
    (problem,) = refused.value.problems
    return problem.removeprefix(str(tmp_path / "nightbatch.toml")).strip()


def test_what_a_file_says_of_tiers_and_tenants_reaches_the_scheduler(tmp_path: Path) -> None:
    text = NIGHT + (
        '[tiers.7d]\nweight = 0.5\noutside = "hold"\n[tiers.weekend]\nseconds = 259200\n'
        '[admission]\ninfeasible = "refuse"\n[[tenants]]\nname = "search"\nweight = 3\n'
        f'key_sha256 = ["{"0" * 64}"]\n'
    )
    found = terms(configured(tmp_path, text))
    assert {name: tier.weight for name, tier in found.tiers.items()} == {"1h": 4, "24h": 2, "7d": 0.5, "weekend": 1}
    assert found.tiers["7d"].outside is Outside.HOLD
    assert found.order.tenant_weights == {"search": 3.0}
    assert found.on_infeasible is OnInfeasible.REFUSE
    assert not found.calendar.is_always_open


def test_one_tier_may_wait_for_windows_that_the_others_do_not_wait_for(tmp_path: Path) -> None:
    assert hold(configured(tmp_path, NIGHT)) is None
    found = hold(configured(tmp_path, NIGHT + '[tiers.7d]\noutside = "hold"\n'))
    assert found is not None
    assert [found.holds(tier) for tier in ("1h", "24h", "7d")] == [False, False, True]


def test_one_tier_may_run_at_any_hour_where_the_others_wait(tmp_path: Path) -> None:
    text = NIGHT.replace("[windows]\n", '[windows]\noutside = "hold"\n') + '[tiers.1h]\noutside = "fill"\n'
    found = hold(configured(tmp_path, text))
    assert found is not None
    assert [found.holds(tier) for tier in ("1h", "24h", "unknown")] == [False, True, True]


def test_a_tier_that_waits_needs_a_window_to_wait_for(tmp_path: Path) -> None:
    assert refusal(tmp_path, '[tiers.7d]\n\noutside = "hold"\n').startswith(
        'line 3: tiers.7d.outside: outside = "hold" needs a window to wait for'
    )


def test_two_tiers_that_differ_by_nothing_but_the_price_are_refused_with_the_line(tmp_path: Path) -> None:
    text = "[tiers.day]\nseconds = 86400\nweight = 2\ndiscount = 0.4\n"
    assert refusal(tmp_path, text) == (
        "line 4: tiers.day.discount: 24h and day promise the same for 50% and 40% off: give them one discount, or make "
        "them differ in seconds, weight, outside or on_deadline"
    )


@pytest.mark.parametrize(
    "text",
    [
        "[tiers.day]\nseconds = 86400\nweight = 2\ndiscount = 0.5\n",  # another name for the same
        "[tiers.day]\nseconds = 86400\nweight = 1\ndiscount = 0.6\n",
        "[tiers.day]\nseconds = 86400\nweight = 2\ndiscount = 0.6\noffered = false\n",
    ],
)
def test_tiers_of_the_same_length_are_fine_where_they_differ_or_cost_the_same(tmp_path: Path, text: str) -> None:
    configured(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "[tiers.24h]\nweight = 0\n", "[tiers.24h]\nseconds = 5\n", '[tiers.24h]\noutside = "sometimes"\n',
        '[admission]\ninfeasible = "maybe"\n', "[tiers.24h]\ndiscount = 1\n",
    ],
)  # fmt: skip
def test_a_value_out_of_its_range_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text).startswith("line 2: ")


def test_a_slower_tier_that_costs_more_is_doubtful(tmp_path: Path) -> None:
    assert doubtful(configured(tmp_path, "").tiers) == []
    (found,) = doubtful(configured(tmp_path, "[tiers.24h]\ndiscount = 0.6\n").tiers)
    assert found.startswith("tiers: 7d takes longer than 24h")
