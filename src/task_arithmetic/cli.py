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


# Options of commands that are no stages, as argparse has them; what a command understands in its
# own way stands under `COMMAND OPTION`. place: it is no --option; file: it names files.
OPTIONS: dict[str, dict[str, Any]] = {
    "code": {"default": None, "help": "label of the code that the run was planned with"},
    "of": {
        "default": None,
        "choices": ["tasks", "encoders", "modes"],
        "help": "a folder of config/; without it, the configuration",
    },
    "device": {"default": None, "help": "a named device, instead of measuring this machine's"},
    "run": {"default": None, "metavar": "NAME", "help": "the run; without it, the newest, or all"},
    "watch": {"action": "store_true", "default": False, "help": "show it until the run ends"},
    "json": {
        "action": "store_true",
        "default": False,
        "dest": "as_json",
        "help": "print it as JSON, for machines",
    },
    "target": {"place": True, "file": True, "help": "a file below results/"},
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
        "file": True,
        "nargs": "*",
        "default": [],
        "help": "configuration files over config.yaml, each over the one before",
    },
    "vectors": {
        "place": True,
        "file": True,
        "nargs": "*",
        "default": [],
        "help": "files of task vectors, of results/<run>/vectors or of save()",
    },
    "from": {
        "dest": "recipe",
        "file": True,
        "default": None,
        "metavar": "YAML",
        "help": "all of the following (but --out) in a file: merge_method, models, parameters …",
    },
    "method": {"default": None, "help": "a merging method, such as ties; without it, the sum"},
    "option": {
        "dest": "options",
        "action": "append",
        "default": [],
        "metavar": "NAME=VALUE",
        "help": "an option of the method, such as keep=0.2; may be given several times",
    },
    "weights": {
        "nargs": "+",
        "type": float,
        "default": [],
        "metavar": "W",
        "help": "what each vector is multiplied by first, in their order; -1 subtracts one",
    },
    "base": {
        "file": True,
        "default": None,
        "metavar": "ENCODER",
        "help": "the vectors' encoder, for methods that need data, and the depth of --layer-scale",
    },
    "tasks": {
        "file": True,
        "nargs": "+",
        "help": "names of config/tasks, or folders of images or texts",
    },
    "merge tasks": {
        "file": True,
        "nargs": "+",
        "default": [],
        "help": "of each vector its task, for methods that need data; of others, only a name",
    },
    "layer_scale": {
        "action": "store_true",
        "default": False,
        "help": "let deeper blocks count the more (LiNeS)",
    },
    "seed": {"type": int, "default": None, "help": "of a method that draws; without it, 0"},
    "out": {"file": True, "metavar": "FILE", "help": "the file to write, which must be new"},
    "encoder": {
        "place": True,
        "file": True,
        "help": "a name of config/encoders, or a folder: a checkpoint, or an encoder of a run",
    },
    "evaluate vectors": {
        "file": True,
        "nargs": "+",
        "default": [],
        "help": "files of task vectors, which are added to the encoder",
    },
    "alpha": {"type": float, "default": None, "help": "what their sum is multiplied by; else 1"},
    "split": {
        "default": "test",
        "choices": ["test", "validation"],
        "help": "what to evaluate on; without it, test",
    },
    "templates": {
        "nargs": "+",
        "default": None,
        "help": "of folders of images: prompts with one {} for the class's name",
    },
    "classes": {
        "nargs": "+",
        "default": None,
        "metavar": "OWN=NAME",
        "help": "of folders of images: what prompts call each class, in the order of its own names",
    },
    "evaluate device": {"default": None, "help": "cpu or cuda; without it, a GPU if there is one"},
    "one": {"place": True, "help": "a run: its name, or its folder"},
    "other": {"place": True, "help": "another run"},
    "show run": {"place": True, "help": "the run: its name, or its folder"},
    "table": {
        "place": True,
        "nargs": "?",
        "default": None,
        "help": "one of its tables; without it, which there are",
    },
    "shell": {"place": True, "choices": ["bash", "zsh", "fish"], "help": "for which shell"},
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
        ["config", "json"],
        "validate a configuration and say what it would run",
        "--config config/mini.yaml mine.yaml",
    ),
    "plan": ForPeople(
        "planning.plan.plan",
        ["config", "device", "json"],
        "say what a configuration costs: jobs, disk, GPU-hours",
        "--config config/mini.yaml --device h100",
    ),
    "doctor": ForPeople(
        "planning.doctor.doctor",
        ["config", "json"],
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
        ["run", "watch", "json"],
        "say what a run has done, does and has left to do",
        "--run mini --watch",
    ),
    "why": ForPeople(
        "pipeline.why.why",
        ["target", "config", "json"],
        "say why a file would be made again",
        "results/mini/tables/table2.csv",
    ),
    "verify": ForPeople(
        "pipeline.verify.verify",
        ["run", "json"],
        "check that all files of a run are as they were made",
        "--run mini",
    ),
    "merge": ForPeople(
        "commands.merge.merge",
        "vectors from method option weights base tasks layer_scale seed out json".split(),
        "merge task vectors into one, by any method",
        "cars.safetensors dtd.safetensors --method ties --option keep=0.2 --out both.safetensors",
    ),
    "evaluate": ForPeople(
        "commands.evaluate.evaluate",
        "encoder vectors alpha tasks split templates classes device json".split(),
        "measure the accuracy of an encoder, or of one with task vectors added",
        "embedded-small --vectors both.safetensors --alpha 0.3 --tasks numbers shapes",
    ),
    "show": ForPeople(
        "commands.show.show",
        ["run", "table", "json"],
        "list the tables of a run, or print one",
        "mini table2",
    ),
    "compare": ForPeople(
        "commands.compare.compare",
        ["one", "other", "json"],
        "say in what two runs differ: configuration and test results",
        "mini results/mini-of-last-week",
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
        ["keep_gb", "json"],
        "make the store of finished results smaller",
        "--keep-gb 10",
    ),
    "completion": ForPeople(
        "cli.completion",
        ["shell"],
        "print what completes commands in a shell: source <(task-arithmetic completion bash)",
        "bash",
    ),
}


def parser(files: Any = None) -> argparse.ArgumentParser:
    """The commands, each with its options; files: how shtab completes the names of files."""
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
            how = option_of(command, option)
            is_file = how.pop("file", False)
            if how.pop("place", False):
                added = sub.add_argument(option, **how)
            else:
                needed = {"required": "default" not in how}
                added = sub.add_argument(f"--{option.replace('_', '-')}", **(needed | how))
            if is_file:
                added.complete = files  # type: ignore[attr-defined]
    one = "run one stage, as the workflow does"
    named_stages = commands.add_parser("stage", help=one, description=one)
    stages = named_stages.add_subparsers(dest="stage_name", required=True, metavar="STAGE")
    for name, stage in STAGES.items():
        add_options(stages.add_parser(name, help=stage.text, description=stage.text), stage)
    return main_parser


def option_of(command: str, option: str) -> dict[str, Any]:
    """How a command understands one of its options."""
    return dict(OPTIONS.get(f"{command} {option}") or OPTIONS[option])


def completion(shell: str) -> None:
    """Print a script that lets a shell complete all commands, their options and names of files."""
    import shtab

    print(shtab.complete(parser(shtab.FILE), shell))


if __name__ == "__main__":
    sys.exit(main())
