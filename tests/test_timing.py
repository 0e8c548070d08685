"""The study of time: equal work in every cell, counted; memory that grows with the context; the reference's density."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing
import referencing.jsonschema
import torch
import yaml

from s2pg.config import ConfigError
from s2pg.nets import Linear
from s2pg.timing import memory
from s2pg.timing.density import DENSITIES, DensityLane
from s2pg.timing.lanes import take_turns
from s2pg.timing.products import Product, Products, seconds
from s2pg.timing.sweep import ROWS, WITH_CONTEXT, Case, Cell, Scale, cells, configure, count, measure, open_lane

CONFIG = Path(__file__).resolve().parents[1] / "workflow" / "config"
CASE = Case("ppo", "matched", "PendulumV", (*ROWS, *DENSITIES), 2, 32, {"rollout": 128, "passes": 2})
SCALE = Scale((1, 8), (8,), (4,), (16,), 2, 20, {})


def terms(kind: str, context: int, case: Case = CASE, samples: int = 32) -> Any:
    """What one update of a cell consists of."""
    config = configure(case, SCALE, Cell(kind, context, case.environments, samples))
    return count(open_lane(SCALE, config, kind))


@pytest.mark.parametrize("kind", [*ROWS, *DENSITIES])
def test_every_kind_of_memory_and_density_has_as_many_loss_terms_and_gradient_steps(kind: str) -> None:
    for context in (1, 5, 32) if kind in WITH_CONTEXT else (1,):
        found = terms(kind, context)
        assert found.terms == 2 * 128
        assert found.gradient_steps == pytest.approx(8, abs=2 if context == 5 else 0)  # 5 does not divide 32


def test_off_policy_updates_have_as_many_loss_terms_whatever_the_memory_and_the_environments() -> None:
    case = Case("sac", "matched", "HalfCheetahV", ("s2pg",), 1, 32, {"replay": 2000})
    for kind, context in (("s2pg", 1), ("window", 8), ("bptt", 8)):
        assert terms(kind, context, case) == (20 * 32, 20)
    assert terms("bptt_all", 8, case).terms == pytest.approx(20 * 32, rel=0.1)
    crowded = terms("s2pg", 1, replace(case, environments=5))
    assert crowded == (20 * 32, 20)


def test_counting_leaves_the_algorithm_as_it_was() -> None:
    lane = open_lane(SCALE, configure(CASE, SCALE, Cell("none", 1, 2, 32)), "none")
    count(lane)
    assert "losses" not in vars(lane.algorithm)


def test_cells_vary_the_context_and_at_chosen_contexts_the_parallel_samples_one_at_a_time() -> None:
    found = cells(CASE, SCALE)
    assert len(found) == len(set(found))
    mine = {cell[1:] for cell in found if cell.kind == "bptt"}
    assert mine == {(1, 2, 32), (8, 2, 32), (8, 4, 32), (8, 2, 16)}
    assert {cell[1:] for cell in found if cell.kind == "s2pg"} == {(1, 2, 32), (1, 4, 32), (1, 2, 16)}
    assert {cell[1:] for cell in found if cell.kind == "density_joint"} == {(1, 2, 32), (1, 2, 16)}


def test_no_chunk_is_longer_than_a_gradient_step_has_loss_terms() -> None:
    long = cells(replace(CASE, samples=4), SCALE)
    assert Cell("bptt_all", 8, 2, 4) not in long
    assert Cell("bptt_all", 8, 2, 16) in long
    assert Cell("bptt", 8, 2, 4) in long


def test_a_context_that_does_not_fit_into_a_rollout_is_refused_rather_than_cut() -> None:
    with pytest.raises(ConfigError, match="64 steps per environment, fewer than the context"):
        configure(CASE, SCALE, Cell("bptt", 128, 2, 32))


def test_the_scale_wins_over_the_case_and_the_cell_over_both() -> None:
    scale = replace(SCALE, hparams={"ppo": {"passes": 1, "num_envs": 99, "minibatch": 99}})
    hp = configure(CASE, scale, Cell("bptt", 8, 4, 16)).hparams
    assert (hp.passes, hp.num_envs, hp.minibatch, hp.rollout) == (1, 4, 16, 128)


def test_rows_say_where_the_time_went_and_what_was_done() -> None:
    case = replace(CASE, kinds=("s2pg", "bptt", "density_diagonal"))
    scale = replace(SCALE, contexts=(2,), at=(1,), environments=(2,), samples=(32,))
    rows = list(measure(case, scale, 0))
    assert [(row["round"], row["kind"]) for row in rows] == [(r, k) for r in (0, 1) for k in case.kinds]
    for row in rows:
        assert (row["terms"], row["steps"], row["usual_samples"], row["usual_environments"]) == (256, 128, True, True)
        assert row["learning"] > 0
        acts = row["kind"] != "density_diagonal"
        assert (row["environment"] > 0) == (row["acting"] > 0) == (row["peak_memory_mb"] > 0) == acts


def test_turns_are_taken_in_rounds() -> None:
    said: list[Any] = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def update(self) -> dict[str, float]:
            said.append(self.name)
            return {"learning": float(len(said))}

    rounds = list(take_turns({"a": Fake("a"), "b": Fake("b")}, 2, lambda index, key: said.append((index, key))))
    assert said == [(0, "a"), "a", (0, "b"), "b", (1, "a"), "a", (1, "b"), "b"]
    assert rounds[1][0] == {"a": {"learning": 6.0}, "b": {"learning": 8.0}}


def test_a_window_per_loss_term_takes_memory_that_grows_with_the_context_and_chunks_do_not() -> None:
    case = replace(CASE, hparams={"rollout": 1024, "passes": 1}, samples=512)
    chosen = [Cell("bptt", 2, 2, 512), Cell("bptt", 64, 2, 512), Cell("bptt_all", 64, 2, 512)]
    short, long, chunks = memory.peaks([configure(case, SCALE, cell) for cell in chosen])
    assert long > 5 * short
    assert long > 5 * chunks


@pytest.mark.parametrize("name", DENSITIES)
def test_every_density_is_that_of_a_diagonal_gaussian(name: str) -> None:
    mean, u, log_sigma = torch.randn(4, 6), torch.randn(4, 6), torch.randn(6)
    exact = torch.distributions.Normal(mean, log_sigma.exp()).log_prob(u).sum(-1)
    torch.testing.assert_close(DENSITIES[name](mean, log_sigma, u, 2), exact, rtol=1e-4, atol=1e-4)


def test_validation_makes_the_joint_density_far_dearer_than_a_diagonal_one() -> None:
    torch.set_num_threads(1)
    case = replace(CASE, hparams={"rollout": 256, "passes": 1, "memory_size": 128})
    seconds = {}
    for kind in ("density_joint_validated", "density_diagonal"):
        lane = open_lane(SCALE, configure(case, SCALE, Cell(kind, 1, 2, 32)), kind)
        assert isinstance(lane, DensityLane)
        assert lane.mean.shape == (32, 1 + 128)
        seconds[kind] = min(lane.update()["learning"] for _ in range(4))
    assert seconds["density_joint_validated"] > 5 * seconds["density_diagonal"]


def test_only_the_reference_validates_its_arguments() -> None:
    mean, u, bad = torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0.0, float("nan")])
    with pytest.raises(ValueError, match="covariance_matrix"):
        DENSITIES["density_joint_validated"](mean, bad, u, 1)
    assert DENSITIES["density_diagonal"](mean, bad, u, 1).isnan().all()


# --- the study's file ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    return yaml.safe_load((CONFIG / "studies" / "timing.yaml").read_text())


def test_cases_scales_and_rules_are_what_the_schema_allows(study: dict[str, Any]) -> None:
    make = referencing.jsonschema.DRAFT202012.create_resource
    files = {path.name: make(yaml.safe_load(path.read_text())) for path in (CONFIG / "schema").glob("*.yaml")}
    registry = referencing.Registry().with_resources(files.items())
    rules = [claim["rule"] for claim in study["claims"]]
    for part, values in (("case", [study["base"], *study["cases"].values()]), ("scale", study["scales"].values())):
        for value in values:
            jsonschema.Draft202012Validator({"$ref": f"timing.yaml#/$defs/{part}"}, registry=registry).validate(value)
    for rule in rules:
        jsonschema.Draft202012Validator({"$ref": "timing.yaml#/$defs/rule"}, registry=registry).validate(rule)
        assert {rule[key] for key in ("a", "b") if key in rule} <= set(study["cases"][rule["case"]]["kinds"])


@pytest.mark.parametrize("name", ["smoke", "demo", "lite", "paper"])
def test_the_longest_context_of_every_scale_fits_every_cell(name: str, study: dict[str, Any]) -> None:
    scale = Scale.read(study["scales"][name])
    longest = max(scale.contexts)
    scale = replace(scale, contexts=(1, longest), at=(longest,))
    for key in study["scales"][name]["cases"]:
        case = Case.read({**study["base"], **study["cases"][key]})
        chosen = cells(case, scale)
        for cell in chosen:
            hp = configure(case, scale, cell).hparams
            assert hp.num_envs == cell.environments
        assert {cell.kind for cell in chosen} == set(case.kinds)


@pytest.mark.parametrize("name", ["lite", "paper"])
def test_all_contexts_of_the_question_are_measured_with_every_memory(name: str, study: dict[str, Any]) -> None:
    assert study["scales"][name]["contexts"] == [1, 2, 5, 8, 16, 32, 64, 128]
    assert study["scales"][name]["cases"] == list(study["cases"])
    assert all(set(ROWS) <= set(case["kinds"]) for case in study["cases"].values())


def operations(multiply: Any) -> int:
    """Of all matrix products of a call and of its gradients, as `Products` counts them."""
    with Products() as products:
        multiply().sum().backward()
    return sum(number * shape.operations for shape, number in products.counts.items())


@pytest.mark.parametrize("rows", [8, 256])  # by torch's own layer, and by `kernels.Linear`
def test_products_are_counted_forward_and_backward(rows: int) -> None:
    layer, x = Linear(128, 96), torch.randn(rows, 128, requires_grad=True)
    assert operations(lambda: layer(x)) == 3 * 2 * rows * 128 * 96  # the output, and the gradients of x and weights
    a, b = torch.randn(3, rows, 5, requires_grad=True), torch.randn(3, 5, 7, requires_grad=True)
    assert operations(lambda: torch.baddbmm(torch.zeros(3, 1, 7), a, b)) == 3 * 2 * 3 * rows * 5 * 7


def test_all_other_operations_are_counted() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    with Products() as products:
        (a @ b + 1.0).relu_().t()
    assert (sum(products.counts.values()), products.others) == (1, 3)  # the sum, the ReLU, and the view


def test_the_floor_of_many_products_is_above_that_of_few() -> None:
    small, large = Product(1, 64, 64, 64), Product(1, 512, 512, 512)
    times = seconds({small: 1}), seconds({large: 1}), seconds({large: 10})
    assert times[0] < times[1] / 10
    assert times[1] < times[2]
