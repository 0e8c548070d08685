"""Figures: every one draws whatever the data lack, says how many runs it rests on, and looks the same every time."""

import itertools
import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from analysis import stats, style
from analysis.__main__ import main
from analysis.figures import FIGURES, select, write
from analysis.figures.common import Tidy, short
from analysis.load import DATA, collect
from tests.synthetic import FAILED, MISSING, tables_from_returns, write_grid

FULL = {
    ("PendulumV", "random"): [-1300.0, -1290.0, -1310.0],
    ("PendulumV", "oracle"): [-200.0, -210.0, -190.0],
    ("PendulumV", "none"): [-900.0, -950.0, MISSING],
    ("PendulumV", "s2pg"): [-300.0, FAILED, -350.0],
    ("HopperV", "random"): [10.0, 12.0, 14.0],
    ("HopperV", "oracle"): [2000.0, 2100.0, 2200.0],
    ("HopperV", "none"): [300.0, 350.0, 400.0],
    ("HopperV", "s2pg"): [1500.0, 1600.0, 1700.0],
}
CASES = {
    "failed and missing runs": (FULL, 5),
    "one seed": ({key: runs[:1] for key, runs in FULL.items()}, 5),
    "one evaluation": (FULL, 1),
    "no anchors": ({("HopperV", "s2pg"): [1.0, 2.0], ("HopperV", "none"): [0.5, FAILED]}, 3),
    "one method": ({("HopperV", "s2pg"): [1.0, 2.0]}, 3),
    "all runs failed": ({("HopperV", "s2pg"): [FAILED, FAILED], ("HopperV", "none"): [FAILED, MISSING]}, 3),
    "a method missing on one task": ({k: v for k, v in FULL.items() if k != ("HopperV", "s2pg")}, 5),
    "an unknown method and task": ({("MazeV9", "transformer"): [1.0, 2.0], ("MazeV9", "none"): [0.1, 0.2]}, 4),
}


def tidy(returns, points=5):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tasks without a scale are said elsewhere
        tables = tables_from_returns(returns, points=points)
        frames = {name: getattr(tables, name) for name in DATA}
        derived = {"statistics": stats.statistics(tables, 50), "scores": stats.scores(tables)}
        return Tidy({**frames, **derived, "wall_clock": stats.wall_clock(tables)}, tables.grid)


@pytest.fixture(scope="module", params=CASES)
def data(request):
    return tidy(*CASES[request.param])


