"""What the matrix products of an update take by themselves, made one by one: a floor on what the update can take.

The products that an update makes are counted by shape, then each shape is made over and over on its own, by the faster
of torch's libraries. Everything else that a step needs (the simulator, activations, optimisers, Python) counts nothing
there; torch's other operations are only counted: on small networks many cost more for being called than for what they
compute.
"""

from __future__ import annotations

import timeit
from collections import Counter
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from s2pg.kernels import product
from s2pg.timing.lanes import Lane


class Product(NamedTuple):
    """`many` products `[rows, inner] [inner, columns]` in one call."""

    many: int
    rows: int
    inner: int
    columns: int

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.many * self.rows * self.inner * self.columns


def _of(a: torch.Tensor, b: torch.Tensor) -> Product:
    return Product(1 if a.dim() == 2 else len(a), a.shape[-2], a.shape[-1], b.shape[-1])


RECOGNISED: dict[str, Callable[..., Product]] = {
    "mm": _of,
    "bmm": _of,
    "addmm": lambda bias, a, b: _of(a, b),
    "baddbmm": lambda bias, a, b: _of(a, b),
    "_linear_pointwise": lambda x, weight, *_: Product(1, x.shape[:-1].numel(), weight.shape[1], weight.shape[0]),
}


class Products(TorchDispatchMode):
    """Counts the matrix products of whatever runs inside, forward and backward, by shape, and all other operations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Product] = Counter()
        self.others = 0  # views included

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        recognise = RECOGNISED.get(func.overloadpacket.__name__)
        if recognise:
            self.counts[recognise(*args)] += 1
        else:
            self.others += 1
        return func(*args, **(kwargs or {}))


def counted(lane: Lane) -> Products:
    """The operations of one turn of a method, acting included."""
    with Products() as products:
        lane.update()
    return products


def seconds(counts: Mapping[Product, int]) -> float:
    """How long so many products take one after the other, each made by the faster library, with its inputs in reach."""
    return sum(number * alone(one) for one, number in counts.items() if one.operations)


def alone(one: Product, repeats: int = 5, least: float = 2e-3) -> float:
    """Seconds of one product, the median of `repeats` blocks of at least `least` seconds."""
    many, rows, inner, columns = one
    if many > 1:
        a, b = torch.randn(many, rows, inner), torch.randn(many, inner, columns)
        return _timed(lambda: torch.bmm(a, b), repeats, least)
    x, weight, turned = torch.randn(rows, inner), torch.randn(columns, inner), torch.randn(inner, columns)
    libraries = (lambda: torch.mm(x, turned), lambda: product(x, weight))
    return min(_timed(library, repeats, least) for library in libraries)


def _timed(call: Callable[[], Any], repeats: int, least: float) -> float:
    call()
    number = max(1, round(least / max(timeit.timeit(call, number=3) / 3, 1e-7)))
    return median(timeit.repeat(call, number=number, repeat=repeats)) / number
