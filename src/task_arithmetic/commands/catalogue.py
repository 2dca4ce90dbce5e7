"""The commands for people: what each does, its function and its options. Nothing here imports more
than Python itself."""

from typing import Any, NamedTuple

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
    "export vectors": {
        "place": True,
        "file": True,
        "nargs": "+",
        "help": "files of task vectors, or one that was merged",
    },
    "export base": {"file": True, "metavar": "ENCODER", "help": "the vectors' encoder"},
    "export method": {
        "default": None,
        "help": "of merging, such as ties; without it the sum, and one file as it is",
    },
    "export alpha": {"type": float, "default": None, "help": "of θ0 + α·M: chosen on validation"},
    "chosen": {"default": "", "help": "how α was chosen, in words, for the card"},
    "to": {"help": "transformers, open_clip, fusion_bench or vector"},
    "export out": {
        "file": True,
        "metavar": "DIR",
        "help": "the folder to write, which must be new",
    },
    "export tasks": {
        "file": True,
        "nargs": "+",
        "default": [],
        "help": "names of config/tasks, or folders: whose heads are exported too",
    },
    "license": {"default": "", "help": "of the model; without it, none is said"},
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
    "vector from": {
        "dest": "source",
        "file": True,
        "metavar": "WEIGHTS",
        "help": "fine-tuned weights: a folder, a file, or owner/name of a hub",
    },
    "vector base": {"file": True, "metavar": "ENCODER", "help": "what was fine-tuned"},
    "task": {"help": "what the vector is of"},
    "mode": {"default": None, "help": "of config/modes; without it, by what moved"},
    "revision": {"default": None, "help": "of a hub's repository; without it, main"},
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
    "vector": ForPeople(
        "commands.vector.vector",
        ["from", "base", "task", "mode", "revision", "out", "json"],
        "take the task vector of weights that somebody else has fine-tuned",
        "--from tanganke/clip-vit-base-patch32_sun397 --base ViT-B-32 --task sun397 "
        "--out sun397.safetensors",
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
    "export": ForPeople(
        "commands.export.export",
        [
            *("vectors", "base", "method", "option", "seed", "alpha", "chosen", "to", "out"),
            *("tasks", "license", "evaluate", "as_nonlinear", "keep_base_projection", "json"),
        ],
        "write a unified model as transformers, open_clip or FusionBench load it",
        "vectors/*.safetensors --base ViT-B-32 --alpha 0.3 --to transformers --out merged",
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


def option_of(command: str, option: str) -> dict[str, Any]:
    """How a command understands one of its options."""
    return dict(OPTIONS.get(f"{command} {option}") or OPTIONS[option])
