"""The configuration: mistakes are named, profile `reference` is the reference, and every run of every grid resolves."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from s2pg.config import (
    ROOT,
    RunConfig,
    config_dir,
    hparams,
    list_experiments,
    load_experiment,
    methods,
    parse_overrides,
    resolve,
    tasks,
    workflow_settings,
)
from s2pg.hyperparameters import (
    ALGORITHMS,
    ConfigError,
    MethodConfig,
    OffPolicyConfig,
)
from tests.offpolicy import DECIDED

REFERENCE = yaml.safe_load((ROOT / "tests/data/reference_ppo.yaml").read_text())
OFF_POLICY = yaml.safe_load((ROOT / "tests/data/reference_off_policy.yaml").read_text())
LAUNCHED = [(a, m, t) for a in ("sac", "td3") for m in OFF_POLICY[a]["methods"] for t in OFF_POLICY["tasks"]]
ON_ACTIONS = {"sigma_action", "smoothing_action", "smoothing_action_clip"}
SMALL, SAC = "experiments/ppo_small.yaml", "experiments/sac_privileged.yaml"
CLEARED = "experiments/sac_cheetah_cleared.yaml"
SCALES = ["smoke", "demo", "lite", "paper"]
SOURCE = re.compile(
    r"# (ours: \S.{2,}|experiments/(01_Reinforcement_Learning/"
    r"(\*|01_BPTT|02_RS|03_Window|04_Vanilla|05_Oracle)/"
    r"(01_POMDP|\*/(01_SAC|02_TD3)(_RS|_BPTT|_Window|_pI|\*))"
    r"|02_Imitation_Learning/(\*|01_BPTT|02_RS|03_Vanilla)/\*/(01_GAIL|02_LSIQ))( \(.+\))?)$"
)

Edit = Callable[[str, str, str], Path]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Change one piece of text in a copy of the configuration that the functions under test then read."""
    folder = tmp_path / "config"
    shutil.copytree(ROOT / "workflow/config", folder)
    monkeypatch.setenv("S2PG_CONFIG", str(folder))

    def change(name: str, old: str, new: str) -> Path:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
        return folder / name

    return change


def sac(method: str = "s2pg", **hparams: Any) -> RunConfig:
    return resolve("sac_privileged", "HopperV", method, 0, "smoke", {"hparams": hparams})


