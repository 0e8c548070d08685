"""The replay against lists of whole episodes, under random episode lengths, cuts, streams and rings that wrapped."""

from __future__ import annotations

import copy
import io
from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from s2pg.data.replay import Replay, Steps
from s2pg.data.rollout import Rollout
from tests.helpers import same_bits, seeded

Z, A = 2, 1
WIDTHS = {"obs": 2, "state": 3}


class Slot(NamedTuple):
    """What the reference implementation keeps of a step, or of what followed an episode's last one (`step` empty)."""

    episode: int
    position: int
    obs: dict[str, Tensor]
    z: Tensor
    step: tuple[Tensor, Tensor, Tensor] | tuple[()]  # action, reward, terminated


class Lists:
    """The reference implementation: a list of slots per stream that only grows; the newest `slots` of it are stored."""

    def __init__(self, slots: int, streams: int) -> None:
        self.slots, self.streams = slots, [[] for _ in range(streams)]

    def add(self, rollout: Rollout) -> None:
        for t in range(len(rollout.reward)):
            for n, slots in enumerate(self.streams):
                self._step(slots, rollout, t, n)

    @staticmethod
    def _step(slots: list[Slot], rollout: Rollout, t: int, n: int) -> None:
        if rollout.start[t, n]:
            episode, position = slots[-1].episode + 1 if slots else 0, 0
        else:
            _, (episode, position, *_) = slots[-1], slots.pop()
        step = rollout.u[t, n, :A], rollout.reward[t, n], rollout.terminated[t, n]
        slots.append(Slot(episode, position, {k: x[t, n] for k, x in rollout.obs.items()}, rollout.z[t, n], step))
        last = {k: x[t, n] for k, x in rollout.next_obs.items()}
        slots.append(Slot(episode, position + 1, last, rollout.z_next[t, n], ()))

    def oldest(self, n: int) -> int:
        return max(len(self.streams[n]) - self.slots, 0)

    def stored(self) -> list[tuple[int, int]]:
        """Every stored slot as (time, stream)."""
        return [(t, n) for n, slots in enumerate(self.streams) for t in range(self.oldest(n), len(slots))]

    def context(self, time: int, n: int, length: int) -> list[int]:
        """Times of the last `length` slots of the episode up to `time`; as many of the first as are missing."""
        slots = self.streams[n]
        times = [t for t in range(time + 1) if slots[t].episode == slots[time].episode]
        return [times[0]] * (length - len(times)) + times[-length:]

    def sampleable(self, length: int) -> set[tuple[int, int]]:
        """Steps whose whole context is stored."""
        steps = [(t, n) for t, n in self.stored() if self.streams[n][t].step]
        return {(t, n) for t, n in steps if self.context(t, n, length)[0] >= self.oldest(n)}


class Script(NamedTuple):
    """A stream of experience: T steps of N streams, handed over in rollouts of so many steps."""

    slots: int
    streams: int
    steps: int
    ends: float  # share of steps that are their episode's last
    rollout: int
    seed: int

    @property
    def rollout_of_everything(self) -> Rollout:
        """Episodes end by termination, truncation or a reset from outside; to a replay the last two are one."""
        generator, shape = seeded(self.seed), (self.steps, self.streams)
        start = torch.rand(shape, generator=generator) < self.ends
        start[0] = True
        terminated = torch.zeros(shape, dtype=torch.bool)
        terminated[:-1] = start[1:] & (torch.rand(self.steps - 1, self.streams, generator=generator) < 0.5)

        def carried(width: int, initial: float) -> tuple[Tensor, Tensor]:
            """Before and after each step: the next one begins with the latter, or with something new at a start."""
            after = torch.randn(*shape, width, generator=generator)
            fresh = initial * torch.randn(*shape, width, generator=generator)
            before = torch.where(start.unsqueeze(-1), fresh, after.roll(1, 0))
            return before, after

        pairs = {key: carried(width, 1.0) for key, width in WIDTHS.items()}
        obs, next_obs = ({key: pair[i] for key, pair in pairs.items()} for i in range(2))
        z, z_next = carried(Z, 0.0)
        action, reward = torch.randn(*shape, A, generator=generator), torch.randn(shape, generator=generator)
        u, none, done = torch.cat([action, z_next], -1), torch.zeros(*shape, 0), start.roll(-1, 0)
        return Rollout(obs, next_obs, start, z, z_next, none, none, u, u, reward, terminated, done)

    def parts(self) -> list[Rollout]:
        whole, cuts = vars(self.rollout_of_everything), range(0, self.steps, self.rollout)
        return [
            Rollout(**{name: _cut(column, slice(t, t + self.rollout)) for name, column in whole.items()}) for t in cuts
        ]

    def play(self) -> tuple[Replay, Lists]:
        replay, lists = Replay(self.slots * self.streams, self.streams, WIDTHS, Z, A), Lists(self.slots, self.streams)
        for part in self.parts():
            replay.add(part)
            lists.add(part)
        return replay, lists


