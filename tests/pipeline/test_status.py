"""`status`: what is printed of a run while it runs, on other machines, and after its end."""

import json
import os
import subprocess
import sys
import time
from io import BytesIO, TextIOWrapper

import pytest

from task_arithmetic.errors import UserError
from task_arithmetic.pipeline import status
from task_arithmetic.pipeline.locks import node

NOW = time.time()
GONE = 2**22  # no process has this number, on Linux
ERROR = "The data folder results/shared/data/cars has no manifest.json: make it again."


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder of all runs, in the folder that status is called in; the clock stands still."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "50")
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def attempt(started=-30.0, seconds=20.0, exit=0, **changes) -> dict:
    """One attempt of a job on this machine; started: relative to now."""
    return {
        "command": "task-arithmetic finetune", "started": NOW + started,
        "updated": NOW + started + seconds, "seconds": seconds, "node": node(), "pid": os.getpid(),
        "slurm_job": None, "device": "cpu", "gpu": None, "peak_memory_bytes": 8e8,
        "gpu_memory_bytes": 0, "exit": exit, "error": None, "from_store": False, "progress": None,
    } | changes  # fmt: skip


def at(done, total=100, first=0, **figures) -> dict:
    """The progress of a job."""
    return {"first": first, "done": done, "total": total, "unit": "step", **figures}


def write_run(results, jobs, name="mini", started=-100.0, pid=None, expected=(), **changes) -> None:
    """A run.json and the records of its jobs.

    Args:
        jobs: name such as finetune/cars/0 → its attempts, text as it is, or None: not needed.
        pid: the controller's; None: this process. expected: job → seconds by the model of work.
    """
    listed = []
    for job, attempts in jobs.items():
        log = results.parent / "results" / name / "logs" / f"{job}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        needed = attempts is not None
        listed.append({"stage": job.split("/")[0], "needed": needed, "outputs": [job],
                       "log": str(log.relative_to(results.parent)),
                       "expected": dict(expected).get(job, 0.0)})  # fmt: skip
        if isinstance(attempts, str):
            log.with_suffix(".json").write_text(attempts)
        elif attempts:
            log.with_suffix(".json").write_text(json.dumps({"stage": "?", "attempts": attempts}))
    content = {"started": NOW + started, "pid": pid or os.getpid(), "node": node(),
               "command": "snakemake --cores all", "jobs": listed}  # fmt: skip
    (results / name / "run.json").write_text(json.dumps(content | changes))


def printed(capsys, *arguments) -> str:
    """What status prints, without the terminal's width being exceeded."""
    status.status(*arguments)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= int(os.environ["COLUMNS"])
    return text


def cells(text, stage) -> dict[str, str]:
    """A stage's row of the first table: heading → cell, as far as both are there."""
    lines = text.split("\n\n")[1].splitlines()
    row = next(line for line in lines if line.split()[0] == stage)
    found, start = {}, len(stage)
    for heading in [h for h in [*status.STATES, "median s"] if h in lines[0]]:
        end = lines[0].index(heading) + len(heading)
        found[heading], start = row[start:end].strip(), end
    return {heading: cell for heading, cell in found.items() if cell}


def test_a_run_is_counted_stage_by_stage_in_the_pipelines_order(results, capsys):
    jobs = {"vector/a": [], "vector/b": [], "data/a": None, "data/b": [attempt(-90, 4)]}
    jobs |= {f"finetune/{i}": [attempt(-80, 10 + i)] for i in range(3)}
    jobs["finetune/3"] = [attempt(-20, 18, None, progress=at(50, loss=1.25, images_per_second=310))]
    jobs["finetune/4"] = [attempt(-90, 3, 1), attempt(-60, 3, 2)]
    write_run(results, jobs)
    text = printed(capsys)
    assert text.startswith("mini: running since ") and "is alive; 5 of 9 jobs done;" in text
    stages = [line.split()[0] for line in text.split("\n\n")[1].splitlines()[1:]]
    assert stages == ["data", "finetune", "vector"]
    assert cells(text, "data") == {"done": "2", "median s": "4.0"}
    expected = {"done": "3", "running": "1", "failed": "1", "median s": "11.0"}
    assert cells(text, "finetune") == expected
    assert cells(text, "vector") == {"queued": "2"}
    assert "lost" not in text and "unreadable" not in text


