# From run folders to tables, statistics, verdicts and figures, one experiment at a time. No rule here reads a run folder
# but `collect`, and none names the program text of another, so that editing a plot redraws plots and nothing else.
localrules:
    list_grid,


rule list_grid:
    input:
        lambda w: os.path.relpath(EXPERIMENTS[w.experiment].path),
    output:
        grid="<results>/runs/{scale}/{experiment}/grid.json",
    log:
        "<results>/logs/{scale}/{experiment}/list_grid.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda w: settings(w.experiment, w.scale),
    message:
        "Listing the runs of {wildcards.experiment}"
    shell:
        "python -m workflow.scripts.grid {wildcards.experiment} {wildcards.scale} > {output} 2> {log}"


rule collect:
    input:
        grid=rules.list_grid.output.grid,
        done=lambda w: [] if SETTINGS["partial"] else done(w.experiment, w.scale),
        source=["analysis/load.py", "analysis/schema.py"],
    output:
        expand("<tables>/{table}.parquet", table=["runs", "scalars", "episodes", "timing", "probe"]),
        "<tables>/grid.json",
    log:
        "<results>/logs/{scale}/{experiment}/collect.log",
    conda:
        "../../environment.yml"
    params:
        runs=lambda w, input: str(Path(input.grid).parents[2]),
        ended=lambda w: ended(w.experiment, w.scale),
        out=subpath(output[0], parent=True),
    message:
        "Collecting the runs of {wildcards.experiment}"
    shell:
        "python -m analysis collect --grid {input.grid} --runs {params.runs} --out {params.out} > {log} 2>&1"


rule compute_statistics:
    input:
        rules.collect.output,
        source=sources(*[f"analysis/{name}.py" for name in ("stats", "setting", "bootstrap", "curves")]),
    output:
        expand("<tables>/{table}.parquet", table=["scores", "statistics", "wall_clock"]),
    log:
        "<results>/logs/{scale}/{experiment}/statistics.log",
    conda:
        "../../environment.yml"
    params:
        data=subpath(output[0], parent=True),
    message:
        "Computing the statistics of {wildcards.experiment}"
    shell:
        "python -m analysis statistics --data {params.data} --out {params.data} > {log} 2>&1"


rule judge_claims:
    input:
        rules.collect.output,
        others=lambda w: [f"<results>/tables/{w.scale}/{name}/grid.json" for name in compared(w.experiment)],
        source=sources(*[f"analysis/{name}.py" for name in ("claims", "setting", "stats", "bootstrap", "curves")]),
    output:
        "<tables>/claims.json",
    log:
        "<results>/logs/{scale}/{experiment}/claims.log",
    conda:
        "../../environment.yml"
    params:
        data=subpath(output[0], parent=True),
        others=lambda w, input: [str(Path(path).parent) for path in input.others],
    message:
        "Judging the claims of {wildcards.experiment}"
    shell:
        "python -m analysis claims --data {params.data} --out {output} --others {params.others} > {log} 2>&1"


rule draw_figures:
    input:
        rules.compute_statistics.output,
        source=sources("analysis/figures/*.py", "analysis/style.py", "analysis/setting.py"),
    output:
        expand("<figures>/{figure}.{kind}", figure=FIGURES, kind=["pdf", "png", "json"]),
    log:
        "<results>/logs/{scale}/{experiment}/figures.log",
    conda:
        "../../environment.yml"
    params:
        data=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
    message:
        "Drawing the figures of {wildcards.experiment}"
    shell:
        "python -m analysis figures --data {params.data} --out {params.out} > {log} 2>&1"


rule write_tables:
    input:
        rules.compute_statistics.output,
        rules.judge_claims.output,
        source=sources("analysis/tables/*.py", "analysis/setting.py"),
    output:
        expand("<tables>/{table}.{kind}", table=TABLES, kind=["md", "csv", "tex"]),
        "<tables>/evidence.json",
    log:
        "<results>/logs/{scale}/{experiment}/tables.log",
    conda:
        "../../environment.yml"
    params:
        data=subpath(input[0], parent=True),
    message:
        "Writing the tables of {wildcards.experiment}"
    shell:
        "python -m analysis tables --data {params.data} --out {params.data} > {log} 2>&1"
