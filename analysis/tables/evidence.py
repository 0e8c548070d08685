"""Where a memory is not above no memory: is that the method, or an error of ours?

Three things tell. If the oracle is not above no memory either, nothing could be gained at this budget. The memory probe
says whether a memory holds what is hidden. Tests prove the gradients. All of it stands in the report, always; beside a
claim against `none` that has a task on which the method is not above, the rows of that method stand too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis import claims, setting, stats, style
from analysis.tables.content import Results, cell, memory_probe, spread_of

NONE, ORACLE = "none", "oracle"
WITHOUT_MEMORY = (NONE, ORACLE, "random")
QUESTION = "Is it our error?"
FEW = 5  # finished runs of each method below which numbers are shown, but not read
PROOFS = {
    "every algorithm": {
        "tests/test_memory.py::test_acting_equals_rereading": "what learning rereads is what acted, for every memory",
    },
    "ppo": {
        "tests/test_ppo.py::test_s2pg_is_the_stateless_algorithm_on_the_augmented_mdp": "S2PG has the rollouts, "
        "losses, gradients and updates of a stateless PPO whose action includes the next memory (the theorem)",
        "tests/test_ppo.py::test_score_gradient_is_unbiased_on_the_linear_gaussian_task": "S2PG's one-step gradient is "
        "the gradient of the exact return on a task where that is known",
        "tests/test_ppo.py::test_score_gradient_is_unbiased_on_cue_recall": "so it is with the suite's own cells, "
        "rollouts and loss",
        "tests/test_ppo.py::test_unrolled_gradient_is_unbiased_on_the_linear_gaussian_task": "BPTT through whole "
        "episodes has the exact gradient too",
        "tests/test_ppo.py::test_cutting_the_unrolling_short_biases_it": "these proofs notice a wrong gradient",
        "tests/test_ppo.py::test_no_memory_equals_s2pg_with_zero_memory": "no memory is S2PG with zero memory "
        "dimensions: the two are compared with the same learner",
        "tests/test_learning.py::test_s2pg_recalls_a_cue_of_three_steps_ago": "S2PG learns to remember: at least 99 % "
        "correct in every seed",
        "tests/test_learning.py::test_without_memory_answers_stay_at_chance": "where no policy without memory can",
    },
    "sac and td3": {
        "tests/test_replay.py::test_contexts_are_those_of_lists_of_episodes": "contexts cut from the replay never "
        "cross an episode's end or the seam of the ring",
        "tests/test_replay.py::test_a_relabelled_transition_agrees_with_its_successor_and_nothing_else_changes": "a "
        "step whose next memory is drawn afresh is a step of the augmented MDP",
        "tests/test_offpolicy.py::test_no_memory_equals_s2pg_with_zero_memory": "no memory is S2PG with zero memory "
        "dimensions: the two are compared with the same learner",
    },
    "sac": {
        "tests/test_sac.py::test_s2pgs_gradients_are_those_of_plain_sac_on_the_augmented_mdp": "S2PG has the gradients "
        "of a stateless SAC whose action includes the next memory (the theorem)",
        "tests/test_sac.py::test_s2pg_learns_what_plain_sac_learns_on_the_augmented_mdp": "and learns the same from "
        "the same replay",
    },
    "gail": {
        "tests/test_gail.py::test_the_policys_update_is_ppos_on_the_learned_rewards": "GAIL's policy step is PPO's, "
        "bit for bit, on the rewards of the discriminator",
        "tests/test_gail.py::test_the_discriminators_loss_equals_a_hand_computation": "the discriminator's loss is "
        "that of its equation",
        "tests/test_gail.py::test_memory_and_previous_action_never_reach_the_discriminator": "the memory is not what "
        "gives the policy away",
    },
    "lsiq": {
        "tests/test_lsiq.py::test_targets_equal_a_hand_computation": "targets are those of LS-IQ, after a terminal "
        "step too",
        "tests/test_lsiq.py::test_on_a_table_the_least_loss_is_the_bounded_reward_of_the_two_densities": "on a table "
        "the loss is least where the theory says",
        "tests/test_lsiq.py::test_refreshing_renews_the_memory_of_the_experts_steps_and_nothing_else": "the expert's "
        "steps carry the memory of the policy of today",
    },
    "bc": {
        "tests/test_bc.py::test_s2pgs_gradient_is_that_of_the_expected_likelihood": "S2PG's gradient is that of the "
        "expected likelihood of the expert's actions, over all memories",
    },
    "td3": {
        "tests/test_td3.py::test_s2pgs_gradients_are_those_of_plain_td3_on_the_augmented_mdp": "S2PG has the gradients "
        "of a stateless TD3 whose action includes the next memory (the theorem)",
        "tests/test_td3.py::test_s2pg_learns_what_plain_td3_learns_on_the_augmented_mdp": "and learns the same from "
        "the same replay",
    },
}
"""Algorithms -> test -> what it proves."""

CONCERNED = {
    "ppo": ("ppo",),
    "sac": ("sac", "sac and td3"),
    "td3": ("td3", "sac and td3"),
    "gail": ("gail", "ppo"),
    "lsiq": ("lsiq", "sac", "sac and td3"),
    "bc": ("bc",),
}
"""Algorithm -> keys of `PROOFS` that concern it."""

ABOUT = (
    "Mean final return of each method minus that of no memory on the same task, with its 95 % bootstrap interval "
    "(failed runs count as the random policy), and how well a linear readout predicts the hidden groups on held-out "
    "episodes (R², median over seeds, lowest to highest) from the observation alone and with the memory beside it. If "
    "the oracle, which sees what is hidden, is not above no memory, the task shows nothing about memory at this "
    "budget. If it is, and the memory holds what is hidden, the policy does not use what it has; if the memory does "
    "not hold it, remembering was not learned."
)
PROVED = "`make test` runs these tests; this report does not."


def evidence(results: Results, scores: pd.DataFrame) -> list[dict[str, Any]]:
    """The content of evidence.json: pieces with title, text and table, and with `claim` if they belong beside one.

    scores: table `scores` of analysis/schema.py.
    """
    final = scores[(scores["mode"] == results.tables.mode) & (scores["score"] == "final")]
    rows = [_row(results, final, task, method) for task, method in _cases(results)]
    return [
        *_beside_claims(results, rows),
        {"title": QUESTION, "text": ABOUT, "table": [row["shown"] for row in rows]},
        _probe_table(results),
        {"title": "What tests prove", "text": PROVED, "table": _proofs(setting.algorithm(results.tables.grid))},
    ]


def _cases(results: Results) -> Iterator[tuple[str, str]]:
    """Tasks and, on each, the oracle and no memory first, then every method that learns a memory."""
    runs = results.tables.runs
    for task in style.order_tasks(runs["task"]):
        methods = style.order_methods(runs.loc[runs["task"] == task, "method"])
        yield from ((task, method) for method in (ORACLE, NONE) if method in methods)
        yield from ((task, method) for method in methods if method not in WITHOUT_MEMORY)


def _row(results: Results, final: pd.DataFrame, task: str, method: str) -> dict[str, Any]:
    """One line of the table (`shown`), the method's interval against no memory and what it says."""
    own, oracle = (_against_none(final, task, name) for name in (method, ORACLE))
    probed = stats.probe_scores(results.tables)
    probed = probed[(probed["task"] == task) & (probed["method"] == method)]
    few = _too_few(results, task, method)
    score = final.loc[(final["task"] == task) & (final["method"] == method), "normalised"].mean()
    shown = {
        "task": task,
        "method": style.label(method),
        "return − no memory": "" if method == NONE else cell(own, "z,.1f"),
        "normalised return": "–" if pd.isna(score) else f"{score:.2f}",
        "R², observation": _by_group(probed, "alone"),
        "R², with memory": _by_group(probed, "memory"),
        "what it says": "" if method == NONE else few or _reading(own, oracle, probed, method),
    }
    return {"task": task, "method": method, "above": own["low"] > 0, "shown": shown}


