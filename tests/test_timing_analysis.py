"""The study of time, analysed: slopes and ratios by hand, tables with the numbers, figures with the lines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import studies
from analysis.studies import timing
from analysis.studies.timing_figures import KINDS, order_kinds

GROWTH = {"bptt": 1.0, "bptt_all": 0.1, "window": 0.3}
LEVEL = {"s2pg": 1.0, "none": 0.5, "bptt": 1.0, "bptt_all": 1.2, "window": 0.6, "density_joint_validated": 3.0}
CONTEXTS = (1, 8, 32)


def row(kind: str, context: int, number: int, environments: int = 8, samples: int = 256, **changes: Any) -> dict:
    """A power law of the context, slower by a tenth with every round."""
    seconds = LEVEL[kind] * context ** GROWTH.get(kind, 0.0) * (1 + 0.1 * number) * 1e-3
    dense = kind.startswith("density")
    usual = {"usual_environments": environments == 8, "usual_samples": samples == 256}
    head = {"case": "ppo", "algorithm": "ppo", "task": "HalfCheetahV", "device": "cpu", "kind": kind}
    spent = {"environment": math.nan if dense else 1e-4, "acting": math.nan if dense else 2e-4 / environments}
    done = {"steps": 1000, "terms": 2000, "gradient_steps": 8, "peak_memory_mb": math.nan if dense else 10.0 * context}
    cell = {"context": context, "environments": environments, "samples": samples, "round": number}
    return {**head, **cell, **usual, **spent, "learning": seconds, **done, "gflops": 50.0, "call_us": 1.0, **changes}


def rows(rounds: int = 7) -> pd.DataFrame:
    """All kinds, with other numbers of environments and samples at L = 8."""
    cells = [
        (k, c, e, s)
        for k in GROWTH
        for c in CONTEXTS
        for e, s in ((8, 256), (1, 256), (8, 32))
        if c == 8 or (e, s) == (8, 256)
    ]
    cells += [(k, 1, e, s) for k in LEVEL if k not in GROWTH for e, s in ((8, 256), (1, 256), (8, 32))]
    return pd.DataFrame(row(k, c, n, e, s) for n in range(rounds) for k, c, e, s in cells)


def rule(statistic: str, a: str, **more: Any) -> dict[str, Any]:
    return {"statistic": statistic, "a": a, "case": "ppo", "threshold": 0.0, **more}


def test_the_columns_are_described() -> None:
    assert set(timing.COLUMNS) == set(rows())


def test_time_per_loss_term_by_hand() -> None:
    """1.2 ms per step x 1000 steps over 2000 terms: 0.6 s per 1000 terms."""
    assert timing.per_term(pd.DataFrame([row("bptt_all", 1, 0)])).tolist() == pytest.approx([0.6])


def test_a_power_law_has_its_exponent_as_slope() -> None:
    for kind, exponent in GROWTH.items():
        assert timing.slope(rows(), rule("slope", kind, **{"from": 1})) == pytest.approx((exponent,) * 3)
    assert timing.negative_slope(rows(), rule("negative_slope", "bptt_all", **{"from": 1}))[0] == pytest.approx(-0.1)


def test_a_slope_begins_where_the_rule_says_and_takes_the_usual_cells_on_the_cpu_alone() -> None:
    frame = rows()
    frame.loc[(frame["kind"] == "bptt") & (frame["context"] == 1), "learning"] *= 100
    frame.loc[~frame["usual_samples"] | ~frame["usual_environments"], "learning"] *= 50
    gpu = frame.assign(device="cuda", learning=frame["learning"] * frame["context"])
    both = pd.concat([frame, gpu, frame.assign(case="sac", learning=1.0)])
    assert timing.slope(both, rule("slope", "bptt", **{"from": 8}))[0] == pytest.approx(1.0)


def test_a_minus_turns_the_interval_round() -> None:
    frame = rows()
    longest = (frame["kind"] == "bptt") & (frame["context"] == 32)
    frame.loc[longest, "learning"] *= 1 + 0.2 * frame.loc[longest, "round"]
    estimate, low, high = timing.slope(frame, rule("slope", "bptt", **{"from": 8}))
    assert low < estimate < high
    minus = timing.negative_slope(frame, rule("negative_slope", "bptt", **{"from": 8}))
    assert minus == pytest.approx((-estimate, -high, -low))


def test_a_ratio_is_taken_within_rounds_and_a_kind_without_context_has_one_time() -> None:
    assert timing.ratio(rows(), rule("ratio", "bptt", b="s2pg", at=32)) == pytest.approx((32.0,) * 3)
    assert timing.ratio(rows(), rule("ratio", "s2pg", b="bptt_all", at=8))[0] == pytest.approx(1 / (1.2 * 8**0.1))


def test_what_a_scale_did_not_measure_has_no_statistic() -> None:
    assert timing.ratio(rows(), rule("ratio", "bptt", b="s2pg", at=64)) is None
    assert timing.ratio(rows(), rule("ratio", "density_joint", b="s2pg", at=8)) is None
    assert timing.slope(rows(), rule("slope", "bptt", **{"from": 32})) is None
    assert timing.slope(rows(5), rule("slope", "bptt", **{"from": 1})) is None  # too few rounds for an interval


def test_the_interval_of_a_median_is_from_the_order_alone() -> None:
    """Outside of the range of n values lies the median with a probability of 2 / 2^n: 1/32 for 6, 1/16 for 5.

    Of 9 values, the second from either end: 2 (1 + 9) / 512 = 0.039.
    """
    assert timing.median_interval([5, 3, 1, 2, 9]) is None
    assert timing.median_interval([6, 5, 3, 1, 2, 9]) == (1, 9)
    assert timing.median_interval(range(9)) == (1, 7)


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for count in (6, 9, 15):
        ends = [timing.median_interval(rng.exponential(size=count)) for _ in range(4000)]
        assert 0.94 < np.mean([low <= math.log(2) <= high for low, high in ends]) < 0.985


def test_summaries_are_medians_and_quartiles_over_rounds() -> None:
    data = timing.summarise(rows()).set_index(["kind", "context", "environments", "samples"])
    mine = data.loc[("s2pg", 1, 8, 256)]
    assert (mine["learning"], mine["learning_low"], mine["learning_high"]) == pytest.approx((1.3, 1.15, 1.45))
    assert mine["total"] == pytest.approx(1.3 + 0.1 + 0.025)
    assert mine["per_term"] == pytest.approx(0.65)
    assert mine["rounds"] == 7


def test_tables_hold_the_numbers() -> None:
    tables = timing.make_tables(rows())
    context = tables["timing_context"].shown.set_index("memory")
    assert context.loc["BPTT, a window per loss term", "L = 8"] == "5.2 (4.6 to 5.8)"
    assert context.loc["S2PG", "L = 8"] == ""
    split = tables["timing_split"].shown
    assert set(split["memory"]) == {KINDS[kind].label for kind in LEVEL if not kind.startswith("density")}
    assert split.loc[(split["memory"] == "S2PG") & (split["samples"] == 32), "hours / million steps"].tolist() == [
        "0.40"
    ]
    assert tables["timing_memory"].shown.set_index("memory").loc["Window", "L = 32"] == "320"
    density = tables["timing_density"].shown
    assert density["share of S2PG's learning time (ours)"].tolist() == ["300%", "300%"]


def test_without_densities_there_is_no_table_of_them() -> None:
    frame = rows()
    assert "timing_density" not in timing.make_tables(frame[~frame["kind"].str.startswith("density")])


def drawn(name: str, frame: pd.DataFrame) -> Figure:
    return timing.PICTURES[name][2](frame)


@pytest.mark.parametrize("name", timing.PICTURES)
def test_every_figure_is_drawn_on_one_device_and_on_two(name: str) -> None:
    frame = rows(3)
    one, two = drawn(name, frame), drawn(name, pd.concat([frame, frame.assign(device="cuda")]))
    assert len([ax for ax in two.axes if ax.has_data()]) == 2 * len([ax for ax in one.axes if ax.has_data()])


def test_the_curves_have_the_medians_and_a_kind_without_context_is_level() -> None:
    (ax,) = drawn("timing_context", rows()).axes
    lines = {line.get_color(): line for line in ax.lines}
    assert lines[KINDS["bptt"].colour].get_ydata() == pytest.approx([0.65, 5.2, 20.8])
    assert lines[KINDS["s2pg"].colour].get_ydata() == pytest.approx([0.65, 0.65])
    assert lines[KINDS["s2pg"].colour].get_xdata() == pytest.approx([1, 32])
    assert len(ax.lines) == len(LEVEL)


def test_bars_end_at_the_sum() -> None:
    (ax,) = drawn("timing_split", rows()).axes
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels[:3] == ["S2PG", "BPTT, a window per loss term, L = 8", "BPTT, a window per loss term, L = 32"]
    ends = {round(patch.get_y() + 0.33): patch.get_x() + patch.get_width() for patch in ax.patches}
    assert ends[0] == pytest.approx(1.425)
    frame = rows()
    (slow,) = drawn("timing_split", frame.assign(learning=100 * frame["learning"])).axes
    assert slow.texts[0].get_text().strip() == "130"


def test_the_parallel_figure_says_when_nothing_varied() -> None:
    frame = rows()
    figure = drawn("timing_parallel", frame[frame["usual_samples"] & frame["usual_environments"]])
    assert "context alone" in figure.axes[0].texts[0].get_text()


def test_words_name_what_is_compared() -> None:
    said = studies.compared(studies.KINDS["timing"], rule("ratio", "s2pg", b="bptt_all", at=32))
    assert said == "learning time per loss term of S2PG over that of BPTT, a loss at every step, L = 32; case ppo"


def test_kinds_keep_their_order() -> None:
    assert order_kinds(["none", "bptt", "s2pg", "bptt"]) == ["s2pg", "bptt", "none"]