def example(method: str = "s2pg") -> RunConfig:
    return resolve("ppo_small", "HopperV", method, 3, "demo")


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "new", "key", "hint"),
    [
        (SMALL, "profile: matched", "profil: matched", "'profil'", "did you mean 'profile'?"),
        (SMALL, "epochs: 2", "epoch: 2", "scales.smoke", "did you mean 'epochs'?"),
        (SMALL, "    seeds: 2", "    seeds: 0", "scales.smoke.seeds", "minimum of 1"),
        (SMALL, "tasks: [PendulumV", "tasks: [PendulmV", "scales.smoke.tasks", "did you mean 'PendulumV'?"),
        (SMALL, "window5, bptt32_all,", "window5, btt32_all,", "scales.smoke.methods", "did you mean 'bptt32_all'?"),
        (SMALL, "b: none", "b: nose", "claims.oracle_above_none.rule.b", "did you mean 'none'?"),
        (SMALL, "b: none", "b: none, task: HoperV", "claims.oracle_above_none.rule.task", "did you mean 'HopperV'?"),
        (SMALL, "b: none", "b: none, tsk: HopperV", "claims.0.rule", "tsk"),
        (SMALL, "iqm_difference", "iqm_diference", "claims.0.rule.statistic", "'iqm_difference'?"),
        (SMALL, "b: none", "b: none, score: aria", "claims.0.rule.score", "did you mean 'area'?"),
        (
            SMALL,
            "time_ratio,",
            "time_ratio, score: area,",
            "claims.5.rule",
            "unknown 'score'; allowed: a, b, experiment_a",
        ),
        (CLEARED, "a: s2pg,", "a: window9,", "claims.s2pg_above_cleared_area.rule.a", "did you mean 'window5'?"),
        (
            CLEARED,
            "b: s2pg_cleared,",
            "b: s2pg,",
            "claims.s2pg_above_cleared_area.rule.b",
            "allowed: random, s2pg_cleared",
        ),
        (
            CLEARED,
            "a: sac_cheetah_area",
            "a: sac_cheetah_aera",
            "rule.experiment_a",
            "did you mean 'sac_cheetah_area'?",
        ),
        (SMALL, "    seeds: 2", "    seeds: 2\n    first_seed: -1", "scales.smoke.first_seed", "minimum of 0"),
        (SMALL, "passes: 2", "pases: 2", "scales.smoke.overrides.hparams", "mean 'passes'?"),
        (SMALL, "profile: matched", "profile: machted", "profile", "did you mean 'matched'?"),
        (SMALL, "mode: mean", "mode: mean\nmode: mean", "'mode'", "given twice"),
        (SMALL, "name: ppo_small", "name: ppo_smal", "name", "did you mean 'ppo_small'?"),
        ("methods.yaml", "kind: window", "kind: windw", "window5.kind", "did you mean 'window'?"),
        ("methods.yaml", "context: 1, decides: true", "context: 5, decides: true", "s2pg", "needs kind recurrent"),
        ("hparams/ppo.yaml", "gamma: 0.99", "gama: 0.99", "reference.base", "did you mean 'gamma'?"),
        ("hparams/ppo.yaml", "gamma: 0.99", "gamma: 1.99", "reference.base.gamma", "maximum of 1"),
        ("hparams/ppo.yaml", "    gamma: 0.99", "    # gamma", "matched.base", "'gamma' is a required property"),
        ("hparams/ppo.yaml", '["bptt*", "s2pg*"]', '["bppt*", "s2pg*"]', "matched.rules.0.methods", "unknown 'bppt*'"),
        (SMALL, "profile: matched", "profile: matched\nsight: oracle", "sight", "allowed: blind, privileged"),
        (
            SMALL,
            "algorithm: ppo",
            "algorithm: pso",
            "algorithm",
            "allowed: bc, gail, lsiq, ppo, sac, td3; did you mean 'ppo'?",
        ),
        (
            SMALL,
            "profile: matched",
            'profile: matched\ntask_options: {"Hoper*": {}}',
            "task_options",
            "unknown 'Hoper*'",
        ),
        (SMALL, "passes: 2", "batch: 2", "scales.smoke.overrides.hparams", "unknown key 'batch'; allowed: clip,"),
        (SAC, "batch: 16", "minibatch: 16", "scales.smoke.overrides.hparams", "did you mean 'batch'?"),
        (SAC, "warmup: 20", "warmup: 40", "smoke", "hparams.warmup_policy: 30 is less than hparams.warmup: 40"),
        (
            "hparams/sac.yaml",
            "batch: 256",
            "batch: 256\n    delay: 2",
            "reference.base",
            "unknown key 'delay'; allowed:",
        ),
        ("hparams/sac.yaml", "    batch: 256", "    # batch", "reference.base", "'batch' is a required property"),
        (
            "hparams/sac.yaml",
            "sequence_start: stored",
            "sequence_start: burn_in",
            "reference.base.burn_in",
            "0 is less than the minimum of 1",
        ),
        ("hparams/sac.yaml", "sequence_start: stored", "sequence_start: store", "sequence_start", "mean 'stored'?"),
        ("hparams/sac.yaml", "backup: [1, 0]", "backup: [1]", "reference.base.backup", "too short"),
        (
            "hparams/sac.yaml",
            "memory_noise: gaussian",
            "memory_noise: normal",
            "memory_noise",
            "allowed: gaussian, uniform",
        ),
        (
            "methods.yaml",
            "memory_sigma: state",
            "memory_sigma: stat",
            "s2pg_reference.hparams.memory_sigma",
            "mean 'state'?",
        ),
        ("methods.yaml", "leak: 0.5", "leek: 0.5", "s2pg_leak.hparams", "unknown key 'leek'; allowed: absorbing,"),
        ("methods.yaml", "leak: 0.5", "leak: 0.0", "s2pg_leak.hparams.leak", "minimum of 0"),
    ],
)
def test_a_mistake_in_a_file_is_an_error_that_names_file_key_and_remedy(
    edit: Edit, name: str, old: str, new: str, key: str, hint: str
) -> None:
    if key == "matched.base":  # leave the other profile alone
        edit(name, old, "    gamma: 0.5")
    path = edit(name, old, new)
    with pytest.raises(ConfigError) as error:
        load_experiment("sac_cheetah_cleared") if name == CLEARED else sac() if "sac" in name else example()
    assert str(path) in str(error.value)
    assert key in str(error.value)
    assert hint in str(error.value)


