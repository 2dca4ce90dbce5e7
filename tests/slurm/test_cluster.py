"""The cluster of these tests, and the profile on it."""

import os
import re
import shutil
import time
from pathlib import Path

import cluster

TOY = """
rule all:
    input:
        expand("{i}.txt", i=range(6)),


rule train:
    output:
        "{i}.txt",
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    shell:
        "echo $SLURMD_NODENAME/$CUDA_VISIBLE_DEVICES $(date +%s.%N) > {output}; sleep 1.5;"
        " date +%s.%N >> {output}"
"""


def jobs(env) -> list[dict[str, str]]:
    """What SLURM knows of its jobs, ended ones too."""
    lines = cluster.ask(env, "scontrol", "-o", "show", "job").splitlines()
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]


def test_a_cluster_starts_in_seconds_and_leaves_nothing(slurm):
    began = time.monotonic()
    env = cluster.start(nodes=1, gpus=1)
    folder = env["SLURM_CONF"].removesuffix("slurm.conf")

    def left() -> list[str]:
        return [line for line in processes() if folder in line or "sleep 1000" in line]

    try:
        assert time.monotonic() - began < 20
        cluster.ask(
            env, "sbatch", "--gpus=1", "--output=/dev/null", "--wrap", "srun /usr/bin/sleep 1000"
        )
        cluster.wait(
            env, lambda: any(line.startswith("/usr/bin/sleep") for line in left()), "the job"
        )
    finally:
        cluster.stop(env)
    assert not Path(folder).exists()
    assert not left()


def processes() -> list[str]:
    """Command lines of all processes that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_the_profile_gives_each_job_a_gpu_of_its_own_and_submits_all_at_once(
    submit, slurm, root, tmp_path
):
    (tmp_path / "Snakefile").write_text(TOY)
    shutil.copytree(root / "profiles", tmp_path / "profiles")  # its default one allows one GPU job
    run = submit(snakefile=tmp_path / "Snakefile")
    assert run.wait(180) == 0, run.log.read_text()
    spans: dict[str, list] = {}
    for i in range(6):
        place, start, end = (tmp_path / f"{i}.txt").read_text().split()
        spans.setdefault(place, []).append((float(start), float(end)))
    assert set(spans) == {"n1/0", "n1/1", "n2/0", "n2/1"}
    for place, times in spans.items():
        for (_, end), (start, _) in zip(sorted(times), sorted(times)[1:], strict=False):
            assert end <= start, f"two jobs at once on {place}"
    ran = [job for job in jobs(slurm) if job["Comment"].startswith("rule_train")]
    assert len(ran) == 6
    assert max(job["SubmitTime"] for job in ran) < min(job["EndTime"] for job in ran)
    for job in ran:
        assert job["JobState"] == "COMPLETED"
        assert job["TresPerJob"] == "gres:gpu:1"
        assert job["MinMemoryNode"] == "1500M" and job["TimeLimit"] == "00:10:00"
        assert job["NumNodes"] == "1" and job["Requeue"] == "1"
        assert job["WorkDir"] == os.fspath(tmp_path)
