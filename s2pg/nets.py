"""Feed-forward pieces and recurrent cells. A cell is two functions, so that one implementation steps and unrolls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from s2pg import kernels
from s2pg.types import Width


class Linear(nn.Linear):
    """`nn.Linear`, large products through `kernels.Linear`: where many rows meet wide layers it takes most of the time.

    From `kernels.MANY_ROWS` rows and two million multiplications on, a gradient in Python costs less than it saves
    (measured on the updates of PPO, SAC and TD3 with S2PG and BPTT; one thread).
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[:-1].numel()
        if x.device.type == "cpu" and rows >= kernels.MANY_ROWS and rows * self.weight.numel() >= 2_000_000:
            return kernels.Linear.apply(x, self.weight, self.bias)
        return super().forward(x)


def linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """A linear layer, Xavier-uniform weights scaled by `gain`, biases as torch draws them (as the reference)."""
    layer = Linear(inputs, outputs)
    if inputs and outputs:
        nn.init.xavier_uniform_(layer.weight, gain=gain)
    return layer


def mlp(sizes: list[int], gain: float = 1.0, output_gain: float | None = None) -> nn.Sequential:
    """ReLU network over `sizes` = [input, hidden ..., output]; Xavier gains sqrt(2)*gain, in the last layer 1*gain.

    `output_gain` replaces the gain of the last layer.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes[:-2], sizes[1:-1], strict=True):
        layers += [linear(inputs, outputs, math.sqrt(2) * gain), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, linear(sizes[-2], sizes[-1], gain if output_gain is None else output_gain))


class Encoders(nn.Module):
    """The reference's critic of S2PG: an encoder for each group of inputs, their sum, and a head, `[*, X] -> [*, 1]`.

    Args:
        columns: slices of the inputs that each encoder reads; groups may overlap.
        encoder: hidden and output widths of every encoder.
        head: hidden widths after the sum.
    """

    def __init__(
        self, columns: list[list[slice]], encoder: list[int], head: list[int], gain: float, output_gain: float
    ) -> None:
        super().__init__()
        self.columns = columns
        widths = [sum(part.stop - part.start for part in group) for group in columns]
        self.encoders = nn.ModuleList(mlp([width, *encoder], gain) for width in widths)
        self.head = mlp([encoder[-1], *head, 1], gain, output_gain)

    def forward(self, x: Tensor) -> Tensor:
        groups = (torch.cat([x[..., part] for part in group], -1) for group in self.columns)
        parts = [encode(group) for encode, group in zip(self.encoders, groups, strict=True)]
        return self.head(sum(parts[1:], parts[0]).relu_())


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
        return (e if self.previous is None else torch.cat([e, self.previous(previous)], -1)).relu_()

    def skip(self, obs: Tensor) -> Tensor:
        """The skip connection reads the observation without the previous action."""
        return self.bypass(obs[..., : self.width.env]).relu_()


class Cell(nn.Module):
    """A recurrent cell: `project` turns inputs into gate inputs for all steps at once, `step` moves the state by one.

    Weights are drawn as torch's own cells draw them, uniform in +-1/sqrt(hidden).
    """

    gates: int
    states: int
    bounded: bool = True  # does the state stay in [-1, 1]

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.size = self.states * hidden
        self.input = Linear(inputs, self.gates * hidden)
        self.recurrent = nn.Linear(hidden, self.gates * hidden)
        bound = 1 / math.sqrt(hidden) if hidden else 0.0
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def project(self, e: Tensor) -> Tensor:
        """`[*, inputs] -> [*, gates * hidden]`."""
        return self.input(e)

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
        if g.device.type == "cpu" and g.dim() == 3 and g.shape[:-1].numel() >= 256:
            return kernels.GRU.apply(g, start, z, self.recurrent.weight, self.recurrent.bias)
        return super().unroll(g, start, z)


class ClearedGRU(GRU):
    """A control: a GRU that reads zeros in place of its state, so that its next state says nothing of the past."""

    unroll = Cell.unroll

    def step(self, g: Tensor, z: Tensor) -> Tensor:
        return super().step(g, torch.zeros_like(z))


class LSTM(Cell):
    """Hochreiter & Schmidhuber 1997, torch's gate order (input, forget, cell, output); the state is (h, c)."""

    gates, states = 4, 2
    bounded = False

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


class Diagonal(Cell):
    """A real linear recurrence, unit by unit: z' = lambda z + sqrt(1 - lambda^2) g, lambda = exp(-exp(nu)).

    After the LRU of Orvieto et al. 2023, whose lambda is complex. lambda begins uniform in [0.5, 0.99].
    """

    gates, states = 1, 1
    bounded = False

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        del self.recurrent
        self.nu = nn.Parameter(torch.empty(hidden).uniform_(0.5, 0.99).log().neg().log())

    def step(self, g: Tensor, z: Tensor) -> Tensor:
        decay = (-self.nu.exp()).exp()
        return decay * z + (1 - decay.square()).sqrt() * g


class Leaky(Cell):
    """Another cell's state with a leak, z' = (1 - rate) z + rate * cell(g, z)."""

    def __init__(self, cell: Cell, rate: float) -> None:
        nn.Module.__init__(self)
        self.cell, self.rate = cell, rate
        self.hidden, self.size, self.bounded = cell.hidden, cell.size, cell.bounded

    def project(self, e: Tensor) -> Tensor:
        return self.cell.project(e)

    def step(self, g: Tensor, z: Tensor) -> Tensor:
        return torch.lerp(z, self.cell.step(g, z), self.rate)


CELLS: dict[str, type[Cell]] = {"gru": GRU, "gru_cleared": ClearedGRU, "lstm": LSTM, "rnn": RNN, "diagonal": Diagonal}
