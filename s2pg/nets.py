"""Feed-forward pieces and recurrent cells. A cell is two functions, so that one implementation steps and unrolls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from s2pg import kernels
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


def tall(x: Tensor, layer: nn.Linear) -> Tensor:
    """`layer(x)` for many rows at once: on a CPU the matrix products of whole sequences take most of BPTT's time."""
    return kernels.Linear.apply(x, layer.weight, layer.bias) if _many(x) else layer(x)


def _many(x: Tensor) -> bool:
    """Rows enough to be worth a gradient in Python; the limit was not tuned."""
    return x.device.type == "cpu" and x.shape[:-1].numel() >= 256


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

    def unroll(self, g: Tensor, start: Tensor, z: Tensor) -> Sequence[Tensor]:
        """The state after each of L steps, `g [L, *, gates * hidden], start [L, *, 1], z [*, Z] -> L x [*, Z]`."""
        forgets, states = start.flatten(1).any(1).tolist(), []
        for gates, fresh, forget in zip(g, start, forgets, strict=True):
            z = self.step(gates, torch.where(fresh, 0.0, z) if forget else z)
            states.append(z)
        return states

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

    def unroll(self, g: Tensor, start: Tensor, z: Tensor) -> Sequence[Tensor]:
        """As every cell's; `kernels.GRU` has the derivative of the loop over `step` written out."""
        if _many(g) and g.dim() == 3:
            return kernels.GRU.apply(g, start, z, self.recurrent.weight, self.recurrent.bias)
        return super().unroll(g, start, z)


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
