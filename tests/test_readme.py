"""The README's examples: a task, an encoder and a mode of one's own, by YAML alone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PARTS = ["Snakefile", "config.yaml", "config", "profiles", "workflow", "envs", "src"]


def examples() -> dict[str, str]:
    """Path → content of each YAML example of the README; its first line names the file."""
    blocks = re.findall(r"```yaml\n# (\S+)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return dict(blocks)


def draw_balls(folder: Path) -> None:
    """An image folder: two classes, photographs of different sizes."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 20, "test": 10}.items():
        for name, colour in {"red": (200, 30, 30), "blue": (30, 30, 200)}.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(colour, 40, (40 + i, 50, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{i}.png")


@pytest.mark.slow
def test_own_task_encoder_and_mode_run_from_the_readme_alone(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, project / part)
    written = examples()
    assert {"config/tasks/balls.yaml", "config/encoders/my-clip.yaml", "config/modes/mlp.yaml"} < {
        *written
    }
    for path, content in written.items():
        (project / path).write_text(content)
    draw_balls(project / "my/balls")
    shipped = project / "src/task_arithmetic/embedded/encoders/embedded-base"
    shutil.copytree(shipped, project / "my/clip")

    files = ["config/mini.yaml", "config/nano.yaml", "mine.yaml"]
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", *files]

    def run(*options):
        done = subprocess.run([*command, *options], cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert "results/mine/report.html" in run("--dry-run")
    own = "results/mine/metrics/addition/my-clip/mlp/0.csv"
    run("--", own)  # the encoder and the mode, on all tasks
    rows = pd.read_csv(project / own)
    assert set(rows.task) == {"textures", "landcover", "balls"}
    assert set(rows.encoder) == {"my-clip"} and set(rows["mode"]) == {"mlp"}
    assert rows[rows.metric == "unified_accuracy"].value.between(0, 1).all()
