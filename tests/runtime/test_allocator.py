"""Freed memory is kept for the next chunk."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CHURN = """
import ctypes, resource, sys
from mpls.runtime.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def window():
    chunks = [libc.malloc(1 << 20) for _ in range(16)]
    for chunk in chunks:
        libc.memset(chunk, 1, 1 << 20)
    for chunk in chunks:
        libc.free(chunk)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

window()
before = faults()
for _ in range(20):
    window()
print(faults() - before)
"""


def page_faults(how: str) -> int:
    command = [sys.executable, "-c", CHURN, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this knob")
def test_the_memory_of_a_chunk_is_not_fetched_from_the_kernel_for_each_one_anew() -> None:
    assert page_faults("kept") < 1_000 < page_faults("as it comes")