def _cut(column: Tensor | dict[str, Tensor], part: slice) -> Tensor | dict[str, Tensor]:
    return {k: x[part] for k, x in column.items()} if isinstance(column, dict) else column[part]


SCRIPTS = st.builds(
    Script,
    slots=st.integers(2, 14),
    streams=st.integers(1, 3),
    steps=st.integers(1, 60),
    ends=st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]),
    rollout=st.integers(1, 7),
    seed=st.integers(0, 2**31),
)
every_script = settings(max_examples=60, deadline=None)
YOUNG = Script(slots=200, streams=2, steps=40, ends=0.2, rollout=5, seed=1)
WRAPPED = Script(slots=23, streams=3, steps=100, ends=0.15, rollout=4, seed=2)
ONE_EPISODE = Script(slots=9, streams=1, steps=40, ends=0.0, rollout=1, seed=3)


def rows_of(replay: Replay, slots: list[tuple[int, int]]) -> Tensor:
    return replay.contexts(steps_of(slots), 1).squeeze(-1)


def steps_of(slots: list[tuple[int, int]]) -> Steps:
    time, stream = torch.tensor(slots).T
    return Steps(time, stream)


def pairs(steps: Steps) -> list[tuple[int, int]]:
    return list(zip(steps.time.tolist(), steps.stream.tolist(), strict=True))


# --- what is stored --------------------------------------------------------------------------------------------------


@every_script
@given(SCRIPTS)
@example(YOUNG)
@example(WRAPPED)
@example(ONE_EPISODE)
def test_the_newest_slots_hold_what_lists_of_episodes_hold(script: Script) -> None:
    """Every number of every slot, its name, its successor, and how many steps there are."""
    replay, lists = script.play()
    stored = lists.stored()
    rows = rows_of(replay, stored)
    assert len(set(rows.tolist())) == len(stored), "every slot has a row of its own"
    assert pairs(replay.named(rows)) == stored
    for (t, n), row in zip(stored, rows, strict=True):
        slot = lists.streams[n][t]
        assert all(torch.equal(replay.obs[key][row], slot.obs[key]) for key in WIDTHS)
        assert torch.equal(replay.z[row], slot.z)
        assert replay.position[row] == slot.position
        assert replay.valid[row] == bool(slot.step)
        if slot.step:
            step = replay.action[row], replay.reward[row], replay.terminated[row]
            assert all(map(torch.equal, step, slot.step))
            assert pairs(replay.named(replay.next(row[None]))) == [(t + 1, n)], "the successor is the next slot"
            assert lists.streams[n][t + 1].episode == slot.episode
    assert len(replay) == len(lists.sampleable(1))


@every_script
@given(SCRIPTS, st.integers(1, 9))
@example(WRAPPED, 5)
@example(ONE_EPISODE, 6)
def test_contexts_are_those_of_lists_of_episodes(script: Script, length: int) -> None:
    """In order, inside one episode, its first slot repeated where it is younger; also of what follows a step."""
    replay, lists = script.play()
    chosen = sorted(lists.sampleable(length))
    if not chosen:
        return
    for ahead in (0, 1):  # the context that ends with a step, and the one that ends with its successor
        rows = replay.contexts(steps_of(chosen).after(ahead), length)
        for (t, n), context in zip(chosen, rows, strict=True):
            assert pairs(replay.named(context)) == [(s, n) for s in lists.context(t + ahead, n, length)]
            slots = [lists.streams[n][s] for s in lists.context(t + ahead, n, length)]
            assert torch.equal(replay.obs["obs"][context], torch.stack([slot.obs["obs"] for slot in slots]))
            assert {slot.episode for slot in slots} == {lists.streams[n][t].episode}
            assert (slots[0].position == 0) == (lists.streams[n][t + ahead].position < length), "no observation is lost"


# --- what is drawn ---------------------------------------------------------------------------------------------------


@every_script
@given(SCRIPTS, st.integers(1, 9))
@example(WRAPPED, 5)
@example(ONE_EPISODE, 6)
def test_exactly_the_steps_whose_context_is_stored_whole_are_drawn(script: Script, length: int) -> None:
    replay, lists = script.play()
    possible = lists.sampleable(length)
    if possible:
        assert set(pairs(replay.sample(60 * len(possible), length, seeded(0)))) == possible
    else:
        with pytest.raises(ValueError, match="nothing to sample"):
            replay.sample(1, length, seeded(0))


