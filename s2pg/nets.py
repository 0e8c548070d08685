"""Feed-forward pieces and recurrent cells. A cell is two functions, so that one implementation steps and unrolls."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from s2pg.types import Width


def linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """A linear layer, Xavier-uniform weights scaled by `gain`, biases as torch draws them (as the reference)."""
    layer = nn.Linear(inputs, outputs)
    if inputs and outputs:
        nn.init.xavier_uniform_(layer.weight, gain=gain)
    return layer


def mlp(sizes: list[int], gain: float = 1.0) -> nn.Sequential:
    """ReLU network over `sizes` = [input, hidden ..., output]; Xavier gains sqrt(2)*gain, in the last layer 1*gain."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes[:-2], sizes[1:-1], strict=True):
        layers += [linear(inputs, outputs, math.sqrt(2) * gain), nn.ReLU()]
    return nn.Sequential(*layers, linear(sizes[-2], sizes[-1], gain))


class Embedding(nn.Module):
    """The reference's input layers: separate ReLU embeddings of the observation and the previous action.

    `forward` feeds the cell, `[*, O] -> [*, outputs]`; `skip` goes around it, `[*, O] -> [*, features]`.
    """

    def __init__(self, width: Width, features: int, gain: float) -> None:
        super().__init__()
        self.width = width
        gain = math.sqrt(2) * gain
        self.observation = linear(width.env, features, gain)
        self.bypass = linear(width.env, features, gain)
        self.previous = linear(width.previous_action, features, gain) if width.previous_action else None
        self.outputs = features * (2 if self.previous else 1)

    def forward(self, obs: Tensor) -> Tensor:
        env, previous = obs.split(self.width, -1)
        e = self.observation(env)
        return torch.relu(e if self.previous is None else torch.cat([e, self.previous(previous)], -1))

    def skip(self, obs: Tensor) -> Tensor:
        """The skip connection reads the observation without the previous action."""
        return torch.relu(self.bypass(obs[..., : self.width.env]))


class _OneDNN(torch.autograd.Function):
    """`F.linear` through oneDNN, which uses AVX-512 on every CPU that has it; torch's default, MKL, does not on AMD."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        product = torch.ops.mkldnn._linear_pointwise
        flat, x = gradient.flatten(0, -2), x.flatten(0, -2)
        inputs = product(gradient.contiguous(), weight.t(), None, "none", [], "")
        return inputs, product(flat.t(), x.t(), None, "none", [], ""), flat.sum(0)


def tall(x: Tensor, layer: nn.Linear) -> Tensor:
    """`layer(x)` for many rows at once: on a CPU the matrix products of whole sequences take most of BPTT's time.

    The limit of 256 rows, below which a custom gradient in Python may cost more than it saves, was not tuned.
    """
    many = x.shape[:-1].numel() >= 256
    if many and x.device.type == "cpu" and x.dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return _OneDNN.apply(x, layer.weight, layer.bias)
    return layer(x)


class Cell(nn.Module):
    """A recurrent cell: `project` turns inputs into gate inputs for all steps at once, `step` moves the state by one.

    Weights are drawn as torch's own cells draw them, uniform in +-1/sqrt(hidden).
    """

    gates: int
    states: int

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.size = self.states * hidden
        self.input = nn.Linear(inputs, self.gates * hidden)
        self.recurrent = nn.Linear(hidden, self.gates * hidden)
        bound = 1 / math.sqrt(hidden) if hidden else 0.0
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def project(self, e: Tensor) -> Tensor:
        """`[*, inputs] -> [*, gates * hidden]`."""
        return tall(e, self.input)

    def step(self, g: Tensor, z: Tensor) -> Tensor:
        """`(g [*, gates * hidden], z [*, Z]) -> z' [*, Z]`."""
        raise NotImplementedError

    def output(self, z: Tensor) -> Tensor:
        """The part of the state that the heads read, `[*, Z] -> [*, hidden]`."""
        return z[..., : self.hidden]


class GRU(Cell):
    """Cho et al. 2014, with torch's gate order (reset, update, new) and its bias inside the reset product."""

    gates, states = 3, 1

    def step(self, g: Tensor, z: Tensor) -> Tensor:
        h = self.recurrent(z)
        split = [2 * self.hidden, self.hidden]
        (g_ru, g_n), (h_ru, h_n) = g.split(split, -1), h.split(split, -1)
        r, u = torch.sigmoid(g_ru + h_ru).chunk(2, -1)
        n = torch.tanh(g_n + r * h_n)
        return n + u * (z - n)


class LSTM(Cell):
    """Hochreiter & Schmidhuber 1997, torch's gate order (input, forget, cell, output); the state is (h, c)."""

    gates, states = 4, 2

    def step(self, g: Tensor, z: Tensor) -> Tensor:
        h, c = z.chunk(2, -1)
        i, f, n, o = (g + self.recurrent(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(n)
        return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], -1)


class RNN(Cell):
    """Elman's cell, z' = tanh(g + U z)."""

    gates, states = 1, 1

    def step(self, g: Tensor, z: Tensor) -> Tensor:
        return torch.tanh(g + self.recurrent(z))


CELLS: dict[str, type[Cell]] = {"gru": GRU, "lstm": LSTM, "rnn": RNN}