@pytest.mark.parametrize("anchor", ["random", "oracle"])
def test_a_grid_without_an_anchor_of_normalisation_is_an_error(edit: Edit, anchor: str) -> None:
    edit(SMALL, "methods: [random, none, oracle,", f"methods: [none, {'random' if anchor == 'oracle' else 'oracle'},")
    with pytest.raises(ConfigError, match=rf"scales\.smoke\.methods: the anchors \['{anchor}'\]"):
        load_experiment("ppo_small")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"experiment": "ppo_smal"}, "experiment: unknown 'ppo_smal'; allowed: .*did you mean 'ppo_small'"),
        ({"task": "HoperV"}, r"ppo_small\.yaml: task: unknown 'HoperV'; allowed: HopperV, .*did you mean 'HopperV'"),
        ({"method": "s2p"}, r"ppo_small\.yaml: method: unknown 's2p'; allowed: .*did you mean 's2pg'"),
        ({"scale": "dem"}, r"ppo_small\.yaml: scale: unknown 'dem'; allowed: demo, lite, paper, smoke; did you mean"),
        ({"seed": -1}, "seed: -1 is less than the minimum of 0"),
        ({"overrides": {"hparam": {}}}, "overrides: unknown key 'hparam'; allowed: .*did you mean 'hparams'"),
    ],
)
def test_a_run_that_does_not_exist_is_an_error_with_the_allowed_values(wrong: dict, message: str) -> None:
    right = {"experiment": "ppo_small", "task": "HopperV", "method": "s2pg", "seed": 0, "scale": "demo"}
    with pytest.raises(ConfigError, match=message):
        resolve(**{**right, **wrong})


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("hparams.clipp=0.1", "overrides: hparams: unknown key 'clipp'; allowed: .*did you mean 'clip'"),
        ("hparams.clip=a", "overrides: hparams.clip: 'a' is not of type 'number'"),
        ("hparams.clip", "'hparams.clip' is not of the form key=value"),
        ("seed=4", "unknown key 'seed'; allowed: device, epochs"),
        ("hparams.clip=[", "overrides: hparams.clip: not YAML"),
    ],
)
def test_a_mistake_in_an_override_is_named(pair: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_overrides([pair])


@pytest.mark.parametrize("key", ["epochs", "hparams.rollout", "memory.kind"])
def test_a_run_configuration_that_lacks_a_key_is_an_error_that_names_it(key: str) -> None:
    raw = example().to_dict()
    part = raw if "." not in key else raw[key.split(".")[0]]
    del part[key.split(".")[-1]]
    with pytest.raises(ConfigError, match=rf"old/config\.yaml: .*'{key.split('.')[-1]}' is a required property"):
        RunConfig.from_dict(raw, "old/config.yaml")


def test_a_run_made_before_the_leak_could_be_chosen_has_none() -> None:
    raw = example().to_dict()
    del raw["hparams"]["leak"]
    assert RunConfig.from_dict(raw).hparams.leak == 1.0


def test_a_run_configuration_with_an_unknown_key_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"old/config\.yaml: unknown key 'epoch'; .*did you mean 'epochs'"):
        RunConfig.from_dict({**example().to_dict(), "epoch": 1}, "old/config.yaml")


