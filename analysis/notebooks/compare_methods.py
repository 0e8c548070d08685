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
# # Compare methods
#
# All methods of one experiment side by side, by return and by time. The figures are those of the report; here they can
# be cut to some tasks or methods. No torch needed.

# %%
from analysis import claims, stats, style
from analysis.figures import FIGURES
from analysis.figures.common import Tidy
from analysis.load import read_tables
from analysis.notebooks import find_tables

style.use()
folder = find_tables()
tables = read_tables(folder)
data = Tidy.read(folder)
print(data.counts())

# %% [markdown]
# ## Who finished
#
# A comparison that drops failed runs flatters the method that fails. Here a failed run counts as the random policy, and
# the counts stand beside every number.

# %%
counted = stats.accounting(tables)
counted.assign(method=counted["method"].map(style.label)).drop(columns="configurations")

# %% [markdown]
# ## Final returns
#
# Mean over the last tenth of a run's evaluations; interquartile mean over its seeds, with a 95 % bootstrap interval.

# %%
rows = data.pick("return_iqm")
text = rows["estimate"].map("{:,.0f}".format)
several = rows["low"].notna()
text[several] += rows[several].apply(lambda row: f" [{row['low']:,.0f}, {row['high']:,.0f}]", axis=1)
table = rows.assign(text=text).pivot_table(index="method", columns="task", values="text", aggfunc="first")
table.loc[style.order_methods(table.index), style.order_tasks(table.columns)].rename(index=style.label)

# %%
FIGURES["final_returns"].draw(data)

# %% [markdown]
# ## Return against steps, and against time
#
# The first question is what a method makes of the experience, the second what it makes of the time. They need not have
# the same answer: unrolling a memory costs time at every update.

# %%
FIGURES["learning_curves"].draw(data)

# %%
FIGURES["learning_curves_time"].draw(data)

# %%
FIGURES["timing"].draw(data)

# %% [markdown]
# ## All tasks together
#
# Returns of different tasks have different units. On each task 0 is the random policy and 1 the oracle, which sees what
# is hidden from the others (in imitation the expert; an experiment's `anchors` may name others).

# %%
FIGURES["aggregates"].draw(data)

# %%
FIGURES["improvement"].draw(data)

# %% [markdown]
# ## The claims
#
# Their rules were written before the runs that they judge; the report shows the same verdicts.

# %%
for verdict in claims.judge(tables):
    print(f"{verdict.verdict.upper()}: {verdict.text}\n    {verdict.reason}\n")

# %% [markdown]
# ## Your own cut
#
# A `Tidy` of some methods only draws every figure without the others.

# %%
some = ["s2pg", "none", "oracle"]
cut = Tidy({name: frame[frame["method"].isin(some)] for name, frame in data.frames.items()}, data.grid)
FIGURES["learning_curves"].draw(cut)
