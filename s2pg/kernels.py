"""Products and a derivative that decide BPTT's speed on a CPU: the mathematics of `nets.py`, done faster."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from s2pg import machine


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to 1 GiB, for the next update instead of fetching it from the system anew.

    Has no effect on other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(trim_threshold, 1 << 30)
        mallopt(mmap_threshold, 32 << 20)


def many_rows(facts: Mapping[str, str]) -> int:
    """From how many rows on `Linear` is faster than torch's own layer, on the processor that `machine.cpu` describes.

    64 where oneDNN wins by itself: AMD from family 26 (Zen 5) on multiplies 512 bits at a time, of which MKL, torch's
    default library, uses 256. 1024 elsewhere, measured on AMD's family 25 (Zen 4), whose units are 256 bits wide: there
    the two are alike, and what `Linear` saves is the slow gradient of narrow weights (`outer`). Intel: not measured.
    """
    wide = facts.get("vendor_id") == "AuthenticAMD" and int(facts.get("cpu family", 0)) >= 26
    return 64 if wide else 1024


MANY_ROWS = many_rows(machine.cpu())
NARROW = 64  # columns below which a gradient of weights is made the other way round


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x [n, K] weight [M, K]^T + bias [M]`, through oneDNN."""
    if x.dtype != torch.float32 or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return torch.nn.functional.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def outer(gradient: Tensor, x: Tensor) -> Tensor:
    """`gradient [n, M]^T x [n, K]`, the gradient of `product`'s weight.

    Where x is narrow, oneDNN spends most of its time on turning `gradient` around; where x is a slice of something
    wider, it is many times slower than on a copy.
    """
    return torch.mm(x.t(), gradient).t() if x.shape[-1] < NARROW else product(gradient.t(), x.contiguous().t())


class Linear(torch.autograd.Function):
    """`F.linear(x [*, K], weight, bias)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), (for_x, for_weight, for_bias) = ctx.saved_tensors, ctx.needs_input_grad
        flat = gradient.flatten(0, -2)
        d_x = product(gradient.contiguous(), weight.t()) if for_x else None
        d_weight = outer(flat, x.flatten(0, -2)) if for_weight else None
        return d_x, d_weight, flat.sum(0) if for_bias else None


class GRU(torch.autograd.Function):
    """`nets.GRU.step` over L steps of B streams, `g [L,B,3H], start [L,B,1], z [B,H] -> L x [B,H]`.

    With a = (reset, update, new) the activations and h = U z + b, a step is z' = n + u (z - n), n = tanh(g_n + r h_n).
    Of its derivative only dz waits for the step after it; everything else is one product for all steps at once.
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, start: Tensor, z: Tensor, weight: Tensor, bias: Tensor) -> Sequence[Tensor]:
        size, forgets = z.shape[-1], start.flatten(1).any(1).tolist()
        before, after = torch.empty_like(g[..., :size]), torch.empty_like(g[..., :size])
        a, h_n = torch.empty_like(g), torch.empty_like(before)
        halves = [2 * size, size]
        gates, (r, u, n) = g.split(halves, -1), a.split(size, -1)
        steps = zip(*gates, a[..., : 2 * size], r, u, n, h_n, start, forgets, before, after, strict=True)
        for g_ru, g_n, ru_t, r_t, u_t, n_t, h_t, fresh, forget, z_in, z_out in steps:
            z_in.copy_(z.masked_fill(fresh, 0.0) if forget else z)
            h_ru, h = product(z_in, weight, bias).split(halves, -1)
            torch.add(g_ru, h_ru, out=ru_t).sigmoid_()
            torch.addcmul(g_n, r_t, h_t.copy_(h), out=n_t).tanh_()
            z = torch.lerp(n_t, z_in, u_t, out=z_out)
        ctx.save_for_backward(start, before, a, h_n, weight)
        ctx.forgets = forgets
        ctx.set_materialize_grads(False)
        return after.unbind()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_after: Tensor | None) -> tuple[Tensor | None, ...]:
        start, before, a, h_n, weight = ctx.saved_tensors
        r, u, n = a.chunk(3, -1)
        by_g_n = (1 - u) * (1 - n * n)
        by_h = torch.stack([by_g_n * (1 - r) * r * h_n, (before - n) * u * (1 - u), by_g_n * r], -2)  # dz' / d(h)
        d_z, d_h = torch.empty_like(before), torch.empty_like(by_h)
        d = torch.zeros_like(before[0])
        flat, weight_t = d_h.flatten(-2), weight.t()
        steps = zip(d_after, d_z, d_h, flat, by_h, u, start, ctx.forgets, strict=True)
        for d_out, d_t, d_h_t, flat_t, by_h_t, u_t, fresh, forget in reversed(list(steps)):
            torch.add(d, d_out, out=d_t) if d_out is not None else d_t.copy_(d)
            torch.mul(d_t.unsqueeze(-2), by_h_t, out=d_h_t)
            d = torch.addcmul(product(flat_t, weight_t), d_t, u_t)
            d = d.masked_fill_(fresh, 0.0) if forget else d
        rows = flat.flatten(0, 1)
        d_weight, d_bias = outer(rows, before.flatten(0, 1)), rows.sum(0)
        torch.mul(d_z, by_g_n, out=d_h[..., 2, :])  # g and h differ in the new gate alone
        return flat, None, d, d_weight, d_bias
