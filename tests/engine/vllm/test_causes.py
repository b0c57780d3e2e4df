"""The root cause of a failed start, from what vLLM prints."""

from __future__ import annotations

from engine.vllm.causes import one_line, root_cause

WORKER = """\
(Worker pid=11) INFO 11-24 06:05:04 [parallel_state.py:1906] world_size=1
(Worker pid=11) ERROR 11-24 06:05:05 [multiproc_executor.py:990] WorkerProc failed to start.
(Worker pid=11) ERROR 11-24 06:05:05 [multiproc_executor.py:990] Traceback (most recent call last):
(Worker pid=11) ERROR 11-24 06:05:05 [multiproc_executor.py:990]   File "x.py", line 1, in load
(Worker pid=11) ERROR 11-24 06:05:05 [multiproc_executor.py:990] torch.OutOfMemoryError: CUDA is out of memory.
(EngineCore pid=10) ERROR 11-24 06:05:06 [core.py:1480] EngineCore failed to start.
(EngineCore pid=10) ERROR 11-24 06:05:06 [core.py:1480] Exception: WorkerProc initialization failed due to an exception
(MainProcess pid=9) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""

PYDANTIC = """\
Traceback (most recent call last):
  File "y.py", line 2, in <module>
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, Model architectures ['Foo'] are not supported for now. [type=value_error, input_value=ArgsKwargs(())]
    For further information visit https://errors.pydantic.dev/2/v/value_error
"""


def test_the_childs_own_exception_wins_over_its_parents_reports() -> None:
    assert root_cause(WORKER) == "OutOfMemoryError: CUDA is out of memory."


def test_a_validation_error_is_its_finding() -> None:
    assert root_cause(PYDANTIC) == "ValidationError: Model architectures ['Foo'] are not supported for now."


def test_a_log_without_an_exception_has_no_cause() -> None:
    assert root_cause("INFO all is well\nRuntimeError: Engine core initialization failed.") is None
    assert root_cause("") is None


def test_colours_do_not_hide_the_cause() -> None:
    assert root_cause("\x1b[0;36m(Worker pid=1)\x1b[0;0m ValueError: too little") == "ValueError: too little"


def test_a_cause_is_one_line_of_bounded_length() -> None:
    assert one_line("a\n  b\n\nc") == "a b c"
    assert len(one_line("x" * 10_000)) == 400