def test_steps_that_do_not_fit_together_are_an_error() -> None:
    with pytest.raises(ConfigError, match="steps_per_epoch: 3000 is not a multiple of hparams.rollout: 2000"):
        replace(example(), steps_per_epoch=3000)
    with pytest.raises(ConfigError, match="hparams.rollout: 2000 is not a multiple of hparams.num_envs: 3"):
        replace(example(), hparams=replace(example().hparams, num_envs=3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"replay": 25}, "hparams.replay: 25 is less than hparams.warmup_policy: 30"),
        ({"replay": 10}, "hparams.replay: 10 is less than hparams.warmup: 20"),
        ({"sequence_start": "burn_in"}, "hparams.burn_in: 0 is less than the minimum of 1"),
        ({"clip": 0.2}, "hparams: unknown key 'clip'; allowed: backup,"),
        ({"rollout": 3, "num_envs": 2}, "hparams.rollout: 3 is not a multiple of hparams.num_envs: 2"),
    ],
)
def test_hyperparameters_that_an_algorithm_cannot_use_are_an_error(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        sac(**wrong)


def test_whole_episodes_are_for_ppo() -> None:
    with pytest.raises(
        ConfigError, match=r"memory.context: null \(whole episodes\) is for ppo, gail, bc; sac needs a number"
    ):
        replace(sac("bptt32_all"), memory=methods()["bptt_full"])


def test_a_replay_holds_observations_as_they_were() -> None:
    """Statistics that move on would make stored observations mean something else."""
    with pytest.raises(ConfigError, match="hparams.observation_clip: must be null for sac, td3 and lsiq"):
        sac(observation_clip=10.0)


def test_a_replay_has_no_windows_with_a_loss_at_every_step() -> None:
    """A chunk begins in mid-episode, where a window would need what is not in it."""
    with pytest.raises(ConfigError, match="memory.loss_on: all is not for kind window with sac; allowed: last"):
        replace(sac("window5"), memory=replace(methods()["window5"], loss_on="all"))


@pytest.mark.parametrize(
    ("algorithm", "method"), [("td3", "s2pg_uniform"), ("td3", "s2pg_state"), ("ppo", "s2pg_learned")]
)
def test_a_method_whose_hyperparameters_an_algorithm_has_not_is_an_error(algorithm: str, method: str) -> None:
    where = rf"methods\.yaml: {method}\.hparams, with algorithm {algorithm}: unknown key 'memory_"
    with pytest.raises(ConfigError, match=where):
        hparams(algorithm, "reference", method, "HopperV")


def test_a_missing_configuration_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2PG_CONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"nowhere/methods\.yaml: cannot be read"):
        methods()


# --- the reference's values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", REFERENCE["runs"], ids=lambda row: f"{row['method']}-{row['task']}")
def test_profile_reference_is_the_reference(row: dict) -> None:
    run = resolve("ppo_pomdp", row["task"], row["method"], 0, "paper").to_dict()
    values = {key: value for key, value in row.items() if key not in {"task", "method"}}
    expected = {**REFERENCE["shared"], **REFERENCE["networks"][row["method"]], **values}
    assert {key: run["hparams"][key] for key in expected} == expected


@pytest.mark.parametrize("experiment", ["sac_privileged", "td3_privileged", "sac_blind", "td3_blind"])
def test_paper_scale_off_policy_is_the_schedule_of_the_reference(experiment: str) -> None:
    scale, facts = load_experiment(experiment).scale("paper"), OFF_POLICY["schedule"]
    assert {key: getattr(scale, key) for key in facts} == facts
    assert list(scale.tasks) == OFF_POLICY["tasks"]
    assert set(OFF_POLICY["sac"]["methods"]) <= set(scale.methods)


def test_paper_scale_is_the_schedule_of_the_reference() -> None:
    scale = load_experiment("ppo_pomdp").scale("paper")
    assert {key: getattr(scale, key) for key in REFERENCE["schedule"]} == REFERENCE["schedule"]
    assert {(r["method"], r["task"]) for r in REFERENCE["runs"]} <= {(m, t) for m in scale.methods for t in scale.tasks}


