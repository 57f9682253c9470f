"""The processes of one training run: one, or several that `accelerate launch` (or torchrun) started.

    accelerate launch --multi_gpu --num_processes 8 -m tessera train --data DIR

Every process runs the same program. The main one makes whatever is made once (vectors, codes, files, a published
bundle) and the others pick it up from the run's folder, which all must see; only the language model trains in all.
"""

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, gather_object
from torch import nn

from model_store.errors import TesseraError

T = TypeVar("T")

_WAIT = timedelta(days=2)
"""The others wait for the main process that long. It trains whole stages meanwhile, so the default of minutes is not
enough; where it dies, the launcher ends the others."""

_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class Processes:
    """This process among those of the run.

    Attributes:
        rank: which one this is, 0 to count - 1.
        count: how many there are.
        device: where this one computes: its GPU, or the CPU.

    Raises:
        TesseraError: they were started for a way of training that is not supported, such as DeepSpeed or FSDP.
    """

    def __init__(self) -> None:
        # Precision is the recipe's choice, and so is what a step is made of, whatever the launcher was told.
        self._accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",
            gradient_accumulation_steps=1,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_WAIT)],
        )
        if self._accelerator.distributed_type not in _SUPPORTED:
            raise TesseraError(
                f"accelerate launch: {self._accelerator.distributed_type.value} is not supported; "
                "train with plain data parallelism (--multi_gpu), and training.method=lora where memory is short"
            )
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        device: torch.device = self._accelerator.device
        self.device = device if device.type == "cuda" else torch.device(device.type)

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes, prints and publishes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        self._accelerator.wait_for_everyone()

    def gather(self, value: T) -> list[T]:
        """What every process gives, in the order of ranks; the same list in all of them."""
        gathered: list[T] = gather_object([value])
        return gathered

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over processes after each backward pass; itself where there is one."""
        wrapped: nn.Module = self._accelerator.prepare_model(module)
        return wrapped

    def unsynchronised(self, module: Any) -> AbstractContextManager[Any]:
        """Within it, a backward pass of a `parallel` module leaves its gradients in this process."""
        return module.no_sync() if self.count > 1 else nullcontext()

    def end(self) -> None:
        """Take leave of the other processes."""
        self._accelerator.end_training()