def _against_none(final: pd.DataFrame, task: str, method: str) -> dict[str, float]:
    """Estimate, low and high of the method's mean return minus that of no memory; NaN where there is nothing."""
    found = stats.difference(final, task, method, NONE)
    return dict(zip(("estimate", "low", "high"), found, strict=True))


def _too_few(results: Results, task: str, method: str) -> str:
    runs = results.tables.runs.query("task == @task and status == 'finished'")
    least = min(int((runs["method"] == name).sum()) for name in (method, NONE))
    return f"only {least} finished run{'' if least == 1 else 's'}: too few to say" if least < FEW else ""


def _reading(own: Mapping[str, float], oracle: Mapping[str, float], probed: pd.DataFrame, method: str) -> str:
    """What the numbers of one line say together."""
    if pd.isna(own["low"]):
        return "no interval"
    if own["low"] > 0:
        return "above no memory: there is something to gain" if method == ORACLE else "above no memory"
    place = "below no memory" if own["high"] < 0 else "not above no memory"
    if method == ORACLE:
        return f"{place}: no gain from seeing everything at this budget"
    if not oracle["low"] > 0:
        return f"{place}, nor is the oracle: at this budget the task does not show what memory is worth"
    return f"{place}, though the oracle is; {_memory(probed.dropna(subset=['gain']))}"


def _by_group(probed: pd.DataFrame, column: str) -> str:
    """Median and range over runs, of every hidden group by itself."""
    parts = {group: spread_of(runs[column]) for group, runs in probed.groupby("group", sort=False)}
    if len(parts) < 2:
        return next(iter(parts.values()), "–")
    return "; ".join(f"{group} {text}" for group, text in parts.items())


def _memory(probed: pd.DataFrame) -> str:
    """What the probes say that the memory adds, of every hidden group by itself."""
    if probed.empty:
        return "no probe says what its memory holds"
    gains = dict(iter(probed.groupby("group", sort=False)["gain"]))
    said = []
    for group, gain in gains.items():
        adds = "holds more than" if gain.median() > 0 else "adds nothing to"
        of = f" on {group}" if len(gains) > 1 else ""
        said.append(f"{adds} the observation{of} (R² rises with it in {(gain > 0).sum()} of {len(gain)} probes)")
    return f"the memory {', and '.join(said)}"


def _beside_claims(results: Results, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One piece for every claim of a memory against `none` with a task on which that memory is not above."""
    for claim in results.tables.grid.get("spec", {}).get("claims", []):
        rule = claims.parse_rule(claim)
        mine = [row for row in rows if rule.task in ("", row["task"])]
        own = [row for row in mine if row["method"] == rule.a]
        if rule.b == NONE and rule.a not in WITHOUT_MEMORY and not all(row["above"] for row in own):
            table = [row["shown"] for row in mine if row["method"] in (ORACLE, NONE, rule.a)]
            yield {"title": QUESTION, "claim": claim["id"], "text": "", "table": table}


def _probe_table(results: Results) -> dict[str, Any]:
    table = memory_probe(results)
    return {"title": "Memory probe", "text": table.caption, "table": table.shown.to_dict("records")}


def proofs(algorithm: str) -> dict[str, str]:
    """Test -> what it proves, of those that concern an algorithm."""
    return {test: said for part in (*CONCERNED[algorithm], "every algorithm") for test, said in PROOFS[part].items()}


def _proofs(algorithm: str) -> list[dict[str, str]]:
    return [{"proves": statement, "test": test} for test, statement in proofs(algorithm).items()]
