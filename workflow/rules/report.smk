# From everything that was made to one page, and to notebooks that go through it step by step.
EVERYTHING = rules.judge_claims.output, rules.write_tables.output, rules.draw_figures.output


rule write_report:
    input:
        of(CHOSEN, *EVERYTHING),
        studies=expand(rules.analyse_study.output, study=STUDIED, allow_missing=True),
        source=sources("analysis/report.py", "analysis/setting.py", "analysis/templates/*"),
    output:
        "<results>/report/{scale}.html",
    log:
        "<results>/logs/{scale}/report.log",
    conda:
        "../../environment.yml"
    params:
        results=lambda w, output: str(Path(output[0]).parents[1]),
        experiments=CHOSEN + STUDIED,
    message:
        "Writing the report"
    shell:
        "python -m analysis report --results {params.results} --scale {wildcards.scale}"
        " --experiments {params.experiments} --out {output} > {log} 2>&1"


rule execute_notebooks:
    input:
        of(CHOSEN[:1], rules.compute_statistics.output, rules.judge_claims.output),
        source=sources("analysis/notebooks/*.py", "analysis/figures/*.py", "analysis/style.py", "analysis/setting.py"),
    output:
        expand("<results>/notebooks/{{scale}}/{notebook}.{kind}", notebook=NOTEBOOKS, kind=["ipynb", "html"]),
    log:
        "<results>/logs/{scale}/notebooks.log",
    conda:
        "../../environment.yml"
    params:
        data=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
    message:
        "Executing the notebooks on {params.data}"
    shell:
        "python -m analysis notebooks --data {params.data} --out {params.out} > {log} 2>&1"