@pytest.mark.parametrize(("algorithm", "method", "task"), LAUNCHED, ids=map("-".join, LAUNCHED))
def test_profile_reference_of_sac_and_td3_is_the_reference(algorithm: str, method: str, task: str) -> None:
    facts = OFF_POLICY[algorithm]
    varying = facts["varying"].get(method, {})
    here = {key: values[OFF_POLICY["tasks"].index(task)] for key, values in varying.items()}
    expected = {**facts["shared"], **facts["methods"][method], **here}
    if algorithm == "td3":
        half = OFF_POLICY["half_range"].get(task, 1.0)
        expected |= {key: pytest.approx(expected[key] / half) for key in ON_ACTIONS}
    values = hparams(algorithm, "reference", method, task)
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize("task", OFF_POLICY["tasks"])
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_bptt32_all_has_the_values_of_bptt32_off_policy(algorithm: str, task: str) -> None:
    ours, theirs = (hparams(algorithm, "reference", method, task) for method in ("bptt32_all", "bptt32"))
    assert ours == theirs


@pytest.mark.parametrize("task", ["HopperV", "HumanoidV"])
@pytest.mark.parametrize("method", ["bptt32_all", "bptt_full"])
def test_methods_unknown_to_the_reference_differ_from_bptt32_in_the_minibatch_only(method: str, task: str) -> None:
    ours, theirs = (hparams("ppo", "reference", m, task) for m in (method, "bptt32"))
    assert ours == {**theirs, "minibatch": 256}


