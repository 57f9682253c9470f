"""Faster products are taken only where they are float32 products."""

import subprocess
import sys

import pytest
import torch

from model_store.float32_products import is_amd, use_fast_float32_products

_PRODUCTS = """
import torch
from model_store.float32_products import use_fast_float32_products

use_fast_float32_products()
worst = 0.0
for seed in range(20):
    random = torch.Generator().manual_seed(seed)
    rows, inner, columns = torch.randint(1, 600, (3,), generator=random).tolist()
    left, right = torch.randn(rows, inner, generator=random), torch.randn(columns, inner, generator=random)
    exact = left.double() @ right.double().T
    for product in (left @ right.T, torch.nn.functional.linear(left, right)):
        worst = max(worst, (product - exact).abs().max().item() / inner**0.5)
print(worst)
"""


def test_products_keep_float32_whatever_was_chosen() -> None:
    """In a process of its own, since the choice holds for a process."""
    done = subprocess.run([sys.executable, "-c", _PRODUCTS], capture_output=True, text=True, check=True)
    # bfloat16 would be off by 4e-3 and more.
    assert float(done.stdout) < 1e-5


@pytest.mark.skipif(is_amd(), reason="for other makers' processors")
def test_nothing_is_touched_where_mkl_is_fast() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    assert use_fast_float32_products() is False
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]
