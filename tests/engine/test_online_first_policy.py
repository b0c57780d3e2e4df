"""The pure half of online first: who takes part, how long a step takes, and the file between server and engine."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.vllm.online_first.channel import ORDERS_AT, SEQUENCE, Channel, Report
from engine.vllm.online_first.policy import (
    PREFILL_TOKENS_MIN,
    Mode,
    Orders,
    Resident,
    idle_step_ms_max,
    rotated,
    share,
    share_idle,
)
from engine.vllm.online_first.step_model import StepModel, StepShape

STEP_TOKENS = 2048


def fitted(*, base: float = 14.0, decode: float = 2.0, prefill: float = 1.5, context: float = 0.0) -> StepModel:
    """A model that has seen enough of a machine with these coefficients (ms)."""
    model = StepModel()
    chance = random.Random(7)
    for _ in range(400):
        shape = StepShape(chance.randrange(1, 64), chance.choice([0, 0, 32, 128, 256]), chance.randrange(0, 20_000))
        exact = base + decode * shape.decodes + prefill * shape.prefill_tokens + context * shape.context_tokens / 1000
        model.add(shape, exact * chance.uniform(0.95, 1.05))
    return model


def decodes(count: int, *, online: bool = False) -> list[Resident]:
    return [Resident(f"{'o' if online else 'b'}{no}", online, 0, 100) for no in range(count)]


def prefills(*tokens: int, online: bool = False) -> list[Resident]:
    return [Resident(f"{'op' if online else 'bp'}{no}", online, left, 0) for no, left in enumerate(tokens)]


def shared(residents: list[Resident], *, waiting: int = 0, orders: Orders = Orders(), model: StepModel | None = None):  # type: ignore[no-untyped-def]  # noqa: B008
    return share(
        residents,
        online_waiting_tokens=waiting,
        step_tokens_max=STEP_TOKENS,
        orders=orders,
        model=model or StepModel(),
    )


def test_the_fit_finds_what_steps_cost_on_this_machine() -> None:
    model = fitted(context=1.0)
    assert model.is_trusted
    assert model.weights == pytest.approx([14.0, 2.0, 1.5, 1.0], rel=0.15)
    assert model.predict_ms(StepShape(64, 0, 5000)) == pytest.approx(147.0, rel=0.05)


def test_the_fit_follows_a_machine_that_becomes_twice_as_slow() -> None:
    model = fitted()
    for no in range(1500):
        model.add(StepShape(1 + no % 64, 0, 0), 2 * (14.0 + 2.0 * (1 + no % 64)))
    assert model.predict_ms(StepShape(10, 0, 0)) == pytest.approx(68.0, rel=0.1)


def test_a_step_that_something_else_delayed_teaches_nothing() -> None:
    model = fitted()
    before = model.predict_ms(StepShape(8, 0, 0))
    model.add(StepShape(8, 0, 0), 5_000.0)
    assert model.predict_ms(StepShape(8, 0, 0)) == before


def test_a_new_engine_is_not_trusted_and_random_times_never_are() -> None:
    assert not StepModel().is_trusted
    chance, model = random.Random(1), StepModel()
    for _ in range(300):
        model.add(StepShape(chance.randrange(1, 64), 0, 0), chance.uniform(1, 1000))
    assert not model.is_trusted


def test_before_the_fit_a_fixed_number_decodes_beside() -> None:
    found = shared([*decodes(1, online=True), *decodes(32)])
    assert found.take_part == tuple(f"b{no}" for no in range(8))
    assert found.step_tokens_max == 256


@pytest.mark.parametrize(("factor", "beside"), [(1.0, 1), (1.5, 4), (2.0, 8), (10.0, 32)])
def test_as_many_decode_beside_as_the_online_step_may_take_longer(factor: float, beside: int) -> None:
    """Alone 16 ms; each batch decode adds 2 ms."""
    found = shared([*decodes(1, online=True), *decodes(32)], orders=Orders(itl_factor_max=factor), model=fitted())
    assert len(found.take_part) == pytest.approx(beside, abs=1)


def test_a_target_in_milliseconds_wins_over_the_factor() -> None:
    orders = Orders(itl_ms_max=40.0, itl_factor_max=1.0)
    found = shared([*decodes(1, online=True), *decodes(32)], orders=orders, model=fitted())
    assert len(found.take_part) == pytest.approx(12, abs=1)


def test_while_an_online_prompt_is_read_the_batch_hardly_takes_part() -> None:
    for residents, waiting in (([*prefills(500, online=True), *decodes(32)], 0), (decodes(32), 500)):
        found = shared(residents, waiting=waiting, model=fitted())
        assert found.take_part == ("b0",)
        assert found.step_tokens_max == 501
        assert found.admit_max == 0


def test_time_that_decodes_leave_goes_to_prompts_of_the_batch() -> None:
    orders = Orders(itl_ms_max=100.0)
    found = shared([*decodes(1, online=True), *decodes(4), *prefills(30, 900)], orders=orders, model=fitted())
    assert found.take_part == ("b0", "b1", "b2", "b3", "bp0", "bp1")
    assert found.step_tokens_max == pytest.approx(1 + 4 + 50, abs=5)
    assert found.admit_max == 0


def test_with_time_and_no_prompt_to_read_the_batch_may_admit() -> None:
    found = shared([*decodes(1, online=True), *decodes(4)], orders=Orders(itl_ms_max=100.0), model=fitted())
    assert found.admit_max == 1


def test_a_batch_that_only_reads_prompts_goes_on_in_small_pieces() -> None:
    found = shared([*decodes(1, online=True), *prefills(900)], orders=Orders(itl_factor_max=1.0), model=fitted())
    assert found.take_part == ("bp0",)
    assert found.step_tokens_max >= 2


def test_a_pause_frees_the_engine_at_the_next_step() -> None:
    found = shared([*decodes(1, online=True), *decodes(32)], orders=Orders(is_paused=True), model=fitted())
    assert (found.take_part, found.step_tokens_max, found.admit_max) == ((), 1, 0)


def idle(residents: list[Resident], orders: Orders = Orders(), model: StepModel | None = None):  # type: ignore[no-untyped-def]  # noqa: B008
    return share_idle(
        residents,
        online_prompt_tokens=100.0,
        step_tokens_max=STEP_TOKENS,
        orders=orders,
        model=model or fitted(),
    )


def test_a_step_without_online_requests_is_short_enough_for_one_that_arrives() -> None:
    """Its prompt takes 164 ms alone, so at twice that a step may take 164 ms: 64 decodes (142 ms) and 14 tokens."""
    found = idle(decodes(64))
    assert len(found.take_part) == 64
    assert found.step_tokens_max == pytest.approx(64 + 32, abs=4)
    found = idle(decodes(64), Orders(ttft_ms_max=244.0))
    assert len(found.take_part) == pytest.approx(33, abs=2)
    assert found.step_tokens_max == len(found.take_part) + PREFILL_TOKENS_MIN
    assert idle(decodes(4), Orders(ttft_ms_max=1e6)).step_tokens_max == STEP_TOKENS


def test_a_step_without_online_requests_is_never_shorter_than_its_least() -> None:
    """On a fast engine the prompt alone takes 11 ms: steps as short would cost the batch its throughput."""
    fast = fitted(base=5.0, decode=0.04, prefill=0.06)
    assert idle_step_ms_max(Orders(), fast, 100.0) == pytest.approx(25.0)
    assert idle_step_ms_max(Orders(ttft_ms_max=100.0), fast, 100.0) == pytest.approx(89.0, abs=1)


def test_before_the_fit_a_step_without_online_requests_has_all_decodes_and_few_prompt_tokens() -> None:
    found = idle([*decodes(64), *prefills(900, 900)], model=StepModel())
    assert len(found.take_part) == 66
    assert found.step_tokens_max == 64 + 256


RESIDENTS = st.lists(
    st.builds(Resident, st.uuids().map(str), st.booleans(), st.sampled_from([0, 0, 0, 7, 900]), st.integers(0, 4000)),
    max_size=40,
    unique_by=lambda one: one.request_id,
)
ORDERS = st.builds(
    Orders,
    is_paused=st.booleans(),
    itl_ms_max=st.sampled_from([0.0, 5.0, 50.0]),
    itl_factor_max=st.floats(1, 10),
    beside_min=st.integers(1, 4),
    beside_max=st.integers(4, 64),
)
MODEL = fitted()


@given(RESIDENTS, st.integers(0, 3000), ORDERS, st.sampled_from([MODEL, StepModel()]))
@settings(max_examples=200)
def test_a_share_keeps_every_bound(residents: list[Resident], waiting: int, orders: Orders, model: StepModel) -> None:
    found = shared(residents, waiting=waiting, orders=orders, model=model)
    batch = {one.request_id: one for one in residents if not one.is_online}
    online = [one for one in residents if one.is_online]
    assert set(found.take_part) <= set(batch)
    assert len(set(found.take_part)) == len(found.take_part)
    assert 1 <= found.step_tokens_max <= STEP_TOKENS
    decoding = [name for name in found.take_part if batch[name].prefill_left == 0]
    assert len(decoding) <= max(orders.beside_max, orders.beside_min, orders.beside_untrusted)
    if orders.is_paused:
        assert found.take_part == ()
    # All tokens that online requests want fit, up to the engine's own bound.
    wanted = waiting + sum(max(1, one.prefill_left) for one in online)
    assert found.step_tokens_max >= min(STEP_TOKENS, wanted) or not wanted


@given(RESIDENTS, ORDERS, st.floats(0, 5000), st.sampled_from([MODEL, StepModel()]))
@settings(max_examples=200)
def test_a_share_without_online_requests_lets_someone_go_on(
    residents: list[Resident], orders: Orders, prompt_tokens: float, model: StepModel
) -> None:
    batch = [replace(one, is_online=False) for one in residents]
    found = share_idle(
        batch, online_prompt_tokens=prompt_tokens, step_tokens_max=STEP_TOKENS, orders=orders, model=model
    )
    assert set(found.take_part) <= {one.request_id for one in batch}
    assert bool(found.take_part) == bool(batch)
    assert 1 <= found.step_tokens_max <= STEP_TOKENS
    assert found.admit_max > 0


@given(st.lists(st.integers(0, 60), unique=True), st.lists(st.integers(0, 60), unique=True), st.booleans())
def test_rotation_keeps_everyone_and_gives_each_a_turn(candidates: list[int], beside: list[int], is_due: bool) -> None:
    names, were = [str(no) for no in candidates], [str(no) for no in beside]
    order = rotated(names, were, is_due=is_due)
    assert sorted(order) == sorted(names)
    inside = [name for name in were if name in names]
    assert (order[len(order) - len(inside) :] if is_due else order[: len(inside)]) == inside


def test_in_turns_everyone_takes_part() -> None:
    """And not the same two groups again and again."""
    names = [str(no) for no in range(20)]
    beside: list[str] = []
    seen: list[str] = []
    for _ in range(5):
        beside = rotated(names, beside, is_due=True)[:4]
        seen += beside
    assert seen == names


def test_orders_and_reports_cross_the_file(tmp_path: Path) -> None:
    server = Channel.create(tmp_path / "e.channel", Orders(itl_ms_max=25.0))
    engine = Channel.open(tmp_path / "e.channel")
    assert engine.orders(Orders()) == Orders(itl_ms_max=25.0)
    server.give(Orders(mode=Mode.PRIORITY, is_paused=True, beside_max=3))
    assert engine.orders(Orders()) == Orders(mode=Mode.PRIORITY, is_paused=True, beside_max=3)
    engine.report(Report(steps=7, decode_ms=1.9))
    assert server.reported(Report()) == Report(steps=7, decode_ms=1.9)
    assert (tmp_path / "e.channel").stat().st_mode & 0o777 == 0o600
    server.close()
    engine.close()


def test_a_half_written_order_is_not_taken(tmp_path: Path) -> None:
    server = Channel.create(tmp_path / "e.channel", Orders())
    with (tmp_path / "e.channel").open("r+b") as file:
        file.seek(ORDERS_AT)
        file.write(SEQUENCE.pack(5))
    known = Orders(itl_ms_max=1.0)
    assert server.orders(known) == known
    server.give(Orders(itl_ms_max=2.0))
    assert server.orders(known) == Orders(itl_ms_max=2.0)
    server.close()


def test_a_file_that_is_no_channel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"x" * 4096)
    with pytest.raises(ValueError, match="is no channel of version 2"):
        Channel.open(path)
