# Experts for imitation: an oracle, with seed 0, is recorded once per task and scale.
rule record_expert:
    input:
        lambda w: expert(w.task, w.scale),
    output:
        dataset="<results>/experts/{scale}/{task}.npz",
        card="<results>/experts/{scale}/{task}.json",
    log:
        "<results>/logs/{scale}/experts/{task}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        folder=subpath(input[0], parent=True),
        options=lambda w: json.dumps(EXPERIMENTS["expert"].options(w.task)),
        episodes=25,  # as many as the largest sets that imitation is usually compared on
    message:
        "Recording the expert of {wildcards.task}"
    shell:
        "python -m s2pg.cli record {params.folder} --episodes {params.episodes} --task-options '{params.options}'"
        " --out {output.dataset} > {log} 2>&1"