def test_a_running_job_says_how_far_it_is(results, capsys):
    progress = at(60, 100, first=20, loss=1.25, images_per_second=1310.4)
    running = attempt(-22, 20, None, device="NVIDIA H100 80GB HBM3", gpu="0", progress=progress)
    jobs = {"finetune/ViT-B-32/ntk/cars/0": [running], "finetune/b": [attempt()], "finetune/c": []}
    write_run(results, jobs)
    text = printed(capsys)
    line = text.split("\n\n")[2].splitlines()[1]
    words = [
        "finetune/ViT-B-32/ntk/cars/0",
        node(),
        *"H100 80GB HBM3 step 60/100 1.250 1,310".split(),
    ]
    assert line.split()[:-4] == words
    assert line.endswith("22 s  18 s")  # 40 steps at 2 a second, less what passed since
    assert "about 18 s until the running ones end" in " ".join(text.split())
    assert "about 20 s for the queued." in " ".join(text.split()) and "silent" not in text


def test_what_is_not_known_is_not_guessed(results, capsys):
    jobs = {"finetune/a": [attempt(-20, 18, None)], "finetune/b": [], "vector/a": []}
    write_run(results, jobs)
    assert "about" not in printed(capsys)
    jobs["finetune/a"][0]["progress"] = at(20, first=20)
    write_run(results, jobs | {"finetune/c": [attempt(-30, 600)]})
    text = " ".join(printed(capsys).split())
    assert "until" not in text and "about 10.0 min for the queued (1 of them unknown)" in text


def test_what_is_queued_takes_as_long_as_its_work_beside_that_of_finished_jobs(results, capsys):
    """A large encoder's job is not the median of small ones'."""
    progress = at(20, first=20)
    jobs = {"finetune/small": [attempt(-80, 30)], "finetune/large": [], "finetune/b": []}
    jobs["finetune/now"] = [attempt(-20, 18, None, progress=progress)]
    write_run(results, jobs)
    assert "about 1.0 min for the queued" in " ".join(printed(capsys).split())
    write_run(results, jobs, expected={"finetune/small": 15.0, "finetune/large": 300.0})
    assert "about 10.5 min for the queued" in " ".join(printed(capsys).split())  # 600 s and 30 s


def test_progress_older_than_a_minute_is_marked(results, capsys):
    jobs = {"finetune/a": [attempt(-200, 20, None)], "finetune/b": [attempt(-20, 18, None)]}
    write_run(results, jobs, started=-300)
    table = printed(capsys).split("\n\n")[2].splitlines()
    assert table[0].endswith("silent for") and table[1].startswith("finetune/a")
    assert table[1].endswith("3.0 min") and not table[2].endswith("min")


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "running"),
        ({"pid": GONE}, "lost"),
        ({"node": "elsewhere", "pid": GONE, "updated": NOW - 50}, "running"),
        ({"node": "elsewhere", "updated": NOW - 70}, "lost"),
        ({"node": "elsewhere", "updated": NOW + 5}, "running"),  # its clock is ahead
        ({"started": NOW - 100.5}, "running"),
        ({"started": NOW - 102}, "queued"),  # an earlier start's
        ({"node": "elsewhere", "started": NOW - 105, "updated": NOW}, "running"),
        ({"exit": 0}, "done"),
        ({"exit": 1}, "failed"),
        ({"exit": 0, "started": NOW - 5000}, "queued"),
    ],
)
def test_the_state_of_a_job(change, state, results, capsys):
    write_run(results, {"finetune/a": [attempt(-90, 80, None) | change], "data/a": []})
    assert cells(printed(capsys), "finetune").get(state) == "1"


def test_a_record_from_long_before_the_start_is_not_even_read(results, capsys):
    write_run(results, {"finetune/a": "{", "finetune/b": "{"})
    os.utime(results / "mini/logs/finetune/a.json", (NOW - 500, NOW - 500))
    assert cells(printed(capsys), "finetune") == {"queued": "1", "unreadable": "1"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"attempts": [1]}', "{}", "\0\xff"])
def test_a_damaged_record_is_counted_and_named(text, results, capsys):
    write_run(results, {"finetune/a": text, "finetune/b": [attempt()], "finetune/c": []})
    out = printed(capsys)
    assert cells(out, "finetune")["unreadable"] == "1" and cells(out, "finetune")["done"] == "1"
    assert "Unreadable: results/mini/logs/finetune/a.json" in out


def test_medians_of_stages_without_a_finished_job_are_those_of_earlier_ones(results, capsys):
    jobs = {f"finetune/{i}": [attempt(-9000, 100)] for i in range(50)}
    jobs |= {"finetune/new": [], "head/a": [attempt(-20, 1, from_store=True)], "head/b": []}
    write_run(results, jobs)
    path = results / "mini/run.json"
    path.write_text(path.read_text().replace("true", "false", 50))  # needed
    text = printed(capsys)
    assert cells(text, "finetune") == {"done": "50", "queued": "1", "median s": "100.0"}
    assert cells(text, "head") == {"done": "1", "queued": "1"}  # from the store: not computed


