"""The command line: one sub-command for each stage, over plain functions.

Each command imports only what it needs: `data` and `vector` start without torch.
"""

import argparse
import json
import logging
import os
import sys
import warnings

from .artifacts import Interrupted, UserError, is_disk_full
from .device import claim, lost_gpu


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Mistakes end in one sentence, without traceback."""
    arguments = vars(_parser().parse_args(argv))
    command, run = arguments.pop("command"), arguments.pop("run")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        if command in ON_DEVICE:
            claim(os.environ.get("TASK_ARITHMETIC_DEVICE", "auto"))
        run(**arguments)
    except UserError as error:
        return _fail(command, error, 1)
    except Interrupted as error:
        return _fail(command, error, 128 + error.number)
    except KeyboardInterrupt:
        return _fail(command, "Stopped before it was done; run the same command again.", 130)
    except Exception as error:
        if is_disk_full(error):
            return _fail(command, f"The disk is full ({error}): free some space and run again.", 1)
        if lost_gpu(error):
            return _fail(
                command,
                f"The GPU failed or disappeared ({str(error).strip().splitlines()[0]}): look at "
                "nvidia-smi and run the same command again; training resumes where it was saved.",
                1,
            )
        raise
    return 0


def _fail(command: str, sentence, status: int) -> int:
    print(f"task-arithmetic {command}: {sentence}", file=sys.stderr)
    return status


# --- One function for each command: import, then call ---------------------------------------------


def _embedded(task, output):
    from .embedded.tasks import save_task

    save_task(task, output)


def _download(settings, output):
    from .hub import download

    download(settings, output)


def _data(task, settings, download, threads, output):
    from .data import write_task

    write_task(task, settings, output, download, threads)


def _encoder(encoder, settings, download, output):
    from .clip import import_encoder

    import_encoder(encoder, settings, output, download)


def _head(encoder_dir, data_dir, settings, output):
    from .arrays import read_manifest
    from .clip import write_head

    write_head(encoder_dir, read_manifest(data_dir), settings["templates"], output)


def _vector(encoder_dir, finetuned, output):
    from .vector import write_vector

    write_vector(encoder_dir, finetuned, output)


def _finetune(**arguments):
    from .finetune import finetune

    finetune(**arguments)


def _evaluation(name):
    def run(**arguments):
        from . import evaluate

        getattr(evaluate, name)(**arguments)

    return run


def _cosine(**arguments):
    from .vector import cosine

    cosine(**arguments)


def _disentanglement(**arguments):
    from .disentanglement import disentanglement

    disentanglement(**arguments)


def _efficiency(**arguments):
    from .efficiency import efficiency

    efficiency(**arguments)


def _metrics(inputs, output):
    from .metrics import gather

    gather(inputs, output)


def _table(name, metrics, reference, settings, output_dir):
    from .tables import write

    write(name, metrics, reference, settings, output_dir)


def _figure(name, metrics, settings, output_dir):
    from .figures import write

    write(name, metrics, settings, output_dir)


def _report(metrics, tables_dir, figures_dir, settings, resolved_config, timings, output):
    from .report import write

    write(metrics, tables_dir, figures_dir, settings, resolved_config, output, timings_path=timings)


def _check(config):
    from .config import check

    check(*config)


def _doctor(config):
    from .doctor import doctor

    doctor(*config)


def _plan(config, device):
    from .plan import plan

    plan(*config, device=device)


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
    "vectors": {"nargs": "+", "help": "files made by `vector`, one for each task"},
    "encoder": {"help": "name of the encoder"},
    "mode": {"help": "name of the mode"},
    "task": {"help": "name of the task"},
    "tasks": {"nargs": "+", "help": "names of the tasks"},
    "seed": {"type": int, "help": "seed of data order and crops"},
    "settings": {"type": _settings, "help": "the stage's slice of the configuration, as JSON"},
    "download": {"default": None, "help": "what `download` recorded, if it is a hub's"},
    "threads": {"type": int, "default": 1, "help": "processes side by side"},
    "device": {"default": None, "help": "a named device, instead of measuring this machine's"},
    "output": {"help": "what to write"},
    "log": {"help": "metrics log to write (CSV)"},
    "finetuned": {"help": "file made by `finetune`"},
    "single_task": {"help": "metrics of the mode's single-task accuracy"},
    "pretrained": {"help": "metrics made by `pretrained`"},
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
    "config": {"nargs": "+", "help": "configuration files, each over the one before"},
    "resolved_config": {"help": "the run's resolved configuration"},
    "timings": {"default": None, "help": "CSV of seconds for each stage"},
}
MANY = "encoder_dir encoder mode seed tasks heads data_dirs vectors settings output"
COMMANDS = {
    "embedded": (_embedded, "task output", "draw an embedded task as a local dataset"),
    "download": (_download, "settings output", "get a task's or an encoder's files from the hub"),
    "data": (_data, "task settings download threads output", "read a dataset into uint8 arrays"),
    "encoder": (
        _encoder,
        "encoder settings download output",
        "take a pretrained CLIP from open_clip",
    ),
    "head": (_head, "encoder_dir data_dir settings output", "make a frozen zero-shot head"),
    "finetune": (
        _finetune,
        "encoder_dir head data_dir encoder mode task seed settings output log",
        "fine-tune one encoder on one task in one mode",
    ),
    "vector": (_vector, "encoder_dir finetuned output", "extract a task vector"),
    "pretrained": (
        _evaluation("pretrained"),
        "encoder_dir encoder tasks heads data_dirs settings output",
        "zero-shot accuracy",
    ),
    "single-task": (_evaluation("single_task"), MANY, "accuracy of the individual models"),
    "kernel": (_evaluation("kernel"), MANY, "kernel behaviour test: post-hoc linearized accuracy"),
    "addition": (_evaluation("addition"), MANY + " single_task", "task addition"),
    "negation": (
        _evaluation("negation"),
        MANY + " pretrained control control_head control_data_dir",
        "task negation with a control task",
    ),
    "disentanglement": (_disentanglement, MANY, "disentanglement error of two tasks on a grid"),
    "cosine": (
        _cosine,
        "encoder mode seed tasks vectors output",
        "cosine similarity of task vectors",
    ),
    "efficiency": (
        _efficiency,
        "encoder_dir head data_dir encoder mode settings output",
        "measure what a training step costs",
    ),
    "metrics": (_metrics, "inputs output", "gather metrics files into one"),
    "table": (_table, "name metrics reference settings output_dir", "make one table"),
    "figure": (_figure, "name metrics settings output_dir", "make one figure"),
    "report": (
        _report,
        "metrics tables_dir figures_dir settings resolved_config timings output",
        "make the HTML report",
    ),
    "check": (_check, "config", "validate a configuration and say what it would run"),
    "plan": (_plan, "config device", "say what a configuration costs: jobs, disk, GPU-hours"),
    "doctor": (_doctor, "config", "check the data of a configuration's tasks"),
}
# Commands that compute on a GPU where there is one: each holds one for itself.
ON_DEVICE = {
    *("head", "finetune", "pretrained", "single-task", "kernel", "addition", "negation"),
    *("disentanglement", "efficiency"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="task-arithmetic",
        description="Task arithmetic by fine-tuning attention modules only, stage by stage.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (run, options, text) in COMMANDS.items():
        sub = commands.add_parser(command, help=text, description=text)
        sub.set_defaults(run=run)
        for option in options.split():
            how = {"required": "default" not in OPTIONS[option], **OPTIONS[option]}
            sub.add_argument(f"--{option.replace('_', '-')}", **how)
    return parser


if __name__ == "__main__":
    sys.exit(main())
