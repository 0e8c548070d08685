"""How the past reaches the policy: one implementation steps and unrolls, forgets at a start, rereads what it acted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from s2pg import kernels
from s2pg.memory import Memory, NoMemory, Recurrent, Window
from s2pg.nets import CELLS, GRU, LSTM, RNN, Cell, ClearedGRU, Linear
from tests.helpers import MEMORIES, WIDTH, act_through, stream

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
WIDE = WIDTH.total

every_memory = pytest.mark.parametrize("name", MEMORIES)
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


def build(name: str) -> Memory:
    torch.manual_seed(1)
    return MEMORIES[name]()


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "theirs"), [(GRU, nn.GRUCell), (LSTM, nn.LSTMCell), (RNN, nn.RNNCell)])
def test_cells_are_torchs_cells(cell: type[Cell], theirs: type[nn.RNNCellBase]) -> None:
    """Same numbers as torch with the same weights, over several steps, from a state that is not zero."""
    torch.manual_seed(0)
    ours, reference = cell(3, 5), theirs(3, 5)
    pairs = [(reference.weight_ih, ours.input.weight), (reference.weight_hh, ours.recurrent.weight)]
    pairs += [(reference.bias_ih, ours.input.bias), (reference.bias_hh, ours.recurrent.bias)]
    for target, source in pairs:
        target.data.copy_(source)
    z = torch.randn(7, ours.size)
    state = z.chunk(2, -1) if cell is LSTM else z
    for e in torch.randn(6, 7, 3):
        z, state = ours.step(ours.project(e), z), reference(e, state)
        torch.testing.assert_close(z, torch.cat(state, -1) if cell is LSTM else state, **CLOSE)
        torch.testing.assert_close(ours.output(z), state[0] if cell is LSTM else state, **CLOSE)


@every_cell
@pytest.mark.parametrize(("n", "length"), [(4, 7), (6, 6), (1, 3), (60, 5)])
def test_unrolling_equals_stepping(cell: type[Cell], n: int, length: int) -> None:
    """Also where there are as many streams as steps, so that no check of shapes could tell them apart."""
    memory = Recurrent(WIDTH, cell, hidden=5, features=4, context=length)
    obs, start, z = torch.randn(n, length, WIDE), torch.zeros(n, length, dtype=torch.bool), torch.randn(n, memory.size)
    steps = []
    carried = z
    for t in range(length):
        x, carried = memory.read(obs[:, t : t + 1], start[:, t : t + 1], carried)
        steps.append((x, carried))
    everything = torch.ones(n, length, dtype=torch.bool)
    x, m = memory.read(obs, start, z, everything)
    for unrolled, stepped in zip((x, m), zip(*steps, strict=True), strict=True):
        torch.testing.assert_close(unrolled.unflatten(0, (n, length)), torch.stack(stepped, 1), **CLOSE)
    last = memory.read(obs, start, z)
    torch.testing.assert_close(last[0], steps[-1][0], **CLOSE)
    torch.testing.assert_close(last[1], steps[-1][1], **CLOSE)


@every_cell
def test_the_memory_before_the_first_step_matters(cell: type[Cell]) -> None:
    """Feeding zeros, or nothing, in its place would go unnoticed otherwise. One cell does so, as a control."""
    memory = Recurrent(WIDTH, cell, hidden=5, features=4, context=3)
    for length in (1, 3):
        obs, start = torch.randn(4, length, WIDE), torch.zeros(4, length, dtype=torch.bool)
        z = torch.randn(4, memory.size)
        difference = (memory.read(obs, start, z)[1] - memory.read(obs, start, 0 * z)[1]).abs().max()
        assert difference == 0 if cell is ClearedGRU else difference > 1e-3


@pytest.mark.parametrize("inputs", [90, 20])
@pytest.mark.parametrize("shape", [(1000,), (8, 130), (4, 25, 13), (999,), (3,)])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_of_many_rows_are_those_of_the_layer(
    inputs: int, shape: tuple[int, ...], transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The faster matrix product for many rows: same values, same gradients, for inputs laid out in any way."""
    monkeypatch.setattr(kernels, "MANY_ROWS", 64)
    torch.manual_seed(0)
    layer, x = Linear(inputs, 110), torch.randn(*shape, inputs)
    calls, apply = [], kernels.Linear.apply
    monkeypatch.setattr(kernels.Linear, "apply", lambda *arguments: calls.append(shape) or apply(*arguments))
    if transposed:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    results = []
    for function in (lambda x: nn.functional.linear(x, layer.weight, layer.bias), layer):
        rows = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = function(rows)
        weights = torch.cos(torch.arange(y.numel())).view_as(y.transpose(0, -1)).transpose(0, -1)
        results.append((y, *torch.autograd.grad((y * weights).sum(), [rows, layer.weight, layer.bias])))
    for theirs, ours in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert calls == [shape] * (shape != (3,)), "few rows take torch's own layer"


