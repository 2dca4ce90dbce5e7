"""The command line: one sub-command for each stage, over plain functions.

A command imports its function's module only: `data` and `vector` start without torch.
"""

import argparse
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

from . import __version__
from .pipeline import jobs
from .pipeline.outcome import outcome
from .stages.catalogue import STAGES
from .stages.command import add_options
from .stages.declaration import named


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
    "json": {"action": "store_true", "default": False, "help": "as JSON instead of a table"},
    "config": {
        "nargs": "*",
        "default": [],
        "help": "configuration files over config.yaml, each over the one before",
    },
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
    "audit": ForPeople(
        "planning.audit.audit",
        ["config", "json"],
        "count what stands in two splits of a task, or in two tasks",
        "--config config/suites/clip20.yaml --json",
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
        known = FOR_PEOPLE.get(command)
        example = f"example: task-arithmetic {command} {known.example}" if known else None
        sub = commands.add_parser(
            command, description=text, epilog=example, formatter_class=formatter
        )
        if known is None:
            add_options(sub, STAGES[command])
        else:
            for option in known.options:
                place = option if option == "target" else f"--{option.replace('_', '-')}"
                how = OPTIONS[option]
                needed = {} if option == "target" else {"required": "default" not in how}
                sub.add_argument(place, **(needed | how))
    return main_parser


if __name__ == "__main__":
    sys.exit(main())
