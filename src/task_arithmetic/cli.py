"""The command line: one sub-command for each stage, over plain functions.

A command imports its function's module only: `data` and `vector` start without torch.
"""

import argparse
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

from . import __version__
from .pipeline import jobs
from .pipeline.outcome import outcome
from .stages.declare import Option, Seed, Settings, Threads, named
from .stages.declared import STAGES


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Mistakes end in one sentence, without traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # α, where a locale has no such letter
    arguments = vars(parser().parse_args(argv))
    command = arguments.pop("command")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        if command in STAGES:
            log, code = arguments.pop("job"), arguments.pop("code")
            jobs.run(STAGES[command], arguments, log, code)
        else:
            named(FOR_PEOPLE[command].code)(*arguments.pop("config", []), **arguments)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read what was printed has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        status, sentence = outcome(error)
        if sentence is None:
            raise
        print(f"task-arithmetic {command}: {sentence}", file=sys.stderr)
        return status
    return 0


# --- The parser ----------------------------------------------------------------------------------


def _settings(text: str) -> dict:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None


OPTIONS: dict[str, dict[str, Any]] = {  # options of commands that are no stages
    "code": {"default": None, "help": "label of the code that the run was planned with"},
    "of": {
        "default": None,
        "choices": ["tasks", "encoders", "modes"],
        "help": "a folder of config/; without it, the configuration",
    },
    "device": {"default": None, "help": "a named device, instead of measuring this machine's"},
    "run": {"default": None, "metavar": "NAME", "help": "the run; without it, the newest, or all"},
    "watch": {"action": "store_true", "default": False, "help": "show it until the run ends"},
    "target": {"help": "a file below results/"},
    "stage": {"help": "the stage whose code changed, such as finetune"},
    "reason": {"help": "why the results stay valid, for the record"},
    "keep_gb": {"type": float, "help": "how much may stay, in GB; what results hold is free"},
    "config": {
        "nargs": "*",
        "default": [],
        "help": "configuration files over config.yaml, each over the one before",
    },
}
# A stage is also told the log of its job, and the code that its run was planned with.
OF_JOBS: dict[str, dict[str, Any]] = {
    "job": {"default": None, "metavar": "LOG", "help": "the job's log; its record goes beside it"},
    "code": OPTIONS["code"],
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
    "seed": "seed of data order and crops",
    "settings": "the stage's slice of the configuration, as JSON",
    "download": "what `download` recorded, if it is a hub's",
    "threads": "processes side by side",
    "output": "what to write",
    "log": "metrics log to write (CSV)",
    "finetuned": "file made by `finetune`",
    "single_task": "metrics of the mode's single-task accuracy, one file for each task",
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
    "figures_dir": "the run's figures",
    "config_text": "the run's resolved configuration, as text",
    "run_dir": "the run's results, with the records of its jobs",
}


class ForPeople(NamedTuple):
    """A command that is no stage: its function, its options, what it does, an example of them."""

    code: str
    options: list[str]
    text: str
    example: str


FOR_PEOPLE = {
    "check": ForPeople(
        "config.summary.check",
        ["config"],
        "validate a configuration and say what it would run",
        "--config config/mini.yaml mine.yaml",
    ),
    "plan": ForPeople(
        "planning.plan.plan",
        ["config", "device"],
        "say what a configuration costs: jobs, disk, GPU-hours",
        "--config config/mini.yaml --device h100",
    ),
    "doctor": ForPeople(
        "planning.doctor.doctor",
        ["config"],
        "check the data of a configuration's tasks",
        "--config config/mini.yaml",
    ),
    "schema": ForPeople(
        "config.summary.schema",
        ["of"],
        "print the JSON schema of a configuration or a definition, for editors",
        "--of tasks",
    ),
    "status": ForPeople(
        "pipeline.status.status",
        ["run", "watch"],
        "say what a run has done, does and has left to do",
        "--run mini --watch",
    ),
    "why": ForPeople(
        "pipeline.why.why",
        ["target", "config"],
        "say why a file would be made again",
        "results/mini/tables/table2.csv",
    ),
    "verify": ForPeople(
        "pipeline.verify.verify",
        ["run"],
        "check that all files of a run are as they were made",
        "--run mini",
    ),
    "accept": ForPeople(
        "pipeline.rerun.accept",
        ["stage", "reason", "run", "code"],
        "declare that a stage's changed code gives the same results",
        '--stage finetune --reason "renamed a variable"',
    ),
    "gc": ForPeople(
        "pipeline.store.gc",
        ["keep_gb"],
        "make the store of finished results smaller",
        "--keep-gb 10",
    ),
}


def _of_stage(option: Option) -> dict[str, Any]:
    """How argparse reads an option of a stage."""
    how: dict[str, Any] = {"required": option.required, "default": option.default}
    how["help"] = HELP[option.name]
    how |= {"nargs": "+"} if option.many else {}
    kinds = {Settings: _settings, Seed: int, Threads: int}
    return how | ({"type": kinds[option.kind]} if option.kind in kinds else {})


def parser() -> argparse.ArgumentParser:
    """The commands, each with its options."""
    texts = {command: known.text for command, known in FOR_PEOPLE.items()}
    texts |= {command: stage.text for command, stage in STAGES.items()}

    def listed(commands: Iterable[str]) -> str:
        return "\n".join(f"  {command:<16}  {texts[command]}" for command in commands)

    formatter = argparse.RawDescriptionHelpFormatter
    main_parser = argparse.ArgumentParser(
        prog="task-arithmetic",
        description="Task arithmetic by fine-tuning attention modules only, stage by stage.",
        epilog=f"commands:\n{listed(FOR_PEOPLE)}\n\nstages, which the workflow calls:\n"
        f"{listed(STAGES)}\n\n`task-arithmetic COMMAND --help` tells the options of each.",
        formatter_class=formatter,
    )
    main_parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, text in texts.items():
        if command in STAGES:
            own, epilog = STAGES[command].options.values(), None
            options = {option.name: _of_stage(option) for option in own} | OF_JOBS
        else:
            options = {name: OPTIONS[name] for name in FOR_PEOPLE[command].options}
            epilog = f"example: task-arithmetic {command} {FOR_PEOPLE[command].example}"
        sub = commands.add_parser(
            command, description=text, epilog=epilog, formatter_class=formatter
        )
        for option, how in options.items():
            if option == "target":
                sub.add_argument(option, **how)
            else:
                required = {"required": "default" not in how}
                sub.add_argument(f"--{option.replace('_', '-')}", **(required | how))
    return main_parser


if __name__ == "__main__":
    sys.exit(main())
