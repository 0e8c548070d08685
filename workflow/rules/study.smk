# Studies: each case is measured by a job of its own, then tables, verdicts and figures are made from all of them.
localrules:
    list_study,


rule list_study:
    input:
        lambda w: os.path.relpath(STUDIES[w.study].path),
    output:
        "<results>/tables/{scale}/{study}/study.json",
    log:
        "<results>/logs/{scale}/{study}/list_study.log",
    conda:
        "../../environment.yml"
    message:
        "Listing the cases of {wildcards.study}"
    shell:
        "python -m workflow.scripts.study {wildcards.study} {wildcards.scale} > {output} 2> {log}"


rule measure_case:
    output:
        rows="<results>/runs/{scale}/{study}/{case}.parquet",
        provenance="<results>/runs/{scale}/{study}/{case}.json",
    log:
        "<results>/logs/{scale}/{study}/{case}.log",
    conda:
        "../../environment.yml"
    threads: study_cores
    resources:
        mem_mb=lambda w: STUDIES[w.study].spec["resources"]["memory_mb"],
        runtime=lambda w: STUDIES[w.study].spec["resources"]["minutes"][w.scale],
    params:
        config=lambda w: digest(STUDIES[w.study].settings(w.scale, w.case)),
    message:
        "Measuring {wildcards.case} of {wildcards.study}"
    shell:
        "python -m s2pg.cli study {wildcards.study} --case {wildcards.case} --scale {wildcards.scale}"
        " --out {output.rows} > {log} 2>&1"


rule analyse_study:
    input:
        study=rules.list_study.output[0],
        cases=lambda w: [] if SETTINGS["partial"] else [f"<results>/{path}" for path in measured(w.study, w.scale)],
        source=sources("analysis/studies/*.py", "analysis/tables/*.py", *STUDY_SOURCES),
    output:
        measured="<results>/tables/{scale}/{study}/measured.parquet",
        verdicts="<results>/tables/{scale}/{study}/claims.json",
        tables=directory("<results>/tables/{scale}/{study}/tables"),
        figures=directory("<results>/figures/{scale}/{study}"),
    log:
        "<results>/logs/{scale}/{study}/analyse.log",
    conda:
        "../../environment.yml"
    params:
        cases=lambda w: f"{SETTINGS['results']}/runs/{w.scale}/{w.study}",
        tables=subpath(output.measured, parent=True),
    message:
        "Judging and drawing {wildcards.study}"
    shell:
        "python -m analysis study --study {input.study} --cases {params.cases} --tables {params.tables}"
        " --figures {output.figures} > {log} 2>&1"