@pytest.mark.parametrize("script", [YOUNG, WRAPPED, ONE_EPISODE], ids=["young", "wrapped", "one episode"])
@pytest.mark.parametrize("length", [1, 4])
def test_steps_are_drawn_uniformly(script: Script, length: int) -> None:
    """Chi-square over all steps that may be drawn, in many small batches, as learning draws them."""
    replay, lists = script.play()
    place, generator = {step: i for i, step in enumerate(sorted(lists.sampleable(length)))}, seeded(5)
    drawn = [place[pair] for _ in range(500) for pair in pairs(replay.sample(40, length, generator))]
    counts = torch.bincount(torch.tensor(drawn), minlength=len(place))
    assert stats.chisquare(counts).pvalue > 1e-4


@every_script
@given(SCRIPTS, st.integers(1, 7), st.integers(0, 4))
@example(WRAPPED, 5, 3)
def test_chunks_are_consecutive_steps_of_one_episode(script: Script, length: int, before: int) -> None:
    """Kept steps come first; beyond them the last one is repeated; what precedes a chunk is stored or not there."""
    replay, lists = script.play()
    if not lists.sampleable(before + 1):
        return
    rows, keep = replay.chunks(100, length, seeded(0), before)
    assert rows.shape == keep.shape == (100, length)
    for chunk, kept in zip(rows, keep, strict=True):
        steps, number = pairs(replay.named(chunk)), int(kept.sum())
        (first, n), slots = steps[0], lists.streams[steps[0][1]]
        assert kept.tolist() == [True] * number + [False] * (length - number)
        assert number > 0
        assert steps[:number] == [(first + i, n) for i in range(number)]
        assert steps[number:] == [steps[number - 1]] * (length - number)
        assert all(slots[t].step and slots[t].episode == slots[first].episode for t, _ in steps)
        assert (first, n) in lists.sampleable(before + 1)


@pytest.mark.parametrize("script", [YOUNG, WRAPPED, ONE_EPISODE], ids=["young", "wrapped", "one episode"])
@pytest.mark.parametrize(("length", "before"), [(1, 0), (4, 0), (4, 2), (6, 3), (50, 0)])
def test_chunks_hold_every_step_equally_often(script: Script, length: int, before: int) -> None:
    """A step is in a chunk with one probability q for all of them: counts are binomial, within 5 standard errors."""
    replay, lists = script.play()
    possible, chunks = sorted(lists.sampleable(before + 1)), 40_000
    rows, keep = replay.chunks(chunks, length, seeded(6), before)
    counts = torch.bincount(rows[keep], minlength=script.slots * script.streams)
    assert counts.sum() == counts[rows_of(replay, possible)].sum(), "no other step is in a chunk"
    q = counts.sum() / chunks / len(possible)
    deviation = (counts[rows_of(replay, possible)] - chunks * q) / (chunks * q * (1 - q)).sqrt()
    assert deviation.abs().max() < 5


def test_chunks_are_of_full_length_inside_a_long_episode() -> None:
    """Only the piece that begins the stored part of an episode, and the one that ends it, are shorter."""
    replay, lists = ONE_EPISODE._replace(slots=400, steps=390).play()
    rows, keep = replay.chunks(5000, 7, seeded(0))
    first, last = (replay.named(rows[:, i]).time for i in (0, -1))
    inside = (first > 0) & (first + 7 <= 390)
    assert keep[inside].all()
    assert not keep[~inside].all()
    assert (last[inside] == first[inside] + 6).all()


@pytest.mark.parametrize("draw", ["sample", "chunks"])
def test_nothing_to_sample_is_an_error_that_says_so(draw: str) -> None:
    """Of an empty replay, and of contexts longer than what is left of the only episode."""

    def ask(replay: Replay) -> None:
        replay.sample(3, 9, seeded(0)) if draw == "sample" else replay.chunks(3, 2, seeded(0), before=8)

    for replay in (Replay(10, 2, WIDTHS, Z, A), ONE_EPISODE.play()[0]):
        with pytest.raises(ValueError, match="nothing to sample"):
            ask(replay)