@pytest.mark.parametrize(
    ("vendor", "family", "rows"),
    [("AuthenticAMD", "26", 64), ("AuthenticAMD", "25", 1024), ("GenuineIntel", "26", 1024)],
)
def test_where_a_product_is_worth_a_gradient_in_python_is_the_processors(vendor: str, family: str, rows: int) -> None:
    assert kernels.many_rows({"vendor_id": vendor, "cpu family": family}) == rows
    assert kernels.many_rows({}) == 1024


@pytest.mark.parametrize("ends", [0.0, 0.2])
@pytest.mark.parametrize("used", ["all", "last", "some"])
def test_the_gru_derivative_by_hand_is_autograds(ends: float, used: str) -> None:
    """In double precision the two agree to rounding: values, and gradients through any of the outputs."""
    torch.manual_seed(1)
    length, streams = 40, 7
    cell = GRU(5, 6).double()
    g = torch.randn(length, streams, 18, dtype=torch.double, requires_grad=True)
    z = torch.randn(streams, 6, dtype=torch.double, requires_grad=True)
    start = torch.rand(length, streams, 1) < ends
    outputs = {"all": range(length), "last": [length - 1], "some": [3, 20, 21]}[used]
    weights = torch.randn(length, streams, 6, dtype=torch.double)
    assert length * streams >= 256, "below, the cell takes the loop over its steps itself"
    results = []
    for unroll in (cell.unroll, super(GRU, cell).unroll):
        states = unroll(g, start, z)
        loss = sum((states[t] * weights[t]).sum() for t in outputs)
        results.append((*states, *torch.autograd.grad(loss, [g, z, cell.recurrent.weight, cell.recurrent.bias])))
    for ours, autograds in zip(*results, strict=True):
        torch.testing.assert_close(ours, autograds, rtol=1e-10, atol=1e-10)


# --- acting and learning ---------------------------------------------------------------------------------------------


@every_memory
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), envs=st.integers(1, 4), ends=st.sampled_from([0.0, 0.15, 0.5]))
def test_acting_equals_rereading(name: str, seed: int, envs: int, ends: float) -> None:
    """Contexts of L steps read again, from the memory stored before their first step, give what acting saw.

    A context as long as a window or an unrolling needs no stored memory that reaches back further; episodes begin
    wherever they like, and a decided memory deviates from its mean.
    """
    memory, length = build(name), 8
    obs, start = stream(length, envs, seed, ends)
    x, z, m = act_through(memory, obs, start, noise=0.3 if memory.decided else 0.0)
    for first in range(length):
        for last in range(first, min(first + (memory.context or length), length)):
            part = slice(first, last + 1)
            again = memory.read(obs[part].transpose(0, 1), start[part].transpose(0, 1), z[first])
            torch.testing.assert_close(again[0], x[last], **CLOSE)
            torch.testing.assert_close(again[1], m[last], **CLOSE)


