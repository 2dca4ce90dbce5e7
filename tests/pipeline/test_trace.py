"""The trace of a run: a row for each attempt of each job, and the timeline drawn of them."""

import csv
import json
import os
import time
from datetime import UTC, datetime
from itertools import combinations

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

from task_arithmetic.files import records as trace
from task_arithmetic.pipeline.locks import node
from task_arithmetic.report import timeline as drawing

START = 1_790_000_000.0


def row(start=0.0, seconds=10.0, stage="finetune", where="n1", gpu=None, exit=0, **changes):
    """A row of the trace; start: seconds after the first."""
    number, job = changes.pop("number", 1), changes.pop("job", f"{stage}/{start}")
    known = {"started": START + start, "seconds": seconds, "node": where, "gpu": gpu, "exit": exit}
    return trace.Row(stage, job, number, trace.Attempt(**known, **changes))


def write_record(folder, job, *attempts, text=None) -> trace.Planned:
    """A job's record below folder/results/mini; returns its entry of run.json."""
    log = f"results/mini/logs/{job}.log"
    path = (folder / log).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or json.dumps({"job": job, "attempts": attempts}))
    return trace.Planned(job.split("/")[0], log, needed=False)


def attempt(started, seconds=5.0, exit=0, **changes) -> dict:
    return {
        "command": "task-arithmetic finetune, --seed 0", "started": START + started,
        "updated": START + started + seconds, "seconds": seconds, "node": "n1", "pid": 1,
        "slurm_job": "17", "device": "NVIDIA H100", "gpu": "GPU-abc", "peak_memory_bytes": 8,
        "gpu_memory_bytes": 9, "exit": exit, "error": None, "from_store": False, "progress": None,
    } | changes  # fmt: skip


def test_every_attempt_that_ended_has_a_row(tmp_path):
    progress = {"first": 20, "done": 60, "total": 100, "unit": "step", "loss": 1.0}
    alive = attempt(90, 3.0, None, node=node(), pid=os.getpid(), updated=time.time())
    jobs = [
        write_record(tmp_path, "vector/cars/0", attempt(50)),
        write_record(tmp_path, "finetune/cars/0", attempt(0, exit=143), attempt(9, 4.5, None),
                     attempt(20.25, 30.0, progress=progress)),
        write_record(tmp_path, "report/report", attempt(80, exit=1), alive),
        write_record(tmp_path, "data/cars", attempt(1, 2.0, from_store=True)),
        write_record(tmp_path, "data/dtd", text="{"),
        trace.Planned("head", "results/mini/logs/head/cars.log", needed=True),
    ]  # fmt: skip
    rows = trace.rows(tmp_path / "results/mini", jobs)
    trace.write_trace(rows, tmp_path / "trace.csv")
    with open(tmp_path / "trace.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [(line["job"], line["attempt"], line["exit"]) for line in found] == [
        ("finetune/cars/0", "1", "143"),
        ("data/cars", "1", "0"),
        ("finetune/cars/0", "2", ""),
        ("finetune/cars/0", "3", "0"),
        ("vector/cars/0", "1", "0"),
        ("report/report", "1", "1"),  # its second attempt is still running
    ]
    started = datetime.fromtimestamp(START + 20.25, UTC).replace(tzinfo=None).isoformat()
    assert found[3] == {
        "stage": "finetune", "job": "finetune/cars/0", "attempt": "3",
        "command": "task-arithmetic finetune, --seed 0", "node": "n1", "device": "NVIDIA H100",
        "gpu": "GPU-abc", "slurm_job": "17", "started": f"{started}Z", "seconds": "30.0",
        "peak_memory_bytes": "8", "gpu_memory_bytes": "9", "exit": "0", "from_store": "False",
        "steps_first": "20", "steps_done": "60",
    }  # fmt: skip
    assert found[1]["from_store"] == "True" and found[1]["steps_done"] == ""


def test_records_and_runs_are_written_as_they_were_read(tmp_path):
    progress = {"first": 20, "since": 9.0, "done": 60, "total": 99, "unit": "step", "loss": 1.5}
    made = {"code": "c", "fingerprint": "f", "arguments": {"seed": 0}, "inputs": {"a": "1"},
            "outputs": {"b": "2"}, "versions": {"torch": "3"}, "accepted": []}  # fmt: skip
    record = {"stage": "finetune", "job": "finetune/a", "made": made}
    record["attempts"] = [attempt(0), attempt(9, progress=progress)]
    (tmp_path / "0.json").write_text(json.dumps(record))
    assert trace.as_json(trace.read_record(tmp_path / "0.json")) == record
    job = {"stage": "data", "log": "x.log", "outputs": ["y"], "needed": True, "expected": 2.5}
    run = {"jobs": [job], "started": 1.0, "pid": 7, "node": "n", "shared": {"y": "h"},
           "command": "snakemake", "config": "run: x"}  # fmt: skip
    for content in (run, run | {"error": "z.log"}):
        (tmp_path / "run.json").write_text(json.dumps(content))
        assert trace.as_json(trace.read_run(tmp_path)) == content


def test_no_rows_make_a_csv_with_its_header(tmp_path):
    trace.write_trace(trace.rows(tmp_path / "results/mini", []), tmp_path / "trace.csv")
    assert (tmp_path / "trace.csv").read_text() == ",".join(trace.COLUMNS) + "\n"