@pytest.mark.parametrize(("capacity", "streams"), [(10, 3), (2, 2)])
def test_a_capacity_that_does_not_fit_the_streams_is_refused(capacity: int, streams: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Replay(capacity, streams, WIDTHS, Z, A)


# --- relabelling -----------------------------------------------------------------------------------------------------


@every_script
@given(SCRIPTS)
@example(WRAPPED)
def test_a_relabelled_transition_agrees_with_its_successor_and_nothing_else_changes(script: Script) -> None:
    """z' of a step is the z of the slot after it, also where that one ends the episode or is still written ahead."""
    replay, lists = script.play()
    chosen = sorted(lists.sampleable(1))[::2]
    rows = rows_of(replay, chosen)
    fresh, before = torch.randn(len(rows), Z, generator=seeded(9)), copy.deepcopy(replay.state_dict())
    replay.relabel(rows, fresh)
    after = replay.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key != "z")
    assert torch.equal(replay.z[rows_of(replay, [(t + 1, n) for t, n in chosen])], fresh)
    touched = {(t + 1, n) for t, n in chosen}
    others = rows_of(replay, rest) if (rest := [slot for slot in lists.stored() if slot not in touched]) else rows[:0]
    assert torch.equal(after["z"][others], before["z"][others])


def test_what_acts_next_replaces_a_relabelled_memory() -> None:
    """The newest step's z' was relabelled while the stream went on with the old one: the old one acted, and counts."""
    script = YOUNG._replace(ends=0.0)
    replay, parts = Replay(400, 2, WIDTHS, Z, A), script.parts()
    replay.add(parts[0])
    newest = replay.contexts(Steps(replay.cursor - 1, torch.arange(2)), 1).squeeze(-1)
    replay.relabel(newest, torch.full((2, Z), 7.0))
    assert (replay.z[replay.next(newest)] == 7).all()
    replay.add(parts[1])
    assert torch.equal(replay.z[replay.next(newest)], parts[1].z[0])


# --- saving, size ----------------------------------------------------------------------------------------------------


def saved(state: dict) -> io.BytesIO:
    """Through torch's own file format, as a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


@every_script
@given(SCRIPTS, st.booleans())
@example(WRAPPED, False)
@example(WRAPPED, True)
@example(YOUNG, True)
def test_a_restored_replay_has_the_same_bits_and_the_same_future(script: Script, used: bool) -> None:
    """Restored into a new one, or into one that was used for something else."""
    replay, lists = script.play()
    other = Replay(script.slots * script.streams, script.streams, WIDTHS, Z, A)
    if used:
        other = script._replace(seed=script.seed + 1, steps=script.steps + 30).play()[0]
    other.load_state_dict(torch.load(saved(replay.state_dict()), weights_only=True))
    more = script._replace(seed=script.seed + 2, steps=8).parts()
    for part in (None, *more):
        if part is not None:
            replay.add(part)
            other.add(part)
        assert used or same_bits(replay.state_dict(), other.state_dict())
        assert torch.equal(replay.valid, other.valid)
        assert len(replay) == len(other)
        for draw in (lambda r: r.sample(20, 1, seeded(4)), lambda r: r.chunks(20, 3, seeded(4))):
            assert same_bits(list(draw(replay)), list(draw(other)))


def test_what_was_never_written_is_the_same_in_every_process() -> None:
    """Unused numbers of an episode's end are not whatever lay in memory: two runs' checkpoints can be compared."""
    states = []
    for rubbish in (1.5, float("nan")):
        blocks = [torch.full((size,), rubbish) for size in range(1, 400)]
        del blocks
        states.append(WRAPPED._replace(slots=60).play()[0].state_dict())
    assert same_bits(*states)


def test_a_checkpoint_holds_the_slots_in_use_and_no_more() -> None:
    """Bytes of the file, for 41 slots of 2 streams, however large the replay is."""
    small, large = (YOUNG._replace(slots=slots, ends=0.0).play()[0] for slots in (41, 100_000))
    sizes = [len(saved(replay.state_dict()).getvalue()) for replay in (small, large)]
    assert sizes[0] == sizes[1] < 20_000


def test_a_state_is_a_copy() -> None:
    """What is learned later does not change a state that was taken."""
    script = WRAPPED
    replay, _ = script.play()
    state = replay.state_dict()
    before = copy.deepcopy(state)
    for part in script._replace(seed=8).parts():
        replay.add(part)
    assert same_bits(state, before)


@pytest.mark.parametrize("memory", [0, 32])
def test_memory_use_is_what_the_widths_say(memory: int) -> None:
    """Four bytes a number for observations, memory, action, reward and position; one for each of two flags."""
    widths, actions, capacity = {"obs": 27, "state": 111}, 8, 1000
    replay = Replay(capacity, 2, widths, memory, actions)
    assert replay.nbytes == capacity * (4 * (27 + 111 + memory + actions + 1 + 1) + 2)
    assert replay.nbytes == sum(column.untyped_storage().nbytes() for column in replay._columns().values())
