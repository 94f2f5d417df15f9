"""A stand-in for an accelerator, since CI has none.

Within `FarDevice` tensors on ``meta`` hold their values, in host memory but out of reach: an
operation that meets tensors of both devices fails as on a GPU, `waits` notes whatever would make
the host wait for one, and `kernels` what one would have to compute.
"""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

WAITING = {
    "aten::_local_scalar_dense",
    "aten::bincount",
    "aten::equal",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave.Tensor",
    "aten::unique_consecutive",
    "aten::_unique2",
}
COPYING = {"aten::copy_", "aten::_to_copy"}
INDEXING = {"aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class FarTensor(torch.Tensor):
    """Says that it is on ``meta``; `near` has its values."""

    is_meta = False  # to those who ask whether there are values

    @staticmethod
    def __new__(cls, near):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device="meta",
        )

    def __init__(self, near):
        self.near = near

    def __repr__(self):
        return f"FarTensor({self.near})"

    def __reduce_ex__(self, protocol):
        return self.near.__reduce_ex__(protocol)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside FarDevice")


def _near(tree):
    return tree_map_only(FarTensor, lambda t: t.near, tree)


class FarDevice(TorchDispatchMode):
    """While inside `on`, ``meta`` is a device with values."""

    def __init__(self):
        super().__init__()
        self.waits = []
        self.kernels = []

    @contextmanager
    def on(self):
        autocast = torch.autocast  # knows no meta device
        kind = patch.object(torch, "autocast", lambda _, **options: autocast("cpu", **options))
        with kind, self, _Values():
            yield self

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, returns, kwargs = func.name(), func._schema.returns, dict(kwargs or {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        far = [isinstance(t, FarTensor) for t in tensors]
        near = [t for t in tensors if not isinstance(t, FarTensor)]
        goes_far = far[0] if name == "aten::copy_" else any(far)
        if kwargs.get("device") is not None:
            goes_far = torch.device(kwargs["device"]).type == "meta"
            kwargs["device"] = "cpu"
        if name in COPYING:
            waits = any(is_far != goes_far for is_far in far)
            if goes_far and (kwargs.get("non_blocking") or args[2:] == (True,)):
                waits = False
        elif any(far) and any(t.ndim for t in near):
            raise RuntimeError(f"{name} of tensors on different devices")
        else:
            indices = tree_leaves(args[1]) if name in INDEXING else []
            by_mask = any(i is not None and i.dtype == torch.bool for i in indices)
            waits = any(far) and (name in WAITING or by_mask)
        if waits:
            self.waits.append(name)
        if goes_far and not any(r.alias_info and not r.alias_info.is_write for r in returns):
            self.kernels.append(name)
        result = func(*_near(args), **_near(kwargs))
        if goes_far:
            result = tree_map_only(torch.Tensor, FarTensor, result)
            if any(far):
                return return_and_correct_aliasing(func, args, kwargs, result)
        return result


class _Values(TorchFunctionMode):
    """Goes between Python's values and tensors, which takes no operation that is dispatched."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.tolist and isinstance(args[0], FarTensor):
            return args[0].cpu().tolist()
        if func is torch.Tensor.new_tensor and isinstance(args[0], FarTensor):
            kwargs = {"dtype": args[0].dtype, "device": "meta"} | kwargs
            func, args = torch.tensor, args[1:]
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == "meta":
            del kwargs["device"]
            data = tree_map_only(torch.Tensor, lambda t: t.cpu().tolist(), args[0])
            return torch.tensor(data, *args[1:], **kwargs).to("meta")
        return func(*args, **kwargs)