def test_the_summary_adds_up_each_stage_in_the_pipelines_order():
    rows = [row(90, 1, "report"), row(95, 1, "mine"), row(0, 10), row(20, 5.5, exit=1)]
    rows.append(row(30, 4, number=2, job=rows[-1].job, peak_memory_bytes=7))
    rows.append(row(2, 3, "data", peak_memory_bytes=5, gpu_memory_bytes=None))
    found = trace.summary(rows)
    assert [line.stage for line in found] == ["data", "finetune", "report", "mine"]
    assert found[1] == trace.Summary("finetune", 2, 3, 19.5, 7, 0)


# --- The figure -----------------------------------------------------------------------------------


def bars(figure) -> list[tuple]:
    """(lane's label, start, end, whether it is hatched) of every bar, as drawn."""
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    found = []
    for part in axes.collections:
        assert isinstance(part, PolyCollection)
        for path in part.get_paths():
            (left, low), (right, high) = path.vertices.min(axis=0), path.vertices.max(axis=0)
            found.append((labels[round((low + high) / 2)], left, right, bool(part.get_hatch())))
    return found


def check(figure) -> str:
    """Hold a figure's texts to being inside and apart; returns the label of its x axis."""
    figure.draw_without_rendering()
    (axes,), (width, height) = figure.axes, figure.canvas.get_width_height()
    (legend,) = figure.legends
    boxes = [axes.get_tightbbox(), legend.get_window_extent()]
    for box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
    assert not boxes[0].overlaps(boxes[1])
    ticks = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(one.overlaps(two) for one, two in zip(ticks, ticks[1:], strict=False))
    return axes.get_xlabel()


def test_jobs_that_overlap_have_lanes_of_their_own():
    gpu = "GPU-01234567-a"
    rows = [row(0, 10), row(1, 4), row(5.5, 2), row(10.1, 5), row(2, 1, where="n10.example.org"),
            row(3, 9, where="n2"), row(3, 2, gpu=gpu), row(5.1, 2, gpu=gpu), row(8, 2, gpu="1"),
            row(9, 2, gpu="1")]  # fmt: skip
    figure = drawing.timeline(rows)
    assert check(figure) == "Seconds since the first start"
    lanes = {
        label: [round(b[1], 1) for b in bars(figure) if b[0] == label] for label, *_ in bars(figure)
    }
    assert lanes == {
        "n1 · GPU 01234567": [3, 5.1], "n1 · GPU 1": [8], "n1 · GPU 1 (2)": [9],
        "n1 · cpu 1": [0, 10.1], "n1 · cpu 2": [1, 5.5], "n2 · cpu 1": [3], "n10 · cpu 1": [2],
    }  # fmt: skip
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(lanes)


def test_bars_of_one_stage_have_one_colour_and_failed_ones_are_hatched():
    rows = [row(0, 9, "data"), row(10, 20, exit=1), row(31, 20, exit=None), row(52, 30, "mine")]
    figure = drawing.timeline(rows)
    assert [hatched for *_, hatched in sorted(bars(figure), key=lambda bar: bar[1])] == [
        False, True, True, False
    ]  # fmt: skip
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["data", "finetune", "mine", "failed or killed"]
    texts = [text.get_text() for text in drawing.timeline(rows[:1]).legends[0].get_texts()]
    assert texts == ["data"]


@pytest.mark.parametrize(
    ("gap", "last", "cut"),
    [(3, 60, False), (8, 60, True), (86400, 60, True), (500, 90_000, False), (2000, 90_000, True)],
)
def test_idle_time_is_cut_out(gap, last, cut):
    """Two jobs of 60 s and `last` seconds with a gap between them."""
    figure = drawing.timeline([row(0, 60), row(60 + gap, last), row(60 + gap, 1, where="n2")])
    label, width = check(figure), 60 + last
    unit = {"Seconds": 1, "Minutes": 60, "Hours": 3600}[label.split()[0]]
    assert ("idle time cut out" in label) == cut
    shown = unit * figure.axes[0].get_xlim()[1]
    assert shown == pytest.approx(width * 1.015 if cut else width + gap, rel=0.01)
    assert len(figure.axes[0].patches) == cut
    ends = sorted(unit * end for label, _, end, _ in bars(figure) if label == "n1 · cpu 1")
    assert ends == pytest.approx([60, shown], abs=0.002 * shown)


def test_one_job_without_a_length_is_drawn():
    figure = drawing.timeline([row(seconds=0.0)])
    assert check(figure) == "Seconds since the first start" and len(bars(figure)) == 1


def test_thousands_of_jobs_on_many_lanes_stay_small(tmp_path):
    random = np.random.default_rng(0)
    rows = [row(60 * i, random.uniform(5, 59), trace.STAGES[i // 5], f"n{n}", exit=int(i == 7))
            for n in range(50) for i in range(80)]  # fmt: skip
    figure = drawing.timeline(rows)
    assert check(figure) == "Minutes since the first start, and 10 more lanes"
    assert len(figure.axes[0].get_yticks()) == 40 and figure.get_figheight() < 9
    begin = time.perf_counter()
    for suffix in ("png", "pdf"):
        figure.savefig(tmp_path / f"timeline.{suffix}", dpi=200)
        assert (tmp_path / f"timeline.{suffix}").stat().st_size < 1e6
    assert time.perf_counter() - begin < 30


def test_stages_differ_in_colour_and_neighbours_in_grey():
    colors = [np.array(to_rgb(color)) for color in drawing.COLORS]
    assert len(colors) == len(trace.STAGES) + 1  # and one for stages of other names
    for one, two in combinations(colors, 2):
        assert np.linalg.norm(one - two) > 0.12
    grey = [color**2.2 @ [0.2126, 0.7152, 0.0722] for color in colors]
    assert min(abs(np.diff(np.array(grey) ** (1 / 2.2)))) > 0.1