@pytest.mark.parametrize(
    ("exit", "words"),
    [
        (1, "exit 1"),
        (143, "stopped by SIGTERM"),
        (255, "exit 255"),
        (137, "stopped by SIGKILL, perhaps out of memory"),
    ],
)
def test_a_failed_job_shows_its_end_and_its_log(exit, words, results, capsys):
    failed = attempt(-20, 5, exit, error=ERROR, slurm_job="17")
    write_run(results, {"finetune/a": [attempt(-90, 5, 1), failed], "data/a": []})
    log = results / "mini/logs/finetune/a.log"
    text = "1\n2\n3\n4\n\n  1%|#\r 50%|##\r100%|###\r\n\33[31mred\ncaf\xe9 " + 300 * "x" + "\n"
    log.write_bytes(text.encode("latin-1"))
    text = printed(capsys)
    head = "Stopped" if exit == 143 else "Failed"
    assert f"{head}: finetune/a on {node()}, SLURM job 17: {words}\n  {ERROR}\n" in text
    shown = text.split("finetune/a.log:\n")[1].splitlines()
    assert shown[:4] == ["  | 3", "  | 4", "  | 100%|###", "  | red"]
    assert shown[4].startswith("  | caf\ufffd xxx") and shown[4].endswith("x…")
    log.write_text(f"task-arithmetic finetune: {ERROR}\n")
    assert printed(capsys).count(ERROR) == 1
    log.unlink()
    assert "results/mini/logs/finetune/a.log is empty" in printed(capsys)


def test_a_job_that_ended_before_its_record_began_has_failed(results, capsys):
    """Such as one whose command line is wrong; while the run goes on it may yet begin."""
    log = results / "mini/logs/finetune/a.log"
    for pid, state in ((None, "is alive; 0 of 2"), (GONE, "stopped with 1 failed; 0 of 2")):
        write_run(results, {"finetune/a": [], "finetune/b": []}, pid=pid)
        log.write_text("usage: ...")
        os.utime(log, (NOW, NOW))
        out = printed(capsys)
        assert state in " ".join(out.split())
    assert "Failed: finetune/a: it ended before it could keep a record" in out
    assert "  | usage: ..." in out
    os.utime(log, (NOW - 200, NOW - 200))  # of an earlier start
    assert "none failed" in printed(capsys)


def test_an_error_that_no_job_recorded_is_said(results, capsys):
    write_run(results, {"a/1": []}, pid=GONE, error=".snakemake/log/x.log")
    said = " ".join(printed(capsys).split())
    assert "stopped by an error before any job could record one: see .snakemake/log/x.log" in said


@pytest.mark.parametrize(
    ("jobs", "changes", "words"),
    [
        ({"a/1": [attempt()], "a/2": None}, {}, "mini: finished; 2 of 2 jobs done."),
        ({"a/1": [attempt()], "a/2": []}, {}, "is alive; 1 of 2"),
        ({"a/1": [attempt()], "a/2": []}, {"pid": GONE}, "stopped with none failed; 1 of 2"),
        ({"a/1": [attempt(exit=1)], "a/2": []}, {"pid": GONE}, "stopped with 1 failed; 0 of 2"),
        ({"a/1": [attempt(-9, 8, None)]}, {"pid": GONE}, "is gone; 0 of 1"),
        (
            {"a/1": [attempt(-9, 8, None, pid=GONE)]},
            {"pid": GONE},
            "stopped with 1 lost; 0 of 1",
        ),
        ({"a/1": [attempt(-9, 8, None)]}, {"node": "login"}, "on login) cannot be seen from here"),
        ({"a/1": []}, {"node": "login"}, "no job is running now, its controller"),
    ],
)
def test_the_state_of_the_run(jobs, changes, words, results, capsys):
    write_run(results, jobs, **changes)
    first, text = " ".join(printed(capsys).split("\n\n")[0].split()), printed(capsys)
    assert words in first
    assert ("1 lost" in first) == (f"Lost: a/1 on {node()}: ended without notice" in text)
    assert ("running since" in first) == ("is alive" in first or "running" in first.split(",")[0])


