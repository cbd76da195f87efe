"""PyTorch's optimisers without the decorators by which torch imports its compiler.

They tell the compiler to leave a method alone, and import it for that at the first call, which
takes as long as torch itself; no optimiser is compiled here. The methods below the decorators stay
as they are.
"""

import inspect
from typing import TypeVar, cast

import torch
from torch import optim
from torch.optim import Optimizer

_Optimizer = TypeVar("_Optimizer", bound=Optimizer)


def uncompiled(optimizer: type[_Optimizer]) -> type[_Optimizer]:
    """Return an optimiser's class with the same methods, undecorated."""
    plain = {
        name: inspect.unwrap(getattr(optimizer, name))
        for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    }
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    made = type(optimizer.__name__, (optimizer,), {**plain, "step": step})
    return cast("type[_Optimizer]", made)


SGD, Adam, AdamW = uncompiled(optim.SGD), uncompiled(optim.Adam), uncompiled(optim.AdamW)
