"""Cutting rollouts into sequences: nothing lost, nothing doubled, nothing read that is not of the past."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s2pg.algorithms.ppo import PPO, Batch
from s2pg.data.sequences import Sequences, chunks, contexts, cut, episodes
from tests.helpers import collect, seeded, tiny, tiny_agent

T, N, L = st.integers(1, 24), st.integers(1, 5), st.integers(1, 9)
quick = settings(max_examples=60, deadline=None)


def starts(steps: int, envs: int, seed: int) -> Tensor:
    return torch.rand(steps, envs, generator=seeded(seed)) < 0.25


def counted(sequences: Sequences) -> list[int]:
    return sorted(sequences.rows[sequences.keep].tolist())


def consecutive_in_one_stream(sequences: Sequences, envs: int) -> bool:
    """Up to its last kept step, a sequence is a piece of one environment's stream."""
    for rows, keep in zip(sequences.rows, sequences.keep, strict=True):
        piece = rows[: int(keep.nonzero().max()) + 1]
        if (piece.diff() != envs).any():
            return False
    return True


@quick
@given(steps=T, envs=N, length=L, seed=st.integers(0, 99))
def test_every_step_counts_exactly_once(steps: int, envs: int, length: int, seed: int) -> None:
    start = starts(steps, envs, seed)
    for sequences in (contexts(steps, envs, length), chunks(steps, envs, length), episodes(start)):
        assert counted(sequences) == list(range(steps * envs))
        assert consecutive_in_one_stream(sequences, envs)
        assert int(sequences.rows.min()) >= 0
        assert int(sequences.rows.max()) < steps * envs


@quick
@given(steps=T, envs=N, length=L)
def test_contexts_end_at_their_step_and_do_not_reach_before_the_rollout(steps: int, envs: int, length: int) -> None:
    rows, keep = contexts(steps, envs, length)
    assert keep.shape == (steps * envs, length)
    assert (keep.sum(1) == 1).all()
    for row in range(steps * envs):
        t, piece = row // envs, rows[row, : int(keep[row].nonzero()) + 1]
        assert rows[row][keep[row]].item() == row
        assert piece.tolist() == [s * envs + row % envs for s in range(max(t - length + 1, 0), t + 1)]


