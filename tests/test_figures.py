"""Figures: every one draws whatever the data lack, says how many runs it rests on, and looks the same every time."""

import itertools
import json
import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from analysis import figures, setting, stats, style
from analysis.__main__ import main
from analysis.figures import FIGURES, diagnostics, select, write
from analysis.figures.common import Tidy, short
from analysis.load import DATA, collect
from s2pg.config import list_experiments, load_experiment
from tests.synthetic import FAILED, MISSING, tables_from_returns, write_grid
from workflow.scripts.grid import grid as grid_of

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


def test_times_are_written_out_however_long(full):
    slow = full.wall_clock.assign(training=159.6, steps_per_second=6.3)
    panel = FIGURES["timing"].draw(Tidy({**full.frames, "wall_clock": slow}, full.grid)).axes[0]
    assert {text.get_text() for text in panel.texts} == {" 160 ms (6/s)"}


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
    assert [ax.get_title().split(":\n")[1] for ax in panels] == ["velocities", "inertia"] * 2
    low, high = panels[1].get_xlim()
    drawn = [x for points in panels[1].collections for x, _ in points.get_offsets().tolist()]
    assert len(drawn) == 8
    assert all(low < x < high for x in drawn)


def test_methods_are_told_apart_by_the_colour_blind():
    for kind, matrix in COLOUR_BLIND.items():
        seen = {name: lab(matrix @ linear(look.colour)) for name, look in style.METHODS.items()}
        for a, b in itertools.combinations(seen, 2):
            assert np.linalg.norm(seen[a] - seen[b]) > 15, f"{a} and {b} look alike with {kind} vision"


@pytest.mark.parametrize("family", style.VARIANTS)
def test_variants_of_s2pg_are_told_apart_by_the_colour_blind_within_their_family(family):
    names = [*style.VARIANTS[family], "s2pg", "none", "oracle", "random"]
    for kind, matrix in COLOUR_BLIND.items():
        seen = {name: lab(matrix @ linear(style.look(name).colour)) for name in names}
        for a, b in itertools.combinations(seen, 2):
            assert np.linalg.norm(seen[a] - seen[b]) > 12, f"{a} and {b} look alike with {kind} vision"


def test_every_variant_of_s2pg_in_the_experiments_has_a_look_and_all_looks_differ():
    used = {m for name in list_experiments() for m in load_experiment(name).methods}
    assert used <= {*style.METHODS, *(m for family in style.VARIANTS.values() for m in family)}
    looks = [style.look(method) for method in used]
    assert len(set(looks)) == len({look.label for look in looks}) == len(used)


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
    assert "unknown figure pie; figures: kernel, kernel_curves, success_against_delay, " in capsys.readouterr().err
    assert select([]) == FIGURES


def test_diagnostics_show_the_median_over_seeds():
    runs = pd.DataFrame({"task": "HopperV", "method": "s2pg", "seed": [0, 1, 2], "status": "finished"})
    tag = {"task": "HopperV", "method": "s2pg", "tag": "policy/sigma/memory"}
    values = {0: [0.1, 0.2], 1: [0.3, 0.4], 2: [0.8, np.nan]}
    rows = [{**tag, "seed": s, "step": 10 * i, "value": v} for s, vs in values.items() for i, v in enumerate(vs)]
    fig = FIGURES["diagnostics_memory"].draw(Tidy({"runs": runs, "scalars": pd.DataFrame(rows)}))
    assert fig.axes[0].lines[0].get_ydata() == pytest.approx([0.3, 0.3])


@pytest.mark.parametrize(
    ("algorithm", "memory", "imitation"),
    [
        ("ppo", "divergence", None),
        ("sac", "temperature", None),
        ("td3", "TD3's noise is fixed. Units of", None),
        ("gail", "divergence", "The discriminator"),
        ("lsiq", "temperature", "the rewards that they imply"),
        ("bc", "divergence", "How likely"),
    ],
)
def test_diagnostics_are_those_of_the_algorithm_and_left_out_where_nothing_is_logged(algorithm, memory, imitation):
    runs = pd.DataFrame({"task": "HopperV", "method": "s2pg", "seed": [0], "status": "finished"})
    tags = [tag for group in diagnostics.ROWS[algorithm].values() for tag in group]
    rows = [
        {"task": "HopperV", "method": "s2pg", "seed": 0, "tag": t, "step": s, "value": -s} for t in tags for s in (1, 2)
    ]
    grid = {"experiment": "e", "scale": "demo", "spec": {"algorithm": algorithm}}
    data = Tidy({"runs": runs, "scalars": pd.DataFrame(rows)}, grid)
    drawn = FIGURES["diagnostics_action"].draw(data)
    names = [ax.get_ylabel() for ax in drawn.axes if ax.get_ylabel()]
    assert names == list(diagnostics.ROWS[algorithm]["action"].values())
    assert memory in FIGURES["diagnostics_memory"].caption_for(data)
    assert FIGURES["diagnostics_memory"].applies(data)
    assert FIGURES["imitation"].applies(data) == (imitation is not None)
    if imitation:
        assert imitation in FIGURES["imitation"].caption_for(data)
        names = [ax.get_ylabel() for ax in FIGURES["imitation"].draw(data).axes if ax.get_ylabel()]
        assert names == list(diagnostics.ROWS[algorithm]["imitation"].values())


