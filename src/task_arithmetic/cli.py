"""The command line: one sub-command for each stage, over plain functions.

A command imports its function's module only: `data` and `vector` start without torch.
"""

import argparse
import json
import logging
import os
import sys
import warnings
from contextlib import suppress
from functools import partial
from importlib import import_module

from . import __version__
from .pipeline import jobs
from .pipeline.rerun import variant_of
from .stages.declared import STAGES


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Mistakes end in one sentence, without traceback."""
    with suppress(AttributeError):
        sys.stdout.reconfigure(errors="replace")  # α, where a locale has no such letter
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        if command in STAGES:
            log, code = arguments.pop("job"), arguments.pop("code")
            jobs.run(command, partial(_function, command, arguments), arguments, log, code)
        else:
            _function(command, arguments)(*arguments.pop("config", []), **arguments)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read what was printed has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        status, sentence = jobs.outcome(error)
        if sentence is None:
            raise
        print(f"task-arithmetic {command}: {sentence}", file=sys.stderr)
        return status
    return 0


def _function(command: str, arguments: dict):
    """A command's function; its module is imported only now."""
    function = COMMANDS[command][0]
    if isinstance(function, dict):  # of several modalities
        function = function[variant_of(command, arguments)]
    module, _, name = function.rpartition(".")
    return getattr(import_module(f".{module}", __package__), name)


# --- The parser ----------------------------------------------------------------------------------


def _settings(text: str) -> dict:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None


OPTIONS = {
    "encoder_dir": {"help": "folder made by `encoder`"},
    "data_dir": {"help": "folder made by `data`"},
    "data_dirs": {"nargs": "+", "help": "folders made by `data`, one for each task"},
    "head": {"help": "file made by `head`"},
    "heads": {"nargs": "+", "help": "files made by `head`, one for each task"},
    "vector": {"help": "file made by `vector`"},
    "vectors": {"nargs": "+", "help": "files made by `vector`, one for each task"},
    "encoder": {"help": "name of the encoder"},
    "mode": {"help": "name of the mode"},
    "task": {"help": "name of the task"},
    "tasks": {"nargs": "+", "help": "names of the tasks"},
    "seed": {"type": int, "help": "seed of data order and crops"},
    "settings": {"type": _settings, "help": "the stage's slice of the configuration, as JSON"},
    "download": {"default": None, "help": "what `download` recorded, if it is a hub's"},
    "threads": {"type": int, "default": 1, "help": "processes side by side"},
    "job": {"default": None, "metavar": "LOG", "help": "the job's log; its record goes beside it"},
    "code": {"default": None, "help": "label of the code that the run was planned with"},
    "device": {"default": None, "help": "a named device, instead of measuring this machine's"},
    "run": {"default": None, "metavar": "NAME", "help": "the run; without it, the newest, or all"},
    "watch": {"action": "store_true", "default": False, "help": "show it until the run ends"},
    "target": {"help": "a file below results/"},
    "stage": {"help": "the stage whose code changed, such as finetune"},
    "reason": {"help": "why the results stay valid, for the record"},
    "keep_gb": {"type": float, "help": "how much may stay, in GB; what results hold is free"},
    "output": {"help": "what to write"},
    "log": {"help": "metrics log to write (CSV)"},
    "finetuned": {"help": "file made by `finetune`"},
    "single_task": {
        "nargs": "+",
        "help": "metrics of the mode's single-task accuracy, one file for each task",
    },
    "pretrained": {"help": "metrics made by `pretrained`, of the control task"},
    "control": {"help": "name of the control task"},
    "control_head": {"help": "the control task's head"},
    "control_data_dir": {"help": "the control task's data folder"},
    "inputs": {"nargs": "+", "help": "metrics files"},
    "name": {"help": "table or figure, such as table2 or fig6"},
    "metrics": {"help": "the run's metrics.csv"},
    "reference": {"help": "published numbers"},
    "output_dir": {"help": "folder to write to"},
    "tables_dir": {"help": "the run's tables"},
    "figures_dir": {"help": "the run's figures"},
    "config": {
        "nargs": "*",
        "default": [],
        "help": "configuration files over config.yaml, each over the one before",
    },
    "config_text": {"help": "the run's resolved configuration, as text"},
    "run_dir": {"default": None, "help": "the run's results, with the records of its jobs"},
}
FOR_PEOPLE = {  # command → its function, options, what it does, an example of its options
    "check": (
        "config.experiment.check",
        "config",
        "validate a configuration and say what it would run",
        "--config config/mini.yaml mine.yaml",
    ),
    "plan": (
        "planning.plan.plan",
        "config device",
        "say what a configuration costs: jobs, disk, GPU-hours",
        "--config config/mini.yaml --device h100",
    ),
    "doctor": (
        "planning.doctor.doctor",
        "config",
        "check the data of a configuration's tasks",
        "--config config/mini.yaml",
    ),
    "status": (
        "pipeline.status.status",
        "run watch",
        "say what a run has done, does and has left to do",
        "--run mini --watch",
    ),
    "why": (
        "pipeline.why.why",
        "target config",
        "say why a file would be made again",
        "results/mini/tables/table2.csv",
    ),
    "verify": (
        "pipeline.verify.verify",
        "run",
        "check that all files of a run are as they were made",
        "--run mini",
    ),
    "accept": (
        "pipeline.rerun.accept",
        "stage reason run code",
        "declare that a stage's changed code gives the same results",
        '--stage finetune --reason "renamed a variable"',
    ),
    "gc": (
        "pipeline.store.gc",
        "keep_gb",
        "make the store of finished results smaller",
        "--keep-gb 10",
    ),
}
COMMANDS = {
    **{command: known[:3] for command, known in FOR_PEOPLE.items()},
    # A stage is also told the log of its job, and the code that its run was planned with.
    **{
        stage: (entry, f"{options} job code", text)
        for stage, (entry, options, text) in STAGES.items()
    },
}


def _parser() -> argparse.ArgumentParser:
    def listed(commands):
        return "\n".join(f"  {command:<16}  {COMMANDS[command][2]}" for command in commands)

    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="task-arithmetic",
        description="Task arithmetic by fine-tuning attention modules only, stage by stage.",
        epilog=f"commands:\n{listed(FOR_PEOPLE)}\n\nstages, which the workflow calls:\n"
        f"{listed(STAGES)}\n\n`task-arithmetic COMMAND --help` tells the options of each.",
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (_, options, text) in COMMANDS.items():
        example = FOR_PEOPLE[command][3] if command in FOR_PEOPLE else None
        epilog = example and f"example: task-arithmetic {command} {example}"
        sub = commands.add_parser(
            command, description=text, epilog=epilog, formatter_class=formatter
        )
        for option in options.split():
            if option == "target":
                sub.add_argument(option, **OPTIONS[option])
                continue
            how = {"required": "default" not in OPTIONS[option], **OPTIONS[option]}
            sub.add_argument(f"--{option.replace('_', '-')}", **how)
    return parser


if __name__ == "__main__":
    sys.exit(main())