@quick
@given(steps=T, envs=N, length=L)
def test_chunks_are_the_fewest_pieces_of_their_length(steps: int, envs: int, length: int) -> None:
    rows, keep = chunks(steps, envs, length)
    assert len(rows) == envs * -(-steps // length)
    assert (keep.sum(1) == length).sum() == envs * (steps // length)
    assert (keep == keep.cummin(1).values).all(), "padding comes last"


@quick
@given(steps=T, envs=N, seed=st.integers(0, 99))
def test_episodes_never_cross_a_start(steps: int, envs: int, seed: int) -> None:
    start = starts(steps, envs, seed)
    sequences = episodes(start)
    flat = start.flatten()
    for rows, keep in zip(sequences.rows, sequences.keep, strict=True):
        piece = rows[keep]
        assert not flat[piece[1:]].any()
        assert flat[piece[0]] or piece[0] < envs, "an episode begins at a start or with the rollout"
        following = int(piece[-1]) + envs
        assert following >= steps * envs or flat[following], "and ends before the next one or with the rollout"
    assert int(start[1:].sum()) + envs == len(sequences.rows)


@quick
@given(steps=T, envs=N, length=L, terms=st.integers(1, 40), seed=st.integers(0, 99))
def test_minibatches_partition_the_steps_and_have_about_the_right_size(
    steps: int, envs: int, length: int, terms: int, seed: int
) -> None:
    """Fewer than one sequence's terms away from the number asked for, but for the last."""
    for sequences in (contexts(steps, envs, length), chunks(steps, envs, length), episodes(starts(steps, envs, seed))):
        batches = list(sequences.minibatches(terms, seeded(seed)))
        assert sorted(sum((batch.rows[batch.keep].tolist() for batch in batches), [])) == list(range(steps * envs))
        sizes = torch.tensor([int(batch.keep.sum()) for batch in batches])
        longest = int(sequences.keep.sum(1).max())
        assert (sizes < terms + longest).all()
        assert (sizes[:-1] > terms - longest).all()
        assert all(batch.keep[:, -1].any() for batch in batches), "no column is padding alone"
        assert all(consecutive_in_one_stream(batch, envs) for batch in batches)


def test_minibatches_are_shuffled_by_the_generator() -> None:
    sequences = contexts(10, 3, 2)
    one, same, other = ([b.rows.tolist() for b in sequences.minibatches(7, seeded(s))] for s in (0, 0, 1))
    assert one == same
    assert one != other
    assert one[0] != sequences.rows[:7].tolist()


@quick
@given(steps=T, envs=N, length=L, seed=st.integers(0, 99))
def test_padding_is_bounded(steps: int, envs: int, length: int, seed: int) -> None:
    """A chunk reads less than twice what counts; a context L steps per term, as the reference's; episodes are exact.

    Episodes are padded to the longest one, which minibatches cut down to their own longest.
    """
    piece = min(length, steps)
    assert chunks(steps, envs, piece).padding < 2
    assert contexts(steps, envs, piece).padding == piece
    whole = episodes(starts(steps, envs, seed))
    lengths = whole.keep.sum(1)
    assert whole.padding == pytest.approx(int(lengths.max()) * len(lengths) / (steps * envs))


@pytest.mark.parametrize(
    ("context", "loss_on", "rows", "kept"),
    [
        (1, "last", 12, 1),
        (3, "last", 12, 3),
        (3, "all", 4, 3),
        (99, "last", 12, 6),
        (99, "all", 2, 6),
        (None, "all", 4, 4),
    ],
)
def test_cut_follows_context_and_loss(context: int | None, loss_on: str, rows: int, kept: int) -> None:
    """T = 6, N = 2; one stream has an episode start at t = 2, the other at t = 4; a context never exceeds T."""
    start = torch.zeros(6, 2, dtype=torch.bool)
    start[2, 0] = start[4, 1] = True
    assert cut(start, context, loss_on).rows.shape == (rows, kept)


# --- losses ----------------------------------------------------------------------------------------------------------

METHODS = ["none", "window5", "bptt5", "bptt32_all", "bptt_full", "s2pg"]


@pytest.fixture(scope="module", params=METHODS)
def learner(request: pytest.FixtureRequest) -> tuple[PPO, Batch, Sequences]:
    """A learner whose weights have moved since it acted, its batch and a minibatch of some sequences."""
    config = tiny(request.param, entropy=0.01)
    agent = tiny_agent(config)
    rollout = collect(agent, config, rollouts=2)
    with torch.no_grad():
        batch, _ = agent.algorithm.prepare(rollout)
    generator = seeded(5)
    for parameter in (*agent.policy.parameters(), *agent.critic.parameters()):
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    memory = agent.policy.memory
    sequences = cut(rollout.start, memory.context, agent.algorithm.loss_on)
    assert rollout.start[1:].any(), "an episode begins inside the rollout"
    return agent.algorithm, batch, next(sequences.minibatches(24, generator))


def losses_and_gradients(ppo: PPO, batch: Batch, chosen: Sequences) -> list[Tensor]:
    terms = ppo.losses(batch.take(chosen))
    parameters = [*ppo.policy.parameters(), *ppo.critic.parameters()]
    gradients = torch.autograd.grad(terms.policy + terms.value, parameters, allow_unused=True)
    return [terms.policy, terms.value, *(g for g in gradients if g is not None)]


def assert_close(one: list[Tensor], two: list[Tensor]) -> None:
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_order_of_sequences_does_not_change_the_losses(learner: tuple[PPO, Batch, Sequences]) -> None:
    ppo, batch, chosen = learner
    order = torch.randperm(len(chosen.rows), generator=seeded(1))
    shuffled = Sequences(chosen.rows[order], chosen.keep[order])
    assert not torch.equal(shuffled.rows, chosen.rows)
    assert_close(losses_and_gradients(ppo, batch, chosen), losses_and_gradients(ppo, batch, shuffled))


def test_padding_does_not_change_the_losses(learner: tuple[PPO, Batch, Sequences]) -> None:
    """Columns of arbitrary rows after the steps that count change neither losses nor gradients."""
    ppo, batch, chosen = learner
    extra = torch.randint(len(batch.u), (len(chosen.rows), 3), generator=seeded(2))
    rows, keep = torch.cat([chosen.rows, extra], 1), torch.cat([chosen.keep, torch.zeros(extra.shape).bool()], 1)
    after = chosen.keep.flip(1).cummax(1).values.flip(1)  # True up to the last kept step
    rows[:, : after.shape[1]][~after] = 0
    padded = Sequences(rows, keep)
    assert_close(losses_and_gradients(ppo, batch, chosen), losses_and_gradients(ppo, batch, padded))


def test_losses_are_means_over_the_steps_that_count(learner: tuple[PPO, Batch, Sequences]) -> None:
    """The losses of a minibatch are the mean of those of its sequences, weighted with their kept steps."""
    ppo, batch, chosen = learner
    ppo.hparams, before = replace(ppo.hparams, entropy=0.0), ppo.hparams
    parts = [
        ppo.losses(batch.take(Sequences(chosen.rows[i : i + 1], chosen.keep[i : i + 1])))
        for i in range(len(chosen.rows))
    ]
    whole = ppo.losses(batch.take(chosen))
    ppo.hparams = before
    weight = chosen.keep.sum(1) / chosen.keep.sum()
    for name in ("policy", "value"):
        mean = sum(w * getattr(part, name) for w, part in zip(weight, parts, strict=True))
        torch.testing.assert_close(getattr(whole, name), mean, rtol=1e-4, atol=1e-6)