def test_a_window_holds_the_last_observations_of_the_episode() -> None:
    obs = torch.arange(1.0, 7.0).view(1, 6, 1).expand(1, 6, WIDE)
    start = torch.tensor([[True, False, False, True, False, False]])
    window = Window(WIDTH, 3)
    x, m = window.read(obs, start, torch.full((1, window.size), 9.0), torch.ones(1, 6, dtype=torch.bool))
    expected = [[0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 4], [0, 4, 5], [4, 5, 6]]
    assert x.view(6, 3, WIDE)[..., 0].tolist() == expected
    assert m.view(6, 2, WIDE)[..., -1].tolist() == [row[1:] for row in expected]


def test_a_window_reaches_into_its_memory() -> None:
    window, z = Window(WIDTH, 3), torch.arange(1.0, 3.0).repeat_interleave(WIDE).unsqueeze(0)
    x, m = window.read(torch.full((1, 1, WIDE), 3.0), torch.tensor([[False]]), z)
    assert x.view(3, WIDE)[:, 0].tolist() == [1, 2, 3]
    assert m.view(2, WIDE)[:, 0].tolist() == [2, 3]


@every_memory
def test_a_start_forgets_everything_before(name: str) -> None:
    """Neither values nor gradients reach over a start, be it the first step of the sequence or one inside it."""
    memory, n, length = build(name), 3, 4
    for begin in range(length):
        start = torch.zeros(n, length, dtype=torch.bool)
        start[:, begin] = True
        torch.manual_seed(begin)
        obs, z = torch.randn(n, length, WIDE, requires_grad=True), torch.randn(n, memory.size, requires_grad=True)
        x, m = memory.read(obs, start, z)
        changed = torch.where((torch.arange(length) < begin).view(1, -1, 1), 100.0, obs)
        for now, otherwise in zip((x, m), memory.read(changed, start, z + 50), strict=True):
            torch.testing.assert_close(now, otherwise, rtol=0, atol=0)
        to_obs, *to_z = torch.autograd.grad(x.sum() + m.sum(), [obs, *([z] if memory.size else [])])
        assert (to_obs[:, :begin] == 0).all()
        assert all((g == 0).all() for g in to_z)
        assert (to_obs[:, -1] != 0).any()


@pytest.mark.parametrize("name", ["window4", "bptt4", "bptt_full"])
def test_without_a_start_the_past_reaches_the_last_step(name: str) -> None:
    """The counterpart: what is forgotten above is not simply never read."""
    memory = build(name)
    obs = torch.randn(3, 4, WIDE, requires_grad=True)
    x, _ = memory.read(obs, torch.zeros(3, 4, dtype=torch.bool), torch.randn(3, memory.size))
    (to_obs,) = torch.autograd.grad(x.sum(), obs)
    assert (to_obs != 0).any(-1).all()


def test_one_stream_forgets_alone() -> None:
    """A start of one stream leaves the others' memories as they are."""
    memory = build("bptt4")
    obs, z, start = torch.randn(3, 4, WIDE), torch.randn(3, 5), torch.zeros(3, 4, dtype=torch.bool)
    before = memory.read(obs, start, z)[0]
    start[1, 2] = True
    after = memory.read(obs, start, z)[0]
    assert ((before != after).any(-1)).tolist() == [False, True, False]


@every_memory
def test_memory_begins_at_zero(name: str) -> None:
    memory = build(name)
    assert memory.initial(2, 3).shape == (2, 3, memory.size)
    assert (memory.initial(2, 3) == 0).all()


@every_memory
def test_a_memory_keeps_no_state(name: str) -> None:
    """Reading twice gives the same, whatever was read between."""
    memory = build(name)
    obs, start, z = torch.randn(2, 3, WIDE), torch.zeros(2, 3, dtype=torch.bool), torch.randn(2, memory.size)
    first = memory.read(obs, start, z)
    memory.read(torch.randn(5, 2, WIDE), torch.zeros(5, 2, dtype=torch.bool), torch.randn(5, memory.size))
    for once, again in zip(first, memory.read(obs, start, z), strict=True):
        assert torch.equal(once, again)
    assert not any(buffer.numel() for buffer in memory.buffers())