def test_long_lists_are_cut_and_narrow_terminals_keep_whole_numbers(results, capsys, monkeypatch):
    name = "finetune/" + "x" * 70
    progress = at(1_000, 20_000, loss=12.5, images_per_second=1e5)
    jobs = {f"{name}/{i}": [attempt(-30 - i, 20, None, progress=progress)] for i in range(25)}
    jobs |= {f"head/{i}": [attempt(-20, 5, 1)] for i in range(12)}
    jobs |= {f"data/{i}": "{" for i in range(11)}
    write_run(results, jobs)
    for width in (200, 120, 80, 60):
        monkeypatch.setenv("COLUMNS", str(width))
        text = printed(capsys)
        lines = [line for line in text.splitlines() if "1,000/20,000" in line]
        assert len(lines) == 20 and all("min" in line for line in lines)
        assert ("12.500" in text, "…" in lines[0]) == (width >= 80, width < 200)
        assert text.count("\nand 5 more") == 1 and text.count("Failed: ") == 10
        assert text.count("Unreadable: ") == 10 and "\nand 2 more\n\nUnreadable" in text
        assert text.endswith("\nand 1 more\n")


def test_without_a_name_it_is_the_run_that_started_last(results, capsys):
    for name, age in (("late", 10), ("early", 100)):
        write_run(results, {"data/a": []}, name)
        os.utime(results / name / "run.json", (NOW - age, NOW - age))
    assert printed(capsys).startswith("late: ") and printed(capsys, "early").startswith("early: ")
    with pytest.raises(UserError, match="There is no run x in results: take one of early, late."):
        status.status("x")


def test_without_any_run_it_says_so(results):
    with pytest.raises(UserError, match="No run has started in results: start one with snakemake."):
        status.status()
    with pytest.raises(UserError, match="There is no run a in x, which is no folder: start one"):
        status.status("a", results="x")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"jobs": [1]}', '{"jobs": [{"log": 1}]}'])
def test_a_damaged_run_json_is_an_error(text, results):
    (results / "mini").mkdir()
    (results / "mini/run.json").write_text(text)
    with pytest.raises(UserError, match="^results/mini/run.json is damaged: start the run again"):
        status.status()


def test_a_terminal_without_unicode_is_no_error(results, monkeypatch):
    write_run(results, {"finetune/a": [attempt(exit=1, error="Größe → 0")]})
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(BytesIO(), encoding="ascii"))
    status.status()
    assert b"Gr??e ? 0" in sys.stdout.buffer.getvalue()


@pytest.mark.parametrize("tty", [False, True])
def test_watching_prints_until_the_run_ends(tty, results, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty)
    monkeypatch.setenv("LINES", "8")
    jobs = {f"finetune/{i}": [attempt(exit=1)] for i in range(9)}
    jobs["finetune/x"] = [attempt(-9, 8, None)]
    write_run(results, jobs)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            write_run(results, jobs | {"finetune/x": [attempt(-9, 9)]})
        if len(waits) == 3:
            write_run(results, {job: [attempt()] for job in jobs})

    monkeypatch.setattr(time, "sleep", sleep)
    status.status("mini", watch=True)
    text = capsys.readouterr().out
    assert waits == [2 if tty else 10] * 3
    assert text.count("mini: ") == 4 and text.count("mini: finished; 10 of 10 jobs done.") == 1
    assert text.count("\33[H\33[2J") == (4 if tty else 0)
    screens = text.split("\33[H\33[2J")[1:4]
    assert all(screen.count("\n") <= 8 for screen in screens)


def test_ctrl_c_ends_watching_quietly(results, capsys, monkeypatch):
    write_run(results, {"data/a": []})

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    assert status.status(watch=True) is None
    assert capsys.readouterr().out.count("mini: ") == 1


def test_a_closed_pipe_is_no_error_and_nothing_heavy_is_imported(results):
    write_run(results, {f"stage{i:04}/a": [] for i in range(3000)})
    code = "import sys; from task_arithmetic.pipeline.status import status; status();"
    code += (
        "sys.exit(not {*sys.modules}.isdisjoint(['torch', 'pandas', 'snakemake', 'matplotlib']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=results.parent,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_thousands_of_records_take_no_time(results, capsys):
    made = {"inputs": {f"results/x/{i}": "0" * 64 for i in range(20)}}
    record = json.dumps({"attempts": [attempt()] * 5, "made": made})
    write_run(results, {f"finetune/{i}": record for i in range(2_000)})
    start = time.perf_counter()
    assert cells(printed(capsys), "finetune")["done"] == "2,000"
    assert time.perf_counter() - start < 3  # about 0.2 s on an idle machine