# --- the kernel study ---


def kernel(methods):
    """Made-up results of the experiment `kernel`, with the real settings of its methods at lite scale."""
    returns = {("HopperV", m): [50.0 + i, 52.0 + i, 54.0 + i] for i, m in enumerate(methods)}
    anchors = {("HopperV", "random"): [0.0, 1.0], ("HopperV", "oracle"): [100.0, 101.0]}
    data = tidy({**anchors, **returns})
    listed = grid_of("kernel", "lite")
    return Tidy(data.frames, {**data.grid, **{k: listed[k] for k in ("experiment", "scale", "methods", "spec")}})


@pytest.fixture(scope="module")
def study():
    return kernel([m for m in load_experiment("kernel").methods if m not in ("random", "oracle")])


def test_the_kernel_study_groups_methods_by_what_their_settings_change(study):
    assert figures.kernel.families(study) == {
        "distribution": [
            "s2pg",
            "s2pg_reference",
            "s2pg_unsquashed",
            "s2pg_twice",
            "s2pg_learned",
            "s2pg_state",
            "s2pg_unbounded",
            "s2pg_uniform",
            "s2pg_leak",
        ],
        "noise": ["s2pg", "s2pg_sigma001", "s2pg_sigma002", "s2pg_sigma005", "s2pg_sigma03", "s2pg_sigma1"],
        "size": ["s2pg", "s2pg_size8", "s2pg_size16", "s2pg_size64", "s2pg_size128"],
        "cell": ["s2pg", "s2pg_lstm", "s2pg_rnn", "s2pg_diagonal"],
    }


def test_the_kernel_study_shows_the_numbers_of_the_statistics_at_their_settings(study):
    noise, size, kinds = FIGURES["kernel"].draw(study).axes
    score = study.pick("iqm", task="all").set_index("method")["estimate"]
    line = noise.lines[0].get_xydata()
    names = ["s2pg_sigma001", "s2pg_sigma002", "s2pg_sigma005", "s2pg", "s2pg_sigma03", "s2pg_sigma1"]
    np.testing.assert_allclose(line, np.c_[[0.01, 0.02, 0.05, 0.1, 0.3, 1.0], score[names]])
    assert size.lines[0].get_xdata().tolist() == [8, 16, 32, 64, 128]
    assert [text.get_text() for text in kinds.get_yticklabels()] == [
        style.label(m)
        for m in style.order_methods(
            figures.kernel.families(study)["distribution"] + ["s2pg_lstm", "s2pg_rnn", "s2pg_diagonal"]
        )
    ]


def test_the_kernel_study_draws_only_what_was_varied(study):
    few = kernel(["none", "s2pg", "s2pg_uniform", "s2pg_diagonal"])
    assert [ax.get_title().split("\n")[0] for ax in FIGURES["kernel"].draw(few).axes] == ["distribution and cell"]
    assert FIGURES["kernel"].applies(study)
    assert not FIGURES["kernel"].applies(kernel(["none", "s2pg"]))


def test_without_a_normalised_scale_the_kernel_study_shows_returns(study):
    flat = Tidy({**study.frames, "statistics": study.statistics[study.statistics["statistic"] != "iqm"]}, study.grid)
    assert "episode final return" in FIGURES["kernel"].draw(flat).axes[0].get_ylabel()


# --- the setting ---


def test_every_figure_says_experiment_algorithm_sight_and_bodies(study):
    for plot in FIGURES.values():
        assert plot.draw(study).get_suptitle() == "kernel (lite): SAC, privileged critic, consistent bodies"
        assert plot.caption_for(study).endswith("SAC, privileged critic, consistent bodies.")


def test_bodies_are_those_of_the_tasks_of_the_grid():
    spec = {"algorithm": "td3", "task_options": {"*": {"bodies": "reference"}, "Ant*": {"bodies": "none"}}}
    grid = {"spec": spec, "runs": [{"task": "HopperV"}]}
    assert setting.short(grid) == "TD3, blind critic, reference bodies"
    assert "left stale as in the reference" in setting.sentence(grid)
    assert setting.short({**grid, "runs": [{"task": "AntV"}]}) == "TD3, blind critic"


def test_figures_that_do_not_apply_say_so_to_the_report(full, tmp_path):
    write(full, tmp_path, ["kernel", "timing"])
    shown = {path.stem: json.loads(path.read_text())["shown"] for path in tmp_path.glob("*.json")}
    assert shown == {"kernel": False, "timing": True}


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
