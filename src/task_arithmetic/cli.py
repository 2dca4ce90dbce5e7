"""The command line, over plain functions: commands for people, and under `stage` every stage.

A command imports its function's module only: `data` and `vector` start without torch.
"""

import argparse
import io
import logging
import os
import sys
import warnings
from typing import Any

from . import __version__
from .commands.catalogue import FOR_PEOPLE, option_of
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


def completion(shell: str) -> None:
    """Print a script that lets a shell complete all commands, their options and names of files."""
    import shtab

    print(shtab.complete(parser(shtab.FILE), shell))


if __name__ == "__main__":
    sys.exit(main())
