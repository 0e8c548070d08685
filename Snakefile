# `snakemake --cores 16` makes everything at the demo scale. This file says what can be asked for, workflow/rules/ how it
# is made; workflow/README.md explains both.
from snakemake.utils import min_version

min_version("9.17")


include: "workflow/rules/common.smk"


pathvars:
    results=SETTINGS["results"],
    tables="<results>/tables/{scale}/{experiment}",
    figures="<results>/figures/{scale}/{experiment}",


include: "workflow/rules/train.smk"
include: "workflow/rules/expert.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/study.smk"
include: "workflow/rules/report.smk"


# After the rules: before them, Snakemake does not apply it to outputs whose wildcards stand in a pathvar.
wildcard_constraints:
    scale=one_of(["smoke", "demo", "lite", "paper"]),
    experiment=one_of(EXPERIMENTS),
    study=one_of(STUDIES),
    task=r"\w+",
    method=r"\w+",
    seed=r"\d+",


rule all:
    input:
        expand(rules.write_report.output, scale=SCALE),
        expand(rules.execute_notebooks.output, scale=SCALE) if CHOSEN else [],
    message:
        "Everything is made; the report is {input[0]}"


rule runs:
    input:
        [path for name in CHOSEN for path in done(name, SCALE)],
        [f"<results>/{path}" for name in STUDIED for path in measured(name, SCALE)],
    message:
        "All runs have ended"


ANALYSED = {name: expand(rules.analyse_study.output, study=name, scale=SCALE) for name in STUDIES}
TARGETS = {name: made([name], *EVERYTHING) for name in EXPERIMENTS} | ANALYSED
TARGETS["figures"] = [made(CHOSEN, rules.draw_figures.output), *map(ANALYSED.get, STUDIED)]
TARGETS["tables"] = [made(CHOSEN, rules.write_tables.output, rules.judge_claims.output), *map(ANALYSED.get, STUDIED)]
TARGETS["notebooks"] = expand(rules.execute_notebooks.output, scale=SCALE) if CHOSEN else []
TARGETS["report"] = expand(rules.write_report.output, scale=SCALE)

for target, paths in TARGETS.items():

    rule:
        name:
            target
        input:
            paths,
        message:
            "The target {rule} is made"
