from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CHURN = """
import resource, sys
from store.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    [b"x" * (1 << 20) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-P", "-c", CHURN, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told anything")
def test_megabytes_made_again_and_again_cost_their_pages_once() -> None:
    assert page_faults("kept") * 10 < page_faults("as it is")
