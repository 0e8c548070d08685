# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Statistics, step by step
#
# From evaluation episodes to a verdict, by hand, in a few lines of numpy each, and every time the comparison with what
# `analysis.stats` computes. The definitions are those of Agarwal et al., "Deep RL at the edge of the statistical
# precipice" (2021).

# %%
import numpy as np
import pandas as pd

from analysis import claims, stats, style
from analysis.figures.common import panels
from analysis.load import read_tables
from analysis.notebooks import find_tables

style.use()
tables = read_tables(find_tables())
mode = tables.mode
print(f"Evaluation mode that the experiment's statistics use: {mode}")

# %% [markdown]
# ## 1. From episodes to one score per run
#
# An evaluation is several episodes; its return is their mean. A run's final score is the mean of the last tenth of its
# evaluations (rounded up): a single evaluation is noisy, and choosing the best one would be flattery.

# %%
episodes = tables.episodes[tables.episodes["mode"] == mode]
evaluations = episodes.groupby(["task", "method", "seed", "step"])["return"].mean()


def final(returns):
    """Mean of the last tenth of a run's evaluations."""
    return returns.iloc[-int(np.ceil(0.1 * len(returns))) :].mean()


score = evaluations.groupby(["task", "method", "seed"]).apply(final)
score.unstack("seed").round(1).head(12)

# %% [markdown]
# ## 2. Failed runs are not dropped
#
# A run whose learning diverged counts as the random policy. Leaving it out would reward the method that fails most.

# %%
official = stats.scores(tables).query("mode == @mode and score == 'final'").set_index(["task", "method", "seed"])
official["status"].value_counts().to_frame("runs")

# %%
finished = official[official["status"] == "finished"]["raw"]
assert np.allclose(finished, score[finished.index]), "the scores by hand are not those of the suite"
print("The scores by hand are those of the suite.")

# %% [markdown]
# ## 3. A common scale
#
# `normalised = (raw - random) / (oracle - random)` per task: 0 is the mean final score of the random policy, 1 that of
# the oracle (in imitation of the expert; an experiment's `anchors` may name others). A task on which the second is not
# above the first beyond noise has no scale and is left out. The bootstrap below holds both anchors fixed.

# %%
stats.anchors(tables).query("mode == @mode").round(2)

# %%
normalised = official["normalised"].unstack("task")
normalised.groupby("method").mean().loc[lambda t: style.order_methods(t.index)].rename(index=style.label).round(3)

# %% [markdown]
# ## 4. The interquartile mean
#
# Sort all runs of all tasks, throw away the lowest and the highest quarter, average the rest. One lucky run moves the
# mean; the median ignores half of the information; the interquartile mean does neither.


# %%
def iqm(values):
    """Mean of the middle half; a run on a quarter's edge is not split (as scipy.stats.trim_mean)."""
    values = np.sort(np.ravel(values))
    cut = len(values) // 4
    return values[cut : len(values) - cut].mean()


methods = style.order_methods(official.reset_index()["method"])
matrices = {}  # method -> [seeds, tasks]
for method in methods:
    matrix = normalised.xs(method, level="method").dropna(axis="columns", how="all").dropna()
    if matrix.size:
        matrices[method] = matrix.to_numpy()
pd.Series({style.label(m): iqm(x) for m, x in matrices.items()}, name="IQM", dtype=float).to_frame().round(3)

# %% [markdown]
# ## 5. How sure is that? The stratified bootstrap
#
# Draw seeds with replacement, separately for each task, and compute the statistic again, two thousand times. The
# middle 95 % of the results are the interval. With three seeds there are only ten different draws per task: the interval
# is then a hint and not more.


# %%
def resampled(matrix, rng, reps=2000):
    """The statistic of resampled runs [reps]: each column (task) draws its own seeds."""
    seeds, tasks = matrix.shape
    draws = rng.integers(seeds, size=(reps, seeds, tasks))
    return np.array([iqm(matrix[draw, np.arange(tasks)]) for draw in draws])


rng = np.random.default_rng(0)
by_hand = {m: np.percentile(resampled(x, rng), [2.5, 97.5]) for m, x in matrices.items() if len(x) > 1}
official_iqm = stats.statistics(tables).query("statistic == 'iqm' and mode == @mode and score == 'final'")
official_iqm = official_iqm.set_index("method")[["low", "high"]]
compared = pd.DataFrame(by_hand, index=["low, by hand", "high, by hand"]).T.join(official_iqm)
compared.rename(index=style.label).round(3)

# %% [markdown]
# ## 6. What more seeds would buy
#
# The interval of the first n seeds. It shrinks about as one over the square root of n, so that half the width costs
# four times the runs.

# %%
chosen = "s2pg" if "s2pg" in by_hand else next(iter(by_hand), "s2pg")
look, matrix = style.look(chosen), matrices.get(chosen, [])
fig, (ax,) = panels(1, width=6, height=3)
for n in range(2, len(matrix) + 1):
    low, high = np.percentile(resampled(matrix[:n], rng, 500), [2.5, 97.5])
    ax.plot([n, n], [low, high], color=look.colour, linewidth=5, alpha=0.5, solid_capstyle="butt")
    ax.plot(n, iqm(matrix[:n]), "o", color=look.colour)
ax.set(xlabel="seeds", ylabel="IQM and 95 % interval", title=look.label)
ax.xaxis.get_major_locator().set_params(integer=True)
fig

# %% [markdown]
# ## 7. Probability of improvement
#
# Take a run of one method and a run of another on the same task: how often does the first end higher (ties count half)?
# It does not say by how much, and needs no common scale.


# %%
def improvement(x, y):
    """P(X > Y), mean over tasks; x [seeds, tasks], y [seeds, tasks]."""
    above = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    return above.mean()


if {"s2pg", "none"} <= matrices.keys():
    print("P(S2PG > No memory) =", round(improvement(matrices["s2pg"], matrices["none"]), 3))

# %% [markdown]
# ## 8. The verdict
#
# Each claim has a rule that was written before the runs that it judges: a statistic, a threshold, a smallest number of
# seeds. Supported if the whole interval lies above the threshold; not supported if the whole interval lies at or below
# it; otherwise there is not enough data, and the honest answer is to say so.

# %%
columns = ["id", "verdict", "estimate", "low", "high", "threshold", "n_seeds"]
pd.DataFrame([vars(verdict) for verdict in claims.judge(tables)], columns=columns).round(3)
