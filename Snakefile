# From a POMDP task to the report: `snakemake --cores 16` makes everything at the demo scale. This file says what can be
# asked for, workflow/rules/ how it is made; workflow/README.md explains both.
from snakemake.utils import min_version

min_version("9.17")


include: "workflow/rules/common.smk"


pathvars:
    results=SETTINGS["results"],
    tables="<results>/tables/{scale}/{experiment}",
    figures="<results>/figures/{scale}/{experiment}",


wildcard_constraints:
    scale=one_of(["smoke", "demo", "lite", "paper"]),
    experiment=one_of(EXPERIMENTS),
    task=r"\w+",
    method=r"\w+",
    seed=r"\d+",


include: "workflow/rules/train.smk"
include: "workflow/rules/analyse.smk"


rule all:
    input:
        of_chosen(rules.draw_figures.output),
        of_chosen(rules.write_tables.output),


rule runs:
    input:
        [path for name in CHOSEN for path in done(name, SCALE)],


rule figures:
    input:
        of_chosen(rules.draw_figures.output),


rule tables:
    input:
        of_chosen(rules.write_tables.output),