@pytest.fixture(scope="module")
def full():
    return tidy(*CASES["failed and missing runs"])


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_whatever_the_data_lack(data, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = FIGURES[name].draw(data)
        fig.canvas.draw()
    assert fig.axes
    assert not plt.get_fignums(), "a figure was left open"


@pytest.mark.parametrize("name", FIGURES)
def test_every_caption_counts_seeds_and_attempted_finished_failed_and_missing_runs(full, name):
    caption = FIGURES[name].caption_for(full)
    assert "3 seeds per task and method; 24 runs attempted: 22 finished, 1 failed, 1 missing." in caption
    assert "{" not in caption


@pytest.mark.parametrize("name", ["learning_curves", "learning_curves_time", "sample_efficiency", "time_efficiency"])
def test_the_legend_names_methods_in_the_fixed_order_with_their_lost_runs(full, name):
    labels = [text.get_text() for text in FIGURES[name].draw(full).legends[0].get_texts()]
    shown = ["S2PG (1 failed)", "No memory (1 missing)", "Oracle"]
    assert labels == [*shown, "Random policy"] if name.startswith("learning") else labels == shown


def test_a_failed_run_is_drawn_at_the_random_policys_return(full):
    panel = FIGURES["final_returns"].draw(full).axes[0]
    crosses = [
        points for points in panel.collections if np.allclose(points.get_facecolor()[:, :3], (0.7529, 0, 0), atol=1e-3)
    ]
    drawn = [x for points in crosses for x, _ in points.get_offsets().tolist()]
    assert drawn == pytest.approx([-1300.0])


def test_learning_curves_show_the_numbers_of_the_statistics(full):
    panel = FIGURES["learning_curves"].draw(full).axes[1]
    assert panel.get_title() == "Hopper (velocities hidden)"
    curve = next(line for line in panel.lines if line.get_color() == style.look("s2pg").colour)
    rows = full.pick("return_over_steps", task="HopperV", method="s2pg")
    np.testing.assert_allclose(curve.get_xydata(), rows[["x", "estimate"]].to_numpy(float))


def test_the_other_evaluation_mode_has_a_figure_of_its_own(full):
    other = Tidy(full.frames, full.grid, mode="sample")
    moved = full.statistics.assign(estimate=lambda f: f["estimate"] + 7.0 * (f["mode"] == "sample"))
    shifted = Tidy({**full.frames, "statistics": moved}, full.grid)
    assert full.mode == "mean"
    assert full.other_mode == "sample"
    heights = [FIGURES["learning_curves_other_mode"].draw(d).axes[0].lines[0].get_ydata()[0] for d in (full, shifted)]
    assert heights[1] - heights[0] == pytest.approx(7.0)
    assert "sampled policy" in FIGURES["learning_curves"].caption_for(other)


def test_timing_bars_add_up_to_the_training_time(full):
    panel = FIGURES["timing"].draw(full).axes[0]
    tops = {round(bar.get_y(), 2): bar.get_x() + bar.get_width() for bar in panel.patches}
    rows = full.wall_clock.query("task == 'PendulumV' and method != 'random'")
    assert sorted(tops.values()) == pytest.approx(sorted(rows["training"]))


def test_the_memory_probe_draws_one_dot_per_probed_run_without_and_with_memory(full):
    panel = FIGURES["memory_probe"].draw(full).axes[1]
    assert panel.get_title() == "Hopper (velocities hidden)"
    drawn = sorted(x for points in panel.collections for x, _ in points.get_offsets().tolist())
    expected = full.probe.query("task == 'HopperV'")["r2"]
    assert len(expected) == 12
    assert drawn == pytest.approx(sorted(expected))


def test_the_memory_probe_has_a_panel_per_hidden_group_and_shows_what_is_off_its_scale(full):
    other = full.probe.assign(group="inertia", r2=-3.0)
    data = Tidy({**full.frames, "probe": pd.concat([full.probe, other])}, full.grid)
    panels = [ax for ax in FIGURES["memory_probe"].draw(data).axes if ax.get_title()]
    assert [ax.get_title().split(": ")[1] for ax in panels] == ["velocities", "inertia"] * 2
    low, high = panels[1].get_xlim()
    drawn = [x for points in panels[1].collections for x, _ in points.get_offsets().tolist()]
    assert len(drawn) == 8
    assert all(low < x < high for x in drawn)


def test_methods_are_told_apart_by_the_colour_blind():
    for kind, matrix in COLOUR_BLIND.items():
        seen = {name: lab(matrix @ linear(look.colour)) for name, look in style.METHODS.items()}
        for a, b in itertools.combinations(seen, 2):
            assert np.linalg.norm(seen[a] - seen[b]) > 15, f"{a} and {b} look alike with {kind} vision"


def test_no_two_methods_share_a_marker():
    markers = [look.marker for look in style.METHODS.values()]
    assert len(set(markers)) == len(markers)


def test_unknown_methods_and_tasks_come_last_under_their_own_names():
    assert style.order_methods(["zz", "random", "none", "aa", "s2pg", "none"]) == ["s2pg", "none", "random", "aa", "zz"]
    assert style.order_tasks(["Maze", "HopperV", "PendulumV"]) == ["PendulumV", "HopperV", "Maze"]
    assert (style.label("aa"), style.task_label("Maze")) == ("aa", "Maze")
    assert style.task_label("AntP") == "Ant (positions hidden)"


def test_counts_are_written_in_round_units():
    assert [short(n) for n in (0, 950, 1500, 2_000_000, 1.25e9)] == ["0", "950", "1.5k", "2M", "1.25G"]


def test_the_same_data_give_the_same_bytes(full, tmp_path):
    for folder in ("one", "two"):
        write(full, tmp_path / folder, ["timing", "learning_curves"])
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_drawing_leaves_matplotlibs_backend_alone(full):
    before = mpl.get_backend()
    FIGURES["timing"].draw(full)
    assert mpl.get_backend() == before


def test_the_command_draws_one_figure_from_tables_without_statistics(tmp_path):
    grid = write_grid(tmp_path, tasks=("HopperV",), methods=("random", "oracle", "s2pg"), seeds=2, points=3)
    collect(grid, tmp_path / "runs", tmp_path / "tables")
    assert not (tmp_path / "tables" / "statistics.parquet").exists()
    command = ["figures", "--data", str(tmp_path / "tables"), "--out", str(tmp_path / "out")]
    assert main([*command, "--only", "profiles"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["profiles.json", "profiles.pdf", "profiles.png"]


def test_an_unknown_figure_is_an_error_that_lists_the_figures(tmp_path, capsys):
    assert main(["figures", "--data", str(tmp_path), "--out", str(tmp_path), "--only", "pie"]) == 2
    assert "unknown figure pie; figures: sample_efficiency, " in capsys.readouterr().err
    assert select([]) == FIGURES


def test_diagnostics_show_the_median_over_seeds():
    runs = pd.DataFrame({"task": "HopperV", "method": "s2pg", "seed": [0, 1, 2], "status": "finished"})
    tag = {"task": "HopperV", "method": "s2pg", "tag": "policy/sigma/memory"}
    values = {0: [0.1, 0.2], 1: [0.3, 0.4], 2: [0.8, np.nan]}
    rows = [{**tag, "seed": s, "step": 10 * i, "value": v} for s, vs in values.items() for i, v in enumerate(vs)]
    fig = FIGURES["ppo_memory"].draw(Tidy({"runs": runs, "scalars": pd.DataFrame(rows)}))
    assert fig.axes[0].lines[0].get_ydata() == pytest.approx([0.3, 0.3])


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
COLOUR_BLIND = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear(colour):
    """Linear RGB [3] of a hexadecimal sRGB colour."""
    rgb = np.array(mpl.colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* [3] (D65) of linear RGB [3]."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    x, y, z = np.cbrt(np.clip(to_xyz @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883], 1e-9, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
