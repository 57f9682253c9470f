"""Matrix products in float32 at the speed of the processor.

PyTorch multiplies float32 matrices by Intel's MKL, which keeps to AVX2 on other makers' processors; oneDNN, which comes
with PyTorch too, uses AVX-512 there and took 0.45 of the time on an AMD EPYC. PyTorch hands float32 products to oneDNN
only where bfloat16 would be good enough. So that is what we say, and then look whether float32 was kept all the same.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch

# (rows, inner, columns): one user alone, a few, a batch of prompts; inner sizes of small and large models.
_PROBES = ((1, 64, 64), (20, 256, 1024), (320, 640, 2560), (1040, 2560, 640))
# bfloat16 would be off by hundreds of times what float32 is.
_TIMES_FLOAT32 = 8.0


@cache
def use_fast_float32_products() -> bool:
    """Let oneDNN multiply float32 matrices of this process, on an AMD processor, if it keeps float32.

    Returns:
        Whether it does so from now on. The answer is the same on every run of a machine.
    """
    if not is_amd():
        return False
    errors = _errors()
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, settings.fp32_precision = settings.fp32_precision, "bf16"
    if all(ours <= _TIMES_FLOAT32 * theirs for ours, theirs in zip(_errors(), errors, strict=True)):
        return True
    settings.fp32_precision = before
    return False


def is_amd() -> bool:
    """Whether this is an AMD processor, as far as Linux tells."""
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _errors() -> list[float]:
    random = torch.Generator().manual_seed(0)
    found = []
    for rows, inner, columns in _PROBES:
        left, right = (torch.randn(shape, generator=random) for shape in ((rows, inner), (inner, columns)))
        found.append((left @ right - (left.double() @ right.double())).abs().max().item())
    return found
