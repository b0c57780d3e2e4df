"""Real vLLM does what every engine must."""

from __future__ import annotations

import pytest

from tests.engine.conformance.suite import TESTS, Test
from tests.engine.vllm.harness import VllmUnderTest

pytestmark = [pytest.mark.real_engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.__name__)
async def test_vllm_does_what_an_engine_must(test: Test, under_test: VllmUnderTest) -> None:
    await test(under_test)


async def test_the_default_chat_model_knows_the_capital_of_france(under_test: VllmUnderTest) -> None:
    result = await under_test.engine.generate(under_test.chat("What is the capital of France?", max_tokens=20))
    assert b"Paris" in result.body


async def test_two_engines_keep_their_own_metrics(under_test: VllmUnderTest) -> None:
    for engine, model in ((under_test.engine, "smollm2"), (under_test.embedding_engine, "minilm")):
        lines = [line for line in (await engine.metrics()).splitlines() if line.startswith("vllm:num_requests_running")]
        assert len(lines) == 1
        assert model in lines[0]
        assert f'nightbatch_engine="{engine.name}"' in lines[0]


async def test_limits_come_from_the_engine_itself(under_test: VllmUnderTest) -> None:
    chat, embedding = under_test.engine.limits(), under_test.embedding_engine.limits()
    assert chat.inflight_requests_max > 64
    assert chat.inflight_tokens_max is not None
    assert chat.inflight_tokens_max > 40_000
    assert embedding.inflight_tokens_max is None
    assert embedding.slots is not None
    assert embedding.inflight_requests_max == 2 * embedding.slots