def test_profile_matched_differs_between_memories_in_the_shape_of_the_networks_only() -> None:
    shape = {"policy_head": (), "value_head": (), "policy_gain": 1.0, "value_gain": 1.0}
    found = [{**hparams("ppo", "matched", m, "HopperV"), **shape} for m in load_experiment("ppo_small").methods]
    assert all(values == found[0] for values in found)


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_profile_matched_off_policy_differs_in_the_policys_head_and_in_what_s2pg_alone_reads(algorithm: str) -> None:
    found = {m: hparams(algorithm, "matched", m, "HopperV") for m in OFF_POLICY[algorithm]["methods"]}
    assert found["s2pg"]["policy_head"] == [128]
    own = DECIDED if algorithm == "sac" else {}
    assert all({**values, "policy_head": [128], **own} == {**found["s2pg"], **own} for values in found.values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_hyperparameter_names_its_source(algorithm: str) -> None:
    text = (config_dir() / f"hparams/{algorithm}.yaml").read_text()
    names = "|".join(f.name for f in fields(ALGORITHMS[algorithm]))
    lines = [line for line in text.splitlines() if re.match(rf"\s+({names}):", line)]
    profiles = yaml.safe_load(text).values()
    values = sum(len(p["base"]) + sum(len(rule["values"]) for rule in p["rules"]) for p in profiles)
    assert len(lines) == values  # one value per line, so that none hides behind another's source
    assert [line for line in lines if not SOURCE.search(line)] == []


# --- grids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", list_experiments())
def test_every_run_of_every_experiment_resolves_to_itself(experiment: str, scale: str) -> None:
    runs = load_experiment(experiment).runs(scale, seeds=[0, 7])
    assert runs
    assert [resolve(r.experiment, r.task, r.method, r.seed, r.scale).id for r in runs] == runs


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", list_experiments())
def test_no_run_is_in_a_grid_twice_and_both_anchors_are_in_it(experiment: str, scale: str) -> None:
    spec = load_experiment(experiment)
    runs = spec.runs(scale)
    assert len(set(runs)) == len(runs) == len({run.folder for run in runs})
    for task in spec.scale(scale).tasks:
        for anchor in spec.anchors.values():
            assert sum((run.task, run.method) == (task, anchor) for run in runs) == spec.scale(scale).seeds


def test_seeds_can_be_chosen() -> None:
    spec = load_experiment("ppo_small")
    assert {run.seed for run in spec.runs("demo", seeds=2)} == {0, 1}
    assert {run.seed for run in spec.runs("demo", seeds=[4])} == {4}


def test_the_control_has_the_hyperparameters_of_s2pg() -> None:
    """All but those of a decided memory; `refresh` is equal too, and acts on such memories alone."""
    one, other = (resolve("sac_cheetah_area", "HalfCheetahV", name, 15, "demo").hparams for name in ("s2pg", "bptt1"))
    assert one == replace(other, **{key: getattr(one, key) for key in DECIDED})


def test_a_control_elsewhere_differs_from_what_it_is_compared_with_in_the_cell_alone() -> None:
    runs = (("sac_cheetah_area", "s2pg"), ("sac_cheetah_cleared", "s2pg_cleared"))
    one, other = (resolve(experiment, "HalfCheetahV", method, 15, "demo") for experiment, method in runs)
    memory = replace(other.memory, cell=one.memory.cell)
    assert one == replace(other, experiment=one.experiment, method=one.method, memory=memory)
    scales = (load_experiment(experiment).scale("demo") for experiment, _ in runs)
    assert len({(s.seeds, s.first_seed, s.epochs, s.steps_per_epoch, s.eval_episodes) for s in scales}) == 1


def test_seeds_begin_where_the_scale_says() -> None:
    seeds = {run.seed for run in load_experiment("sac_cheetah").runs("demo")}
    assert seeds.isdisjoint(run.seed for run in load_experiment("sac_small").runs("demo"))
    assert seeds == set(range(7, 15))
    assert {run.seed for run in load_experiment("sac_cheetah").runs("demo", seeds=2)} == {7, 8}


def test_every_claim_can_be_judged_from_the_lite_scale_on_and_has_an_id_of_its_own() -> None:
    for spec in map(load_experiment, list_experiments()):
        for rule, key in ((c["rule"], key) for c in spec.claims for key in ("a", "b") if key in c["rule"]):
            whose = load_experiment(rule.get(f"experiment_{key}", spec.name))
            assert all(rule[key] in whose.scale(scale).methods for scale in ("lite", "paper"))
        assert len({claim["id"] for claim in spec.claims}) == len(spec.claims)


def test_the_methods_are_the_lattice_of_the_design() -> None:
    table = methods()
    memories = ["window5", "window32", "bptt1", "bptt5", "bptt32", "bptt32_all", "bptt_full", "s2pg"]
    assert [name for name in table if not name.startswith("s2pg_")] == ["random", "none", "oracle", "expert", *memories]
    assert table["s2pg"] == replace(table["bptt5"], context=1, decides=True)  # the idea of the suite
    assert table["bptt1"] == replace(table["s2pg"], decides=False)
    assert table["oracle"] == replace(table["none"], sight="oracle")
    assert table["bptt_full"] == replace(table["bptt32_all"], context=None)
    assert all(name.endswith(str(m.context)) for name, m in table.items() if name in {"bptt5", "bptt32", "window5"})


def kernels() -> dict[str, dict[str, Any]]:
    """Method -> memory and hyperparameters, flat, of every S2PG in the kernel study."""
    names = [name for name in load_experiment("kernel").methods if name.startswith("s2pg")]
    runs = {name: resolve("kernel", "HopperV", name, 0, "lite").to_dict() for name in names}
    return {name: {**run["memory"], **run["hparams"]} for name, run in runs.items()}


def test_a_row_of_the_kernel_study_is_s2pg_with_one_thing_changed() -> None:
    found = kernels()
    base = found.pop("s2pg")
    assert {*found, "s2pg_cleared"} == {name for name in methods() if name.startswith("s2pg_")}
    changes = [{key: value for key, value in row.items() if value != base[key]} for row in found.values()]
    entropy, reference = {"target_entropy_memory"}, found["s2pg_reference"]
    for name, change in zip(found, changes, strict=True):
        noise = set(change) & {"sigma_memory", "memory_noise"}
        unbounded = set(change) == {"memory_sigma", "squash_memory"}
        assert len(set(change) - entropy) == 1 or unbounded or name == "s2pg_reference"
        assert ("target_entropy_memory" in change) == bool(noise)
    theirs = hparams("sac", "reference", "s2pg", "HopperV")
    distribution = ("memory_sigma", "sigma_memory", "memory_noise", "squash_memory", "target_entropy_memory")
    assert {key: reference[key] for key in distribution} == {key: theirs[key] for key in distribution}
    assert all(changes.count(change) == 1 for change in changes)


def test_with_a_fixed_sigma_the_target_of_the_entropy_is_half_a_nat_below_that_of_the_noise() -> None:
    unit = (torch.arange(100_000) + 0.5) / 100_000  # quantiles
    shapes = {"gaussian": math.sqrt(2) * torch.erfinv(2 * unit - 1), "uniform": math.sqrt(3) * (2 * unit - 1)}
    entropies = {"gaussian": 0.5 * math.log(2 * math.pi * math.e), "uniform": math.log(2 * math.sqrt(3))}
    rows = [row for row in kernels().values() if row["memory_sigma"] == "fixed" and row["squash_memory"] == "once"]
    assert len(rows) > 8
    for row in rows:
        noise, sigma = row["memory_noise"], row["sigma_memory"]
        x = sigma * shapes[noise]
        around_zero = entropies[noise] + math.log(sigma) + float((1 - x.tanh() ** 2).log().mean())
        assert row["target_entropy_memory"] == pytest.approx(around_zero - 0.5, abs=0.06)


def test_the_kernel_study_covers_distribution_noise_size_and_cell() -> None:
    found = list(kernels().values())
    covered = {
        key: {row[key] for row in found} for key in ("memory_noise", "memory_sigma", "leak", "memory_size", "cell")
    }
    assert covered == {
        "memory_noise": {"gaussian", "uniform"},
        "memory_sigma": {"fixed", "learned", "state"},
        "leak": {0.5, 1.0},
        "memory_size": {8, 16, 32, 64, 128},
        "cell": {"gru", "lstm", "rnn", "diagonal"},
    }
    assert {row["sigma_memory"] for row in found if row["memory_sigma"] == "fixed"} == {0.01, 0.02, 0.05, 0.1, 0.3, 1.0}


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_an_experiments_sight_is_that_of_every_method_but_the_anchors(algorithm: str) -> None:
    for sight in ("blind", "privileged"):
        name = f"{algorithm}_{sight}"
        found = {m: resolve(name, "AntV", m, 0, "paper") for m in load_experiment(name).methods}
        sights = {method: run.memory.sight for method, run in found.items()}
        assert (sights.pop("random"), sights.pop("oracle")) == ("blind", "oracle")
        assert set(sights.values()) == {sight}
        assert all(replace(run.memory, sight=methods()[m].sight) == methods()[m] for m, run in found.items())


def test_patterns_of_task_options_are_merged_in_order(edit: Edit) -> None:
    options = '{"*": {bodies: none, x: 1}, "Hopper*": {bodies: reference}, AntV: {x: 2}}'
    edit(SAC, '{"*": {bodies: consistent, hidden: privileged}}', options)
    spec = load_experiment("sac_privileged")
    assert resolve("sac_privileged", "HopperV", "none", 0, "smoke").task_options == {"bodies": "reference", "x": 1}
    assert (spec.options("AntV"), spec.options("HumanoidV")) == ({"bodies": "none", "x": 2}, {"bodies": "none", "x": 1})


def test_a_methods_hyperparameters_win_over_the_profile_and_lose_to_the_scale(edit: Edit) -> None:
    edit("methods.yaml", "leak: 0.5", "leak: 0.5, batch: 7, lr_value: 0.5")
    values = resolve("kernel", "HopperV", "s2pg_leak", 0, "smoke").to_dict()["hparams"]
    assert (values["leak"], values["lr_value"], values["batch"]) == (0.5, 0.5, 16)


def test_the_tasks_are_those_of_the_environments() -> None:
    pytest.importorskip("gymnasium")
    from envs.tasks import TASKS

    assert sorted(tasks()) == sorted(TASKS)


# --- files and types -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", ["sac_privileged", "td3_blind", "kernel"])
def test_a_run_of_any_algorithm_survives_a_round_trip_through_yaml(experiment: str) -> None:
    run = resolve(experiment, "HalfCheetahV", "s2pg", 1, "paper")
    assert type(run.hparams) is ALGORITHMS[run.algorithm]
    assert RunConfig.from_yaml(run.to_yaml()) == run


@pytest.mark.parametrize("method", ["s2pg", "bptt_full", "none"])
def test_a_run_configuration_survives_a_round_trip_through_yaml(method: str, tmp_path: Path) -> None:
    run = replace(example(method), task_options={"delay": 3})
    (tmp_path / "config.yaml").write_text(run.to_yaml())
    assert RunConfig.load(tmp_path / "config.yaml") == RunConfig.from_dict(run.to_dict()) == run


def test_numbers_have_their_declared_types() -> None:
    run = resolve("ppo_small", "HopperV", "s2pg", 0, "demo", parse_overrides(["hparams.clip=1", "hparams.passes=4.0"]))
    assert type(vars(run.hparams)["clip"]) is float
    assert type(vars(run.hparams)["passes"]) is int


def test_overrides_reach_the_run_and_win() -> None:
    pairs = ["hparams.lr_policy=1e-3", "hparams.policy_head=[8]", "epochs=1", "memory.cell=lstm", "task_options.x=2"]
    run, plain = resolve("ppo_small", "HopperV", "s2pg", 3, "demo", parse_overrides(pairs)), example()
    assert run == replace(
        plain,
        epochs=1,
        memory=replace(plain.memory, cell="lstm"),
        hparams=replace(plain.hparams, lr_policy=0.001, policy_head=(8,)),
        task_options={"x": 2},
    )


def test_overrides_of_a_scale_reach_its_runs_only() -> None:
    rollout = load_experiment("ppo_pomdp").scale("smoke").overrides["hparams"]["rollout"]
    assert resolve("ppo_pomdp", "HopperV", "s2pg", 0, "smoke").hparams.rollout == rollout != 2000
    assert resolve("ppo_pomdp", "HopperV", "s2pg", 0, "demo").hparams.rollout == 2000


def test_a_later_rule_wins(edit: Edit) -> None:
    edit("hparams/ppo.yaml", "value_head: [64] # ours: the critic's", "policy_gain: 0.5 # ours: the")
    assert example("bptt5").hparams.policy_gain == 0.5
    assert example("s2pg").hparams.policy_gain == 1.0


def test_an_edited_file_is_read_again(edit: Edit) -> None:
    title = load_experiment("ppo_small").title
    edit(SMALL, "title: ", "title: New ")
    assert load_experiment("ppo_small").title == f"New {title}"


def test_schema_and_dataclasses_have_the_same_keys() -> None:
    schema = yaml.safe_load((ROOT / "workflow/config/schema/run.yaml").read_text())
    parts = {"memory": MethodConfig, "off_policy": OffPolicyConfig, **ALGORITHMS}
    keys = {name: {f.name for f in fields(cls)} for name, cls in parts.items()}
    defs = schema["$defs"]
    assert {name: set(defs[name]["properties"]) for name in parts} == keys
    assert set(schema["properties"]["memory"]["required"]) == keys["memory"]
    shared = set(defs["off_policy_complete"]["required"])
    assert shared == keys["off_policy"]
    on_policy, sac = (set(defs[f"{name}_required"]["required"]) for name in ("ppo", "sac"))
    assert on_policy == keys["ppo"] - {"leak"} == keys["bc"] - {"leak"}
    assert on_policy | set(defs["gail_complete"]["required"]) == keys["gail"] - {"leak"}
    assert shared | sac == keys["sac"]
    assert shared | sac | set(defs["lsiq_complete"]["required"]) == keys["lsiq"]
    assert shared | set(defs["td3_complete"]["required"]) == keys["td3"]
    assert set(defs["hparams"]["properties"]) == set().union(*(keys[name] for name in ALGORITHMS))
    assert set(schema["properties"]) == {f.name for f in fields(RunConfig)}
    assert set(schema["required"]) == set(schema["properties"]) - {"expert_episodes"}


def test_workflow_settings_are_the_defaults_updated_and_checked() -> None:
    assert workflow_settings()["scale"] == "demo"
    assert workflow_settings({"experiments": "ppo_small"})["experiments"] == ["ppo_small"]
    with pytest.raises(
        ConfigError, match="unknown key 'scal'; allowed: device, experiments, partial, results, scale; did"
    ):
        workflow_settings({"scal": "paper"})
    with pytest.raises(ConfigError, match="scale: unknown 'papr'; allowed: .*did you mean 'paper'"):
        workflow_settings({"scale": "papr"})
    with pytest.raises(ConfigError, match="experiments: unknown 'ppo'"):
        workflow_settings({"experiments": ["ppo"]})
