"""Collecting run folders: nothing is lost, nothing bad is hidden, and no bad run takes the collection down."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from analysis import schema
from analysis.__main__ import main
from analysis.errors import AnalysisError
from analysis.load import DATA, collect, read_scalars, read_tables
from tests.synthetic import START, TAGS, write_events, write_grid

ROOT = Path(__file__).resolve().parents[1]
S2PG = "demo/ppo_small/HopperV/s2pg"


@pytest.fixture
def root(tmp_path):
    """A small grid: 2 methods x 3 seeds on one task."""
    write_grid(tmp_path, tasks=("HopperV",), methods=("random", "s2pg"), seeds=3, points=4, episodes=2)
    return tmp_path


def collected(root):
    return collect(root / "grid.json", root / "runs", root / "tables")


def row(tables, seed, method="s2pg"):
    runs = tables.runs
    return runs[(runs["method"] == method) & (runs["seed"] == seed)].iloc[0]


def test_every_attempted_run_is_one_row(root):
    tables = collected(root)
    assert list(zip(tables.runs["method"], tables.runs["seed"], strict=True)) == [
        (method, seed) for method in ("random", "s2pg") for seed in range(3)
    ]
    assert set(tables.runs["status"]) == {"finished"}
    assert len(tables.scalars) == 6 * 4 * 4
    assert len(tables.episodes) == 6 * 4 * 2 * 2
    assert len(tables.timing) == 6 * 4


def test_tables_come_back_as_they_were_written(root):
    written, read = collected(root), read_tables(root / "tables")
    for name in DATA:
        pd.testing.assert_frame_equal(getattr(written, name), getattr(read, name))
    assert read.grid == json.loads((root / "grid.json").read_text())


def test_values_in_the_tables_are_those_of_the_files(root):
    tables, folder = collected(root), root / "runs" / S2PG / "seed_1"
    mine = tables.episodes[(tables.episodes["method"] == "s2pg") & (tables.episodes["seed"] == 1)]
    file = pd.read_parquet(folder / "episodes.parquet")
    assert mine["return"].tolist() == file["return"].tolist()
    assert mine["episode_seed"].tolist() == file["seed"].tolist()
    assert row(tables, 1)["steps"] == json.loads((folder / "done.json").read_text())["steps"]


def test_scalars_equal_tensorboards_own_reader(root):
    folder = root / "runs" / S2PG / "seed_0"
    ours = read_scalars(folder)
    theirs = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    theirs.Reload()
    assert sorted(ours["tag"].unique()) == sorted(theirs.Tags()["scalars"])
    for tag, mine in ours.groupby("tag"):
        expected = [(e.step, e.value, e.wall_time) for e in theirs.Scalars(tag)]
        assert list(mine[["step", "value", "wall_time"]].itertuples(index=False, name=None)) == expected


def test_scalars_of_torchs_writer_are_read(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        for step in range(3):
            writer.add_scalar("loss/policy", step / 4, step)
    assert read_scalars(tmp_path)["value"].tolist() == [0.0, 0.25, 0.5]


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_truncated_event_file_is_read_up_to_the_truncation_with_a_warning(root, cut):
    path = next((root / "runs" / S2PG / "seed_0").glob("events*"))
    whole = read_scalars(path.parent)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.warns(UserWarning, match=r"events\.out\.tfevents.*truncated"):
        cut_short = read_scalars(path.parent)
    pd.testing.assert_frame_equal(cut_short, whole.iloc[:-1])


def test_record_that_cannot_be_decoded_ends_the_file_with_a_warning(root):
    path = next((root / "runs" / S2PG / "seed_0").glob("events*"))
    data, whole = bytearray(path.read_bytes()), read_scalars(path.parent)
    data[-20:-4] = b"\xff" * 16
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="cannot be decoded"):
        assert len(read_scalars(path.parent)) == len(whole) - 1


def test_resumed_run_keeps_the_last_value_of_each_step(tmp_path):
    names = ["events.out.tfevents.2.host.9.0", "events.out.tfevents.2.host.10.0"]  # in order of time, not of name
    write_events(tmp_path / names[0], ["a"], [100, 200, 300], [1.0, 2.0, 3.0], start=START)
    write_events(tmp_path / names[1], ["a"], [300, 400], [30.0, 40.0], start=START + 500)
    found = read_scalars(tmp_path).sort_values("step")
    assert list(zip(found["step"], found["value"], strict=True)) == [(100, 1.0), (200, 2.0), (300, 30.0), (400, 40.0)]


def test_run_that_was_not_started_is_missing(tmp_path):
    write_grid(tmp_path, tasks=("HopperV",), methods=("s2pg",), seeds=2, missing={("HopperV", "s2pg", 1)})
    assert row(collected(tmp_path), 1)["status"] == "missing"


def test_unfinished_run_is_missing_and_its_half_made_data_are_left_out(root):
    (root / "runs" / S2PG / "seed_0" / "done.json").unlink()
    tables = collected(root)
    assert row(tables, 0)["status"] == "missing"
    assert "unfinished" in row(tables, 0)["reason"]
    for frame in (tables.scalars, tables.episodes, tables.timing):
        assert not ((frame["method"] == "s2pg") & (frame["seed"] == 0)).any()


def test_diverged_run_keeps_its_reason_and_its_data(tmp_path):
    write_grid(tmp_path, tasks=("HopperV",), methods=("s2pg",), seeds=2, failed={("HopperV", "s2pg", 1)})
    tables = collected(tmp_path)
    assert tuple(row(tables, 1)[["status", "reason"]]) == ("failed", "loss/policy is not finite")
    assert (tables.episodes["seed"] == 1).any()


def test_probe_is_collected_and_a_run_without_one_has_no_rows(root):
    path = root / "runs" / S2PG / "seed_1" / "probe.parquet"
    tables, file = collected(root), pd.read_parquet(path)
    mine = tables.probe[tables.probe["seed"] == 1]
    assert set(tables.probe["method"]) == {"s2pg"}, "the random policy's file is empty"
    assert mine["r2"].tolist() == file["r2"].tolist()
    path.unlink()
    again = collected(root)
    assert set(again.runs["status"]) == {"finished"}
    assert sorted(again.probe["seed"].unique()) == [0, 2]


def test_grid_without_any_probe_still_makes_an_empty_table(root):
    for path in root.glob("runs/**/probe.parquet"):
        path.unlink()
    assert collected(root).probe.empty
    assert read_tables(root / "tables").probe.empty


def broken(name, text):
    return lambda folder: (folder / name).write_text(text)


def without(name):
    return lambda folder: (folder / name).unlink()


def changed(name, change):
    def apply(folder):
        frame = pd.read_parquet(folder / name)
        change(frame).to_parquet(folder / name)

    return apply


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (broken("done.json", "{"), "done.json: "),
        (broken("done.json", '{"status": "finished"}'), "done.json: key 'steps' is missing"),
        (broken("done.json", '{"status": "great"}'), "done.json: status 'great', allowed are finished and failed"),
        (broken("done.json", "[]"), "done.json: "),
        (broken("episodes.parquet", "PAR1"), "episodes.parquet: cannot be read"),
        (without("episodes.parquet"), "episodes.parquet: does not exist"),
        (changed("episodes.parquet", lambda f: f.iloc[:0]), "episodes.parquet: "),
        (changed("episodes.parquet", lambda f: f[f["mode"] == "mean"]), "episodes.parquet: holds evaluation modes"),
        (changed("episodes.parquet", lambda f: f.drop(columns="return")), "episodes.parquet: "),
        (changed("episodes.parquet", lambda f: f.assign(**{"return": float("inf")})), "a return that is not finite"),
        (changed("episodes.parquet", lambda f: f.assign(length=0.5)), "column length should hold int"),
        (without("timing.parquet"), "timing.parquet: does not exist"),
        (broken("probe.parquet", "PAR1"), "probe.parquet: cannot be read"),
        (changed("probe.parquet", lambda f: f.drop(columns="r2")), "probe.parquet: "),
        (changed("probe.parquet", lambda f: f.assign(features="memory")), "probe.parquet: "),
        (broken("config.yaml", "{"), "config.yaml: "),
        (broken("config.yaml", "just text"), "config.yaml: "),
        (broken("config.yaml", "experiment: other"), "config.yaml: experiment is 'other', the grid says 'ppo_small'"),
        (broken("provenance.json", ""), "provenance.json: "),
    ],
)
def test_unreadable_file_makes_the_run_failed_with_a_reason_and_the_others_are_collected(root, harm, reason):
    harm(root / "runs" / S2PG / "seed_0")
    tables = collected(root)
    assert row(tables, 0)["status"] == "failed"
    assert reason in row(tables, 0)["reason"]
    assert (tables.runs["status"] == "finished").sum() == 5
    assert str(root) not in row(tables, 0)["reason"]


def trained_and_wanted(root, trained, wanted):
    """Let the runs of s2pg have been trained with the settings `trained`, and the grid ask for `wanted`."""
    for path in (root / "runs" / S2PG).glob("seed_*/config.yaml"):
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | trained))
    grid = json.loads((root / "grid.json").read_text())
    (root / "grid.json").write_text(json.dumps(grid | {"configs": {"HopperV": {"s2pg": wanted}}}))


def test_a_run_with_other_settings_than_its_experiment_has_now_is_missing_and_says_which(root):
    before = {"epochs": 5, "hparams": {"gamma": 0.99, "betas": [0.9, 0.999]}}
    trained_and_wanted(root, before, before | {"hparams": {**before["hparams"], "new_since": 1}})
    assert set(collected(root).runs["status"]) == {"finished"}
    trained_and_wanted(root, before, {"epochs": 7, "hparams": {**before["hparams"], "gamma": 0.5}})
    tables = collected(root)
    assert set(tables.runs[tables.runs["method"] == "random"]["status"]) == {"finished"}
    assert set(tables.runs[tables.runs["method"] == "s2pg"]["status"]) == {"missing"}
    said = (
        "epochs is 5, the experiment file says 7; hparams.gamma is 0.99, the experiment file says 0.5: trained before"
    )
    assert row(tables, 2)["reason"].startswith(said)
    assert set(tables.episodes["method"]) == set(tables.scalars["method"]) == {"random"}


def test_run_without_event_files_is_failed(root):
    for path in (root / "runs" / S2PG / "seed_0").glob("events*"):
        path.unlink()
    assert row(collected(root), 0)["reason"] == "event files: there is none with a scalar"


def test_configuration_hash_ignores_the_seed_and_nothing_else(root):
    config = root / "runs" / S2PG / "seed_2" / "config.yaml"
    config.write_text(config.read_text() + "learning_rate: 1.0\n")
    hashes = [row(collected(root), seed)["config_hash"] for seed in range(3)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_all_runs_missing_still_makes_tables(tmp_path):
    grid = write_grid(tmp_path, tasks=("HopperV",), methods=("s2pg",), seeds=1, missing={("HopperV", "s2pg", 0)})
    (tmp_path / "runs").mkdir()
    collect(grid, tmp_path / "runs", tmp_path / "tables")
    assert read_tables(tmp_path / "tables").runs["status"].tolist() == ["missing"]


def test_mistyped_folder_of_runs_is_an_error_and_not_a_grid_of_missing_runs(root):
    with pytest.raises(AnalysisError, match="ruins is not a folder"):
        collect(root / "grid.json", root / "ruins", root / "tables")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a grid"),
        ('{"experiment": "e", "scale": "s"}', "not a grid"),
        ('{"experiment": "e", "scale": "s", "runs": []}', "empty or malformed: runs"),
        ('{"experiment": "e", "scale": "s", "runs": [{"task": "t"}]}', r"runs\[0\]"),
    ],
)
def test_bad_grid_is_an_error_that_names_the_file(tmp_path, text, message):
    (tmp_path / "grid.json").write_text(text)
    with pytest.raises(AnalysisError, match=message) as error:
        collect(tmp_path / "grid.json", tmp_path, tmp_path)
    assert "grid.json" in str(error.value)


def test_users_errors_are_one_line_and_exit_code_2(tmp_path, capsys):
    for command in ("statistics", "claims", "tables"):
        assert main([command, "--data", str(tmp_path)]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert "runs.parquet does not exist" in said[0]


@pytest.mark.parametrize("reps", ["0", "-1", "many"])
def test_number_of_resamples_is_a_positive_number(tmp_path, capsys, reps):
    with pytest.raises(SystemExit, match="2"):
        main(["statistics", "--data", str(tmp_path), "--reps", reps])
    assert "a positive whole number is needed" in capsys.readouterr().err


def test_schema_refuses_what_does_not_fit():
    timing = schema.frame("timing")
    with pytest.raises(schema.SchemaError, match="missing columns.*'wall'"):
        schema.check("timing", timing.drop(columns="wall"))
    with pytest.raises(schema.SchemaError, match="unexpected columns.*'more'"):
        schema.check("timing", timing.assign(more=1))
    with pytest.raises(schema.SchemaError, match="step should hold int"):
        schema.check("timing", timing.astype({"step": float}))
    with pytest.raises(schema.SchemaError, match="no table is called 'time'"):
        schema.check("time", timing)


def test_schema_refuses_unknown_values_and_empty_cells(root):
    episodes = collected(root).episodes
    with pytest.raises(schema.SchemaError, match=r"mode holds \['greedy'\], allowed are \['sample', 'mean'\]"):
        schema.check("episodes", episodes.assign(mode="greedy"))
    with pytest.raises(schema.SchemaError, match="return has .* empty cells"):
        schema.check("episodes", episodes.assign(**{"return": float("nan")}))


def test_episodes_from_before_there_was_success_are_read_with_an_empty_column(root):
    tables = collected(root)  # the synthetic runs are such
    assert tables.episodes["success"].isna().all()
    assert tables.episodes["success"].dtype == "boolean"
    old = pd.read_parquet(ROOT / "results" / "published" / "ppo_small" / "episodes.parquet")
    assert "success" not in old
    read = read_tables(ROOT / "results" / "published" / "ppo_small").episodes
    added = ["success", "terminated"]
    pd.testing.assert_frame_equal(read.drop(columns=added), old)
    assert read[added].isna().all(axis=None)


def test_success_is_read_from_the_runs_that_say_it(root):
    said = changed("episodes.parquet", lambda f: f.assign(success=(f["length"].cumsum() % 2000 == 0).astype("boolean")))
    said(root / "runs" / S2PG / "seed_0")
    episodes = collected(root).episodes
    told = episodes[episodes["success"].notna()]
    assert set(map(tuple, told[["method", "seed"]].drop_duplicates().to_numpy())) == {("s2pg", 0)}
    assert told["success"].tolist() == [False, True] * (len(told) // 2)  # synthetic episodes have 1000 steps


def test_data_dictionary_in_results_readme_is_the_schema():
    assert schema.dictionary() in (ROOT / "results" / "README.md").read_text()


def test_analysis_works_where_torch_s2pg_and_envs_cannot_be_imported(tmp_path):
    write_grid(
        tmp_path, tasks=("HopperV",), methods=("random", "oracle", "none", "bptt32", "s2pg"), seeds=2, tags=TAGS[:1]
    )
    program = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "s2pg", "envs", "gymnasium", "rliable", "tensorflow"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
from analysis.__main__ import main
root = {str(tmp_path)!r}
assert main(["collect", "--grid", root + "/grid.json", "--runs", root + "/runs", "--out", root + "/tables"]) == 0
for command in ("statistics", "claims", "tables"):
    assert main([command, "--data", root + "/tables"]) == 0
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "10 runs attempted: 10 finished" in run.stdout
    assert (tmp_path / "tables" / "aggregates.md").exists()
