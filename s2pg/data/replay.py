"""A replay that stores each step once, and cuts sequences from it by index arithmetic.

Every stream (environment) has a ring of slots. An episode of T steps takes T + 1 slots: the last one holds what
followed the last step, so the successor of a step is always the next slot, at an episode's end too. While an episode
runs, that slot is written ahead and the next step takes its place.

    slot        0   1   2   3   4   5   6 ...          a step is (o_t, z_t, a_t, r_t, terminated_t); its
    position    0   1   2   3   0   1   2              successor, and its z', are found one slot on
    what        o   o   o   end o   o   end

A step is named by its time (slots written in its stream before it, never wrapped) and its stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from s2pg.data.rollout import Rollout


class Steps(NamedTuple):
    """Names of steps, `time [*]` and `stream [*]`."""

    time: Tensor
    stream: Tensor

    def after(self, steps: int) -> Steps:
        """The slots so many steps on."""
        return Steps(self.time + steps, self.stream)


class Replay:
    """The newest `capacity` slots of N streams.

    Args:
        capacity: slots over all streams, a multiple of `streams`.
        streams: N.
        widths: of the observations, by key.
        memory: Z, numbers of the policy's memory that are stored with a step; 0 where its context says them all.
        actions: A.
    """

    def __init__(
        self,
        capacity: int,
        streams: int,
        widths: dict[str, int],
        memory: int,
        actions: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if capacity % streams or capacity < 2 * streams:
            raise ValueError(f"replay: capacity {capacity} must be a multiple of {streams} streams, and two slots each")
        self.slots, self.streams, self.device = capacity // streams, streams, torch.device(device)

        def new(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(capacity, *size, dtype=dtype, device=device)

        self.obs = {key: new(width) for key, width in widths.items()}
        self.z, self.action, self.reward = new(memory), new(actions), new()
        self.terminated = new(dtype=torch.bool)
        self.position = new(dtype=torch.int32)  # steps since the episode's start
        self.valid = new(dtype=torch.bool)  # a step, not an episode's end
        self.cursor = torch.full((streams,), -1, device=device)  # time of the slot written ahead
        self._streams = torch.arange(streams, device=device)

    def __len__(self) -> int:
        """Steps that can be sampled."""
        return int(self.valid[: self._written].sum())

    @property
    def nbytes(self) -> int:
        """Of all storage, when full."""
        return sum(column.nbytes for column in self._columns().values())

    def add(self, rollout: Rollout) -> None:
        """Store the steps of a rollout, `[T, N, ...]`."""
        for t in range(len(rollout.reward)):
            start, z, z_next = rollout.start[t], rollout.z[t], rollout.z_next[t]
            obs, next_obs = ({k: part[k][t] for k in self.obs} for part in (rollout.obs, rollout.next_obs))
            row = self._row(Steps(torch.where(start, self.cursor + 1, self.cursor), self._streams))
            position = torch.where(start, 0, self.position[row])
            self._see(row, obs, z, position)
            self.action[row] = rollout.u[t][:, : self.action.shape[1]]
            self.reward[row], self.terminated[row], self.valid[row] = rollout.reward[t], rollout.terminated[t], True
            self.cursor = self.cursor + 1 + start.long()
            ahead = self._row(Steps(self.cursor, self._streams))
            self._see(ahead, next_obs, z_next, position + 1)
            self.valid[ahead] = False

    def sample(self, number: int, context: int, generator: torch.Generator) -> Steps:
        """Steps drawn uniformly, with replacement, from those whose context of so many steps is still stored whole."""
        return Steps(*_gather(number, lambda missing: self._draw(2 * missing + 8, context, generator)))

    def contexts(self, steps: Steps, length: int) -> Tensor:
        """Rows `[*, length]` of the slots that end at `steps`; an episode younger than that repeats its first slot."""
        if length == 1:
            return self._row(steps).unsqueeze(-1)
        first = steps.time - self.position[self._row(steps)]
        time = steps.time.unsqueeze(-1) + torch.arange(1 - length, 1, device=self.device)
        return self._row(Steps(torch.maximum(time, first.unsqueeze(-1)), steps.stream.unsqueeze(-1)))

    def chunks(self, number: int, length: int, generator: torch.Generator, before: int = 0) -> tuple[Tensor, Tensor]:
        """Rows `[number, length]` of pieces of episodes, and which of them are steps: every step is equally likely.

        Cutting every episode after a first piece of random length into pieces of `length` steps puts every step into
        exactly one piece; a piece of such a cut is drawn. Beyond an episode's end, the last step is repeated. The
        `before` slots of the episode before a piece are still stored.
        """

        def pieces(missing: int) -> tuple[Tensor, ...]:
            steps = self._draw((missing + 8) * length, before + 1, generator)
            cut = torch.randint(length, steps.time.shape, generator=generator, device=self.device)
            position, first = self.position[self._row(steps)], self._oldest(steps.stream) + before
            begins = (position == 0) | ((steps.time == first) & (position > before))
            chosen = begins | (cut == 0)
            return tuple(x[chosen].unsqueeze(-1) for x in (*steps, torch.where(begins, cut + 1, length)))

        time, stream, limit = _gather(number, pieces)
        steps = Steps(time, stream)
        ahead = torch.arange(length, device=self.device)
        rows = self._row(steps.after(ahead))
        keep = (self.valid[rows] & (ahead < limit)).long().cumprod(-1).bool()  # the slot written ahead is no step
        return self._row(steps.after(torch.minimum(ahead, keep.sum(-1, keepdim=True) - 1))), keep

    def named(self, rows: Tensor) -> Steps:
        """The slots in `rows [*]`."""
        stream, slot = rows % self.streams, rows // self.streams
        newest = self.cursor[stream]
        return Steps(newest - (newest - slot) % self.slots, stream)

    def next(self, rows: Tensor) -> Tensor:
        """The rows one slot on."""
        return (rows + self.streams) % (self.slots * self.streams)

    def relabel(self, rows: Tensor, z_next: Tensor) -> None:
        """Replace the z' of the steps in `rows [n]` by `z_next [n, Z]`, which is the memory of the slots after them."""
        self.z[self.next(rows)] = z_next

    def state_dict(self) -> dict:
        """The slots in use, and the cursor."""
        columns = {key: column[: self._written].clone() for key, column in self._columns().items()}
        return {"cursor": self.cursor, **columns}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.cursor = state["cursor"].to(self.device)
        self.valid.zero_()
        for key, column in self._columns().items():
            column[: self._written] = state[key].to(self.device)

    @property
    def _written(self) -> int:
        """Rows that have been written, the first so many."""
        return min(int(self.cursor.max()) + 1, self.slots) * self.streams

    def _columns(self) -> dict[str, Tensor]:
        obs = {f"obs.{key}": column for key, column in self.obs.items()}
        names = ("z", "action", "reward", "terminated", "position", "valid")
        return obs | {name: getattr(self, name) for name in names}

    def _row(self, steps: Steps) -> Tensor:
        return steps.time % self.slots * self.streams + steps.stream

    def _see(self, row: Tensor, obs: dict[str, Tensor], z: Tensor, position: Tensor) -> None:
        for key, column in self.obs.items():
            column[row] = obs[key]
        if self.z.shape[1]:
            self.z[row] = z
        self.position[row] = position.to(self.position)

    def _oldest(self, stream: Tensor) -> Tensor:
        """Time of the oldest slot that has not been overwritten."""
        return (self.cursor[stream] - self.slots + 1).clamp(min=0)

    def _draw(self, number: int, context: int, generator: torch.Generator) -> Steps:
        """At most `number` steps, drawn uniformly."""
        row = torch.randint(max(self._written, 1), (number,), generator=generator, device=self.device)
        row = row[self.valid[row]]
        steps = self.named(row)
        first = torch.maximum(steps.time - self.position[row], steps.time - context + 1)
        whole = first >= self._oldest(steps.stream)
        return Steps(steps.time[whole], steps.stream[whole])


def _gather(number: int, draw: Callable[[int], tuple[Tensor, ...]]) -> list[Tensor]:
    """Columns of `number` rows out of as many draws as it takes; `draw(missing)` returns at least none of them."""
    parts: list[tuple[Tensor, ...]] = []
    for _ in range(1000):
        parts.append(draw(number - sum(len(part[0]) for part in parts)))
        columns = [torch.cat(column)[:number] for column in zip(*parts, strict=True)]
        if len(columns[0]) == number:
            return columns
    raise ValueError("replay: nothing to sample; it holds no step, or contexts longer than itself are asked for")
