"""How kernels that wait for one another are started."""

from __future__ import annotations

import torch
from torch import Tensor


def launch(like: Tensor) -> dict[str, bool]:
    """Options of a Triton kernel with a parameter `chained`: on Hopper and later it starts while the one before still
    runs, and waits for its results on the multiprocessors (programmatic dependent launch).
    """
    chained = like.is_cuda and torch.cuda.get_device_capability(like.device)[0] >= 9
    return {"chained": chained, "launch_pdl": chained} if like.is_cuda else {"chained": chained}
