"""The command line, over plain functions: commands for people, and under `stage` every stage.

A command imports its function's module only: `data` and `vector` start without torch.
"""

import argparse
import io
import logging
import os
import sys
import warnings
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
    stage = STAGES[arguments.pop("stage_name")] if command == "stage" else None
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        if stage is not None:
            log, code = arguments.pop("job"), arguments.pop("code")
            jobs.run(stage, arguments, log, code)
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
        name = stage.command if stage else command
        print(f"task-arithmetic {name}: {sentence}", file=sys.stderr)
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
    "target": {"place": True, "help": "a file below results/"},
    "stage": {"help": "the stage whose code changed, such as finetune"},
    "reason": {"help": "why the results stay valid, for the record"},
    "keep_gb": {"type": float, "help": "how much may stay, in GB; what results hold is free"},
    "vectors": {"place": True, "nargs": "+", "help": "files of task vectors, or a merged one"},
    "base": {"metavar": "ENCODER", "help": "a name of config/encoders, or an encoder's folder"},
    "method": {"default": None, "help": "of merging; without it the sum, and one file as it is"},
    "option": {"nargs": "+", "default": [], "metavar": "KEY=VALUE", "help": "the method's own"},
    "seed": {"type": int, "default": 0, "help": "of a method that draws"},
    "alpha": {"type": float, "default": None, "help": "of θ0 + α·M: chosen on validation"},
    "chosen": {"default": "", "help": "how α was chosen, in words, for the card"},
    "to": {"help": "transformers, open_clip, fusion_bench or vector"},
    "out": {"metavar": "DIR", "help": "a folder that is not there yet"},
    "tasks": {"nargs": "+", "default": [], "help": "names of config/tasks, or their folders"},
    "license": {
        "default": "",
        "help": "of the model; without it, none is said",
    },
    "evaluate": {"action": "store_true", "default": False, "help": "on the tasks, for the card"},
    "as_nonlinear": {
        "action": "store_true",
        "default": False,
        "help": "use vectors of a linearized mode in f, which is another model",
    },
    "keep_base_projection": {
        "action": "store_true",
        "default": False,
        "help": "leave the projection as it was pretrained",
    },
    "json": {"action": "store_true", "default": False, "help": "print JSON"},
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
    "export": ForPeople(
        "commands.export.export",
        [
            *("vectors", "base", "method", "option", "seed", "alpha", "chosen", "to", "out"),
            *("tasks", "license", "evaluate", "as_nonlinear", "keep_base_projection", "json"),
        ],
        "write a unified model as transformers, open_clip or FusionBench load it",
        "vectors/*.safetensors --base ViT-B-32 --alpha 0.3 --to transformers --out merged",
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
    formatter = argparse.RawDescriptionHelpFormatter
    main_parser = argparse.ArgumentParser(
        prog="task-arithmetic",
        description="Task arithmetic by fine-tuning attention modules only.",
        epilog="`task-arithmetic COMMAND --help` tells the options of each.",
        formatter_class=formatter,
    )
    main_parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, known in FOR_PEOPLE.items():
        sub = commands.add_parser(
            command,
            help=known.text,
            description=known.text,
            epilog=f"example: task-arithmetic {command} {known.example}",
            formatter_class=formatter,
        )
        for option in known.options:
            how = dict(OPTIONS[option])
            if how.pop("place", False):
                sub.add_argument(option, **how)
            else:
                needed = {"required": "default" not in how}
                sub.add_argument(f"--{option.replace('_', '-')}", **(needed | how))
    one = "run one stage, as the workflow does"
    named_stages = commands.add_parser("stage", help=one, description=one)
    stages = named_stages.add_subparsers(dest="stage_name", required=True, metavar="STAGE")
    for name, stage in STAGES.items():
        add_options(stages.add_parser(name, help=stage.text, description=stage.text), stage)
    return main_parser


if __name__ == "__main__":
    sys.exit(main())
