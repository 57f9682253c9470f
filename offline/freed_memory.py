"""Keeping freed memory: what a training step gives back, the next one takes again.

glibc returns large blocks to the kernel at once, and gets them back as pages that must be zeroed and mapped one by one.
A step of SASRec over 12,000 items then takes a fifth longer (docs/experiments.md).
"""

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process hold on to the memory it frees, from now on; nothing happens without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
