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
# # Explore a run
#
# One training run from close by: what was run, how it learned, what it logged, where its time went. Everything comes
# from the tidy tables (`results/README.md` explains their columns); neither torch nor a simulator is needed.

# %%
from analysis import style
from analysis.figures.common import panels, steps_axis
from analysis.load import read_tables
from analysis.notebooks import find_tables

style.use()
tables = read_tables(find_tables())

# %% [markdown]
# ## Choose a run
#
# These are the runs that there are. Change `task`, `method` and `seed` below and run the notebook again.

# %%
runs = tables.runs.assign(method=tables.runs["method"].map(style.label))
runs.pivot_table(index="method", columns="task", values="seed", aggfunc="count").rename_axis(columns="runs of")

# %%
task = style.order_tasks(tables.runs["task"])[-1]
method = style.order_methods(tables.runs["method"])[0]
finished = tables.runs.query("task == @task and method == @method and status == 'finished'")
seed = int(finished["seed"].min()) if len(finished) else 0


def of_this_run(frame):
    """The rows of a table that belong to the chosen run."""
    return frame[(frame["task"] == task) & (frame["method"] == method) & (frame["seed"] == seed)]


of_this_run(tables.runs).T.set_axis([f"{style.label(method)}, {style.task_label(task)}, seed {seed}"], axis="columns")

# %% [markdown]
# ## How it learned
#
# Each dot is one evaluation episode, the line their mean: `sample` with the noise that the policy explores with, `mean`
# without it. Evaluation runs in environments of its own and does not touch the training.

# %%
episodes = of_this_run(tables.episodes)
fig, axes = panels(2, across=2, width=4.2)
for ax, mode in zip(axes, ("mean", "sample"), strict=True):
    here = episodes[episodes["mode"] == mode]
    mean = here.groupby("step")["return"].mean()
    ax.scatter(here["step"], here["return"], s=8, alpha=0.4, color=style.look(method).colour)
    ax.plot(mean.index, mean, color=style.look(method).colour)
    ax.set(title=f"evaluation mode: {mode}", ylabel="episode return")
    steps_axis(ax)
fig

# %% [markdown]
# ## What it logged
#
# Every scalar that TensorBoard shows is in the table `scalars`. Some of them say whether learning is healthy. PPO: the
# divergence between the policies before and after an update (`kl`), the share of clipped samples, the noise (`sigma`),
# how much of the return the critic explains. SAC: the entropy of the decisions and the temperature that holds it at its
# target. SAC and TD3: the mean value of the critics (`value/mean`), which should stay near the discounted returns. For
# S2PG there are two groups, because its policy decides the action and the memory.

# %%
scalars = of_this_run(tables.scalars)
scalars.groupby("tag")["value"].agg(["first", "last", "min", "max", "size"]).round(4)

# %%
tags = [t for t in sorted(scalars["tag"].unique()) if t.startswith(("policy/", "value/", "loss/"))]
fig, axes = panels(len(tags), across=4, width=2.6, height=1.9)
for ax, tag in zip(axes, tags, strict=False):
    here = scalars[scalars["tag"] == tag]
    ax.plot(here["step"], here["value"], color=style.look(method).colour)
    ax.set_title(tag, fontsize=8)
    steps_axis(ax)
fig

# %% [markdown]
# ## Where its time went

# %%
timing = of_this_run(tables.timing)
parts = ["environment", "acting", "learning", "evaluation"]
fig, (ax,) = panels(1, width=7, height=2.8)
ax.stackplot(
    timing["step"], timing[parts].cumsum().T, labels=parts, colors=["#BBBBBB", "#6699CC", "#EE8866", "#DDCC77"]
)
ax.set(ylabel="seconds since the start", title="Cumulative time")
ax.legend(loc="upper left")
steps_axis(ax)
fig

# %%
total = timing[parts].sum()
total.to_frame("seconds").assign(share=(100 * total / total.sum()).round(1).astype(str) + " %").round(2)
