"""Reading the configuration: YAML, overlays, and the definitions that its names stand for.

Definitions of tasks, encoders and modes are files in config/; what is wrong with any of them or
with the configuration is a UserError of one sentence. Nothing here imports torch.
"""

import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, nearest
from ..files.shipped import ROOT, local_path, shipped_config
from . import checks
from .experiment import Encoder, Experiment, Mode, Task, TextEncoder, TextTask, control_of
from .kinds import Section
from .sentences import found, hold

KINDS = {"tasks": "task", "encoders": "encoder", "modes": "mode"}  # folder of config/ → one of it
FORMS: dict[str, dict[str, type[Section]]] = {  # folder of config/ → modality → what it holds
    "tasks": {"vision": Task, "language": TextTask},
    "encoders": {"vision": Encoder, "language": TextEncoder},
    "modes": {"vision": Mode, "language": Mode},
}


class _Loader(yaml.SafeLoader):
    """YAML in which no key is written twice: PyYAML takes the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[Any, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name, line = self.construct_object(key), key.start_mark.line + 1
            if name in lines:
                twice = f"has `{key.value}` twice, in line {lines[name]} and in line {line}"
                raise UserError(f"{node.start_mark.name} {twice}; remove one of them.")
            lines[name] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """Read one YAML mapping. Raises UserError if it is missing, damaged or no mapping."""
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, _Loader)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the name and the folder.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a YAML file.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: save it as that.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}: {getattr(error, 'problem', 'syntax')})" if mark else ""
        raise UserError(f"{path} is not valid YAML{where}; mend that line.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold `key: value` lines; it holds {found(content)}.")
    return content


def merge(base: dict, overlay: dict) -> dict:
    """`base` with `overlay` over it: mappings merge key by key, everything else is replaced, and
    `pairs: {}` is no pairs, not all of the base's."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        emptied = key == "pairs" and value == {}
        merged[key] = merge(merged[key], value) if both and not emptied else value
    return merged


def read_config(*overlays: Any, basedir: str | os.PathLike = ROOT) -> dict[str, Any]:
    """The checked configuration of overlays, files or mappings, each over the one before and the
    first over config.yaml: what `snakemake` is given by --configfile and --config."""
    config = read_yaml(Path(basedir) / "config.yaml")
    for overlay in overlays:
        config = merge(
            config, overlay if isinstance(overlay, dict) else read_yaml(shipped_config(overlay))
        )
    return validate_config(config, basedir)


def typed(value: Any) -> Any:
    """What `snakemake --config 'alphas={step: 0.1}' seeds=[0,1]` gives, as YAML would read it:
    Snakemake leaves numbers inside of mappings and lists as texts."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, str):
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
        return value if isinstance(read, dict | list) else read
    return value


def composed(content: Any) -> Any:
    """The texts of a configuration in Unicode's composed form (NFC): `é` may be one letter, as
    keyboards type it, or `e` and an accent, as some systems store it in names of files."""
    if isinstance(content, dict):
        return {composed(key): composed(value) for key, value in content.items()}
    if isinstance(content, list):
        return [composed(value) for value in content]
    return unicodedata.normalize("NFC", content) if isinstance(content, str) else content


def validate_config(config: dict, basedir: str | os.PathLike = ROOT) -> dict[str, Any]:
    """The configuration with its defaults and, as `definitions`, what its names stand for.

    Args:
        config: config.yaml with any overlays merged over it.
        basedir: the folder that holds config/ and workflow/; paths in definitions are relative to
            it, and become relative to the working directory.
    Raises:
        UserError: the first thing that is wrong.
    """
    config = {**composed(config), **{k: config[k] for k in ("scratch",) if k in config}}  # a path
    experiment = hold(Experiment, config, "the configuration")
    if (coding := sys.getfilesystemencoding()) != "utf-8" and not str(config).isascii():
        raise UserError(
            "The configuration has letters other than ASCII's, which cannot stand in names of "
            f"files in this locale ({coding}): set LC_ALL=C.UTF-8."
        )
    optional = [k for k, field in Experiment.model_fields.items() if not field.is_required()]
    config = {**{key: getattr(experiment, key) for key in optional}, **config}
    config["parts"] = _parts(config)
    checks.check_alphas(config)
    definitions = _definitions(config, basedir)
    checks.check_config(config, definitions)
    return {**config, "definitions": definitions}


def _parts(config: dict) -> dict[str, dict]:
    """Modality → what is done in it: tasks, encoders, modes, ablations, focus, finetune. A modality
    without encoders is left out."""
    keys = ("tasks", "encoders", "modes", "ablations", "focus", "finetune")
    found = {"vision": {key: config[key] for key in keys}}
    if config["language"]:
        own = {"ablations": [], **config["language"]}
        own.setdefault("focus", next(iter(own["encoders"]), None))
        found["language"] = {key: own[key] for key in (*keys, "reference_selection") if key in own}
    return {modality: part for modality, part in found.items() if part["encoders"]}


def _definitions(config: dict, basedir: str | os.PathLike) -> dict[str, dict[str, dict]]:
    """kind (tasks, encoders, modes) → name → its checked definition, for each name in `config`."""
    found: dict[str, dict[str, dict]] = {kind: {} for kind in KINDS}
    for modality, part in config["parts"].items():
        where = checks.WHERE[modality]
        named = {
            "tasks": [(name, f"{where}tasks") for name in part["tasks"]],
            "encoders": [(name, f"{where}encoders") for name in part["encoders"]],
            "modes": [(name, where + key) for key in ("modes", "ablations") for name in part[key]],
        }
        if modality == "vision" and (control := control_of(config)):
            named["tasks"].append((control, "negation.control"))
        for kind, names in named.items():
            for name, key in names:
                found[kind][name] = load_definition(kind, name, key, basedir, modality)
    return found


def load_definition(
    kind: str, name: str, key: str, basedir: str | os.PathLike = ROOT, modality: str = "vision"
) -> dict[str, Any]:
    """Read and check config/<kind>/<name>.yaml, of a modality; `key` is where the configuration
    names it. Its `path` becomes relative to the working directory."""
    folder, word = Path(basedir) / "config" / kind, KINDS[kind]
    known = {composed(path.stem): path for path in sorted(folder.glob("*.yaml"))}
    if name not in known:  # not path.exists(): a name is no path, and case counts everywhere
        raise UserError(
            f"There is no {word} {name!r} ({key} in the configuration)"
            f"{nearest(name, list(known))}; each {word} is a file config/{kind}/NAME.yaml."
        )
    definition, where = read_yaml(known[name]), f"config/{kind}/{name}.yaml"
    if kind != "modes":
        checks.check_modality(definition, kind, key, modality, where)
    model = hold(FORMS[kind][modality], definition, where)
    if isinstance(model, Mode):
        checks.check_mode(name, model, key, modality, where)
    elif isinstance(model, Encoder | TextEncoder):
        checks.check_encoder(model, where)
    elif isinstance(model, Task | TextTask):
        checks.check_source(model, where)
        if isinstance(model, Task):
            checks.check_task(model, where)
        else:
            from ..language.prepare import check_text_task

            check_text_task(definition, where)
    if "path" in definition:
        definition["path"] = local_path(definition["path"], basedir)
        checks.check_path(definition["path"], kind, modality, where)
    return definition