# --- shapes and padding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "decided", "context", "features"),
    [
        ("none", 0, 0, 1, WIDE),
        ("window1", 0, 0, 1, WIDE),
        ("window4", 3 * WIDE, 0, 4, 4 * WIDE),
        ("bptt4", 5, 0, 4, 4 + 5),
        ("bptt_full", 10, 0, None, 4 + 5),
        ("s2pg", 5, 5, 1, 4 + 5),
        ("s2pg_lstm", 10, 10, 1, 4 + 5),
    ],
)
def test_sizes_are_those_of_the_table(name: str, size: int, decided: int, context: int | None, features: int) -> None:
    memory = build(name)
    assert (memory.size, memory.decided, memory.context, memory.features) == (size, decided, context, features)
    x, m = memory.read(torch.randn(2, 3, WIDE), torch.zeros(2, 3, dtype=torch.bool), torch.randn(2, size))
    assert (x.shape, m.shape) == ((2, features), (2, size))


def test_a_window_of_one_is_no_memory() -> None:
    obs, start = torch.randn(4, 2, WIDE), torch.zeros(4, 2, dtype=torch.bool)
    window, none = Window(WIDTH, 1), NoMemory(WIDTH)
    assert torch.equal(window.read(obs, start, torch.zeros(4, 0))[0], none.read(obs, start, torch.zeros(4, 0))[0])


@every_memory
def test_keep_returns_the_kept_steps_row_by_row(name: str) -> None:
    memory, n, length = build(name), 5, 4
    obs, start = torch.randn(n, length, WIDE), torch.rand(n, length) < 0.3
    z = torch.randn(n, memory.size)
    keep = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
    x, m = memory.read(obs, start, z, keep)
    expected = [
        memory.read(obs[i : i + 1, : t + 1], start[i : i + 1, : t + 1], z[i : i + 1]) for i, t in keep.nonzero()
    ]
    torch.testing.assert_close(x, torch.cat([row[0] for row in expected]), **CLOSE)
    torch.testing.assert_close(m, torch.cat([row[1] for row in expected]), **CLOSE)


@every_memory
def test_padding_after_the_kept_steps_does_not_matter(name: str) -> None:
    """Neither what it holds, nor how much of it there is, nor to the gradients."""
    memory, n, length, extra = build(name), 4, 3, 2
    obs, start, z = torch.randn(n, length, WIDE), torch.zeros(n, length, dtype=torch.bool), torch.randn(n, memory.size)
    keep = torch.arange(length) < torch.tensor([[3], [1], [2], [3]])
    garbage = torch.where(keep.unsqueeze(-1), obs, 1e3)
    padded = torch.cat([garbage, torch.full((n, extra, WIDE), -1e3)], 1).requires_grad_()
    longer = torch.cat([start, torch.ones(n, extra, dtype=torch.bool)], 1)
    kept = torch.cat([keep, torch.zeros(n, extra, dtype=torch.bool)], 1)
    plain, with_padding = memory.read(obs, start, z, keep), memory.read(padded, longer, z, kept)
    for one, two in zip(plain, with_padding, strict=True):
        torch.testing.assert_close(one, two, **CLOSE)
    (gradient,) = torch.autograd.grad(sum(part.sum() for part in with_padding), padded)
    assert (gradient[~kept] == 0).all()


@pytest.mark.parametrize(
    "memory", [NoMemory(WIDTH), Window(WIDTH, 3), Recurrent(WIDTH, GRU, 4, 5)], ids=["none", "window", "gru"]
)
def test_a_memory_begins_on_the_device_that_it_was_moved_to(memory: Memory) -> None:
    """Also one without weights; `meta` stands for any device that is not the CPU."""
    assert memory.to("meta").initial(2).device.type == "meta"
