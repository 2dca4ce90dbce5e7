"""Reading the configuration: YAML, overlays, and the definitions that its names stand for.

Definitions of tasks, encoders and modes are files in config/; what is wrong with any of them or
with the configuration is a UserError of one sentence. Nothing here imports torch.
"""

import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, nearest
from ..files.paths import PathLike
from ..files.shipped import ROOT, local_path, shipped_config
from . import checks
from .definitions import FORMS, AnyEncoder, Checkpoint, Checkpoints, Definitions, Mode
from .experiment import Configuration, Experiment, Part, parts_of
from .sentences import found, hold


class _Loader(yaml.SafeLoader):
    """YAML in which no key is written twice: PyYAML takes the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
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


def read_yaml(path: PathLike) -> dict[str, Any]:
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


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `overlay` over it: mappings merge key by key, everything else is replaced, and
    `pairs: {}` is no pairs, not all of the base's."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        emptied = key == "pairs" and value == {}
        merged[key] = merge(merged[key], value) if both and not emptied else value
    return merged


def read_config(*overlays: Any, basedir: PathLike = ROOT) -> Experiment:
    """The experiment of overlays, files or mappings, each over the one before and the first over
    config.yaml: what `snakemake` is given by --configfile and --config."""
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


def validate_config(config: Mapping[str, Any], basedir: PathLike = ROOT) -> Experiment:
    """The experiment that a configuration is: held to its form, with what its names stand for.

    Args:
        config: config.yaml with any overlays merged over it.
        basedir: the folder that holds config/ and workflow/; paths in definitions are relative to
            it, and become relative to the working directory.
    Raises:
        UserError: the first thing that is wrong.
    """
    content = {**composed(dict(config)), **{k: config[k] for k in ("scratch",) if k in config}}
    configuration = hold(Configuration, content, "the configuration")
    if (coding := sys.getfilesystemencoding()) != "utf-8" and not str(content).isascii():
        raise UserError(
            "The configuration has letters other than ASCII's, which cannot stand in names of "
            f"files in this locale ({coding}): set LC_ALL=C.UTF-8."
        )
    from ..core.alpha import alpha_grid  # which imports numpy

    alpha_grid(**configuration.alphas.given())
    parts = parts_of(configuration)
    own = {**dict(configuration), "parts": parts, "definitions": _definitions(parts, basedir)}
    own["published"] = {
        encoder: None if each is None else local_checkpoints(each, basedir)
        for encoder, each in configuration.published.items()
    }
    experiment = Experiment.model_construct(configuration.model_fields_set, **own)
    checks.check_experiment(experiment)
    return experiment


def _definitions(parts: Mapping[str, Part], basedir: PathLike) -> Definitions:
    """What the names of an experiment's parts stand for."""
    found = Definitions({}, {}, {})
    for modality, part in parts.items():
        where = checks.WHERE[modality]
        for kind, key, names in (
            ("tasks", f"{where}tasks", part.tasks),
            ("tasks", "negation.control", [part.control] if part.control else []),
            ("encoders", f"{where}encoders", part.encoders),
            ("modes", f"{where}modes", part.modes),
            ("modes", f"{where}ablations", part.ablations),
        ):
            known = getattr(found, kind)
            known |= {name: load_definition(kind, name, key, basedir, modality) for name in names}
    return found


def load_definition(
    kind: str, name: str, key: str, basedir: PathLike = ROOT, modality: str = "vision"
) -> Any:
    """Read and check config/<kind>/<name>.yaml, of a modality.

    Args:
        key: where the configuration names it.
    Returns:
        Task, TextTask, Encoder, TextEncoder or Mode; `path` relative to the working directory.
    Raises:
        UserError: there is none of this name, or what is wrong with it.
    """
    folder, word = Path(basedir) / "config" / kind, kind.removesuffix("s")
    known = {composed(path.stem): path for path in sorted(folder.glob("*.yaml"))}
    if name not in known:  # not path.exists(): a name is no path, and case counts everywhere
        raise UserError(
            f"There is no {word} {name!r} ({key} in the configuration)"
            f"{nearest(name, list(known))}; each {word} is a file config/{kind}/NAME.yaml."
        )
    content, where = read_yaml(known[name]), f"config/{kind}/{name}.yaml"
    if kind != "modes":
        checks.check_modality(content, kind, key, modality, where)
    definition: Any = hold(FORMS[kind][modality], content, where)
    if isinstance(definition, Mode):
        checks.check_mode(name, definition, key, modality, where)
        return definition
    if kind == "encoders":
        definition = _with_published(definition, where, Path(basedir))
    if definition.path is not None:
        local = {"path": local_path(definition.path, basedir)}
        definition = definition.model_copy(update=local)
    checks.check_definition(definition, where)
    return definition


def _with_published(encoder: AnyEncoder, where: str, basedir: Path) -> AnyEncoder:
    """An encoder whose published weights are of modes and tasks that there are, and where they
    lie, relative to the working directory."""
    for mode, of_tasks in encoder.published.items():
        for kind, names in (("modes", [mode]), ("tasks", list(of_tasks or {}))):
            known = [composed(path.stem) for path in (basedir / "config" / kind).glob("*.yaml")]
            for name in [name for name in names if name not in known]:
                raise UserError(
                    f"published in {where} has {name!r}, which is none of config/{kind}"
                    f"{nearest(name, known)}; correct it."
                )
    published = local_checkpoints(encoder.published, basedir)
    checks.check_published(published, f"{where}: published")
    return encoder.model_copy(update={"published": published}) if published else encoder


def local_checkpoints(published: Checkpoints, basedir: PathLike) -> Checkpoints:
    """Published weights whose paths are relative to the working directory."""

    def local(given: str | Checkpoint | None) -> str | Checkpoint | None:
        if not isinstance(given, Checkpoint) or given.path is None:
            return given
        return given.model_copy(update={"path": local_path(given.path, basedir)})

    return {m: of and {t: local(x) for t, x in of.items()} for m, of in published.items()}
