"""A stage's command: its options, from its declaration."""

import argparse
import json
from typing import Any

from .catalogue import STAGES
from .declaration import Declared, Option, Seed, Settings, Threads

# A stage is also told the log of its job, and the code that its run was planned with.
OF_JOBS: dict[str, dict[str, Any]] = {
    "job": {"default": None, "metavar": "LOG", "help": "the job's log; its record goes beside it"},
    "code": {"default": None, "help": "label of the code that the run was planned with"},
}
HELP = {  # of the stages' options
    "encoder_dir": "folder made by `encoder`",
    "data_dir": "folder made by `data`",
    "data_dirs": "folders made by `data`, one for each task",
    "head": "file made by `head`",
    "heads": "files made by `head`, one for each task",
    "vector": "file made by `vector`",
    "vectors": "files made by `vector`, one for each task",
    "encoder": "name of the encoder",
    "mode": "name of the mode",
    "task": "name of the task",
    "tasks": "names of the tasks",
    "method": "what rows call the merging method",
    "methods": "what rows call the merging methods other than the sum",
    "merged": "files made by `merge`, one for each of these methods",
    "unified": "metrics made by `addition`, one for each of these methods",
    "geometry": "encoder.json of `encoder`, for what is scaled by depth",
    "statistics": "files made by `statistics`, one for each task, for regmean",
    "seed": "seed of data order and crops",
    "settings": "the stage's slice of the configuration, as JSON",
    "download": "what `download` recorded, if it is a hub's",
    "threads": "processes side by side",
    "output": "what to write",
    "answers": "answers to single examples, of all evaluations",
    "comparisons": "comparisons to write (CSV)",
    "draws": "bootstrap samples to write (safetensors)",
    "outcomes": "answers to single examples to write (safetensors)",
    "log": "metrics log to write (CSV)",
    "files": "files of a local checkpoint: its weights, and configuration if it has one",
    "finetuned": "file made by `finetune`",
    "single_task": "metrics of the mode's single-task accuracy, one file for each task",
    "addition": "metrics made by `addition`, of the same vectors",
    "pretrained": "metrics made by `pretrained`, of the control task",
    "control": "name of the control task",
    "control_head": "the control task's head",
    "control_data_dir": "the control task's data folder",
    "inputs": "metrics files",
    "name": "table or figure, such as table2 or fig6",
    "metrics": "the run's metrics.csv",
    "reference": "published numbers",
    "output_dir": "folder to write to",
    "paper": "the paper's numbers",
    "targets": "published single-task accuracies",
    "merging": "published accuracies of merging methods",
    "figures_dir": "the run's figures",
    "config_text": "the run's resolved configuration, as text",
    "run_dir": "the run's results, with the records of its jobs",
}


def add_options(parser: argparse.ArgumentParser, stage: Declared) -> None:
    """Let a parser read a stage's options, and what its job is told beside them."""
    options = {option.name: _read(option) for option in stage.options.values()} | OF_JOBS
    for name, how in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **how)


def read_command(words: list[str]) -> tuple[Declared, dict[str, Any]]:
    """The stage that a command calls, and its arguments; words: those after
    `task-arithmetic stage`."""
    stage, parser = STAGES[words[0]], argparse.ArgumentParser()
    add_options(parser, stage)
    return stage, vars(parser.parse_args(words[1:]))


def _read(option: Option) -> dict[str, Any]:
    """How argparse reads an option."""
    how: dict[str, Any] = {"required": option.required, "default": option.default}
    how["help"] = HELP[option.name]
    how |= {"nargs": "+"} if option.many else {}
    kinds = {Settings: _settings, Seed: int, Threads: int}
    return how | ({"type": kinds[option.kind]} if option.kind in kinds else {})


def _settings(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
