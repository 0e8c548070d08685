# From everything that was made to one page.
EVERYTHING = rules.judge_claims.output, rules.write_tables.output, rules.draw_figures.output


rule write_report:
    input:
        of(CHOSEN, *EVERYTHING),
        source=sources("analysis/report.py", "analysis/templates/*"),
    output:
        "<results>/report/{scale}.html",
    log:
        "<results>/logs/{scale}/report.log",
    conda:
        "../../environment.yml"
    params:
        results=lambda w, output: str(Path(output[0]).parents[1]),
        experiments=CHOSEN,
    message:
        "Writing the report"
    shell:
        "python -m analysis report --results {params.results} --scale {wildcards.scale}"
        " --experiments {params.experiments} --out {output} > {log} 2>&1"
