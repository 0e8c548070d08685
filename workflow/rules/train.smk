# One job per run. The only declared output is done.json, written last: Snakemake deletes the declared outputs of a job
# that it starts again, and the checkpoint beside it must survive that.
rule train:
    input:
        lambda w: dataset(w.experiment, w.task, w.scale),
    output:
        "<results>/runs/{scale}/{experiment}/{task}/{method}/seed_{seed}/done.json",
    log:
        "<results>/logs/{scale}/{experiment}/{task}/{method}/seed_{seed}.log",
    group:
        packing
    conda:
        "../../environment.yml"
    threads: cores
    resources:
        mem_mb=megabytes,
        runtime=minutes,
        slurm_extra=notice,
        gpu=int(SETTINGS["device"] == "cuda"),
    params:
        folder=subpath(output[0], parent=True),
        dataset=lambda w, input: f"--dataset {input[0]}" if input else "",
        config=lambda w: fingerprint(w.experiment, w.task, w.method, w.scale),
        device="--device cuda" if SETTINGS["device"] == "cuda" else "",
    message:
        "Training {wildcards.method} on {wildcards.task}, seed {wildcards.seed}"
    shell:
        "exec python -m s2pg.cli train --experiment {wildcards.experiment} --task {wildcards.task} --method {wildcards.method}"
        " --seed {wildcards.seed} --scale {wildcards.scale} --out {params.folder} {params.dataset} {params.device}"
        " > {log} 2>&1"
