"""The reference pages that are made from the code: configuration.md from the JSON schemas and
config.yaml, command-line.md from the parser. `make docs` writes them; a test holds them to this."""

import argparse
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "docs" / "reference"
Schema = dict[str, Any]
MADE = "<!-- Made by tools/docs/pages.py: `make docs` writes this page again. -->"
NONE = "–"


# --- Configuration -------------------------------------------------------------------------------

OF = {
    "tasks": (
        "A task",
        "`config/tasks/NAME.yaml` is one task: a labelled image set, or a labelled set of texts.",
    ),
    "encoders": (
        "An encoder",
        "`config/encoders/NAME.yaml` is one encoder: a pretrained CLIP, or a pretrained T5.",
    ),
    "modes": (
        "A mode",
        "`config/modes/NAME.yaml` is one mode: which tensors move, and whether f is linearized.",
    ),
}
START = """\
# Configuration

A configuration is `config.yaml` with overlays over it, each a YAML file of single keys. An
unknown key is an error; `task-arithmetic check --config FILE` reads a configuration without
running it. Tasks, encoders and modes are files of their own. This page is made from the JSON
schemas in `config/schemas`, with which editors complete and check these files; `task-arithmetic
schema` prints them.

Each key has an anchor: its path, such as [`finetune.steps`](#finetune.steps) or
[`tasks.templates`](#tasks.templates). The default is what `config.yaml` says, and else what is
assumed without the key; – means that there is none.

## The configuration

"""


def configuration() -> str:
    """The page of all keys."""
    defaults = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    pages = [MADE, "", START.rstrip("\n"), ""]
    pages += _tables(_schema("configuration"), "", defaults, "")
    for kind, (title, text) in OF.items():
        schema = _schema(kind)
        pages += [f"## {title}", "", text, ""]
        for form in schema.get("anyOf", [schema]):
            own = _resolved(form, schema["$defs"])
            pages += [f"### {own['description'].rstrip('.')}"] if form is not schema else []
            pages += [""] if form is not schema else []
            whole = {**own, "$defs": schema["$defs"], "description": ""}
            second = kind if form in (schema, *schema.get("anyOf", [])[:1]) else f"texts.{kind}"
            pages += _tables(whole, second, {}, "####")
    return "\n".join(pages).rstrip("\n") + "\n"


def _schema(name: str) -> Schema:
    found: Schema = json.loads((ROOT / f"config/schemas/{name}.json").read_text("utf-8"))
    return found


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    reference = schema.get("$ref")
    return definitions[reference.rsplit("/", 1)[1]] if reference else schema


def _tables(schema: Schema, place: str, defaults: Any, level: str) -> Iterator[str]:
    """The lines of a schema's table, and of those that it refers to, each where it is first."""
    definitions: Schema = schema["$defs"]
    where: dict[str, str] = {}  # of those that have keys, the path where it is first
    waiting: list[tuple[str, Schema, Any]] = [(place, schema, defaults)]

    def link(name: str) -> str:
        return f"[mapping](#{where[name]})" if name in where else "`{}`"

    while waiting:
        path, own, found = waiting.pop(0)
        properties, within = own.get("properties", {}), []
        if path != place:
            yield from (f"{level or '###'} {path}", "")
            mark = (
                f'<a id="{path}"></a>' if "." in path or "_" in path else ""
            )  # else the heading's
            yield from (f"{mark}{_sentence(own['description'])}", "")
        yield from ("| Key | Value | Default | Meaning |", "| :-- | :-- | :-- | :-- |")
        for key, value in properties.items():
            full = f"{path}.{key}" if path else key
            default = found.get(key) if isinstance(found, dict) else None
            for name in _references(value):
                if name not in where and definitions[name].get("properties"):
                    where[name] = full
                    under = default if "$ref" in str(value.get("anyOf", [value])[0]) else None
                    within.append((full, definitions[name], under))
            # A section's own heading has the anchor of its key.
            mark = "" if full in where.values() else f'<a id="{full}"></a>'
            has = isinstance(found, dict) and key in found
            shown = default if has else value.get("default", NONE)
            if shown == NONE:
                cell = "required" if key in own.get("required", []) else NONE
            elif isinstance(shown, dict) and len(json.dumps(shown)) > 40:
                cell = "below" if full in where.values() else "as in `config.yaml`"
            else:
                cell = _value(shown)
            text = _cell(value.get("description", ""))
            yield f"| {mark}`{key}` | {_kind(value, link)} | {cell} | {text} |"
        yield ""
        waiting = within + waiting


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rsplit("/", 1)[1]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _kind(schema: Schema, link: Callable[[str], str]) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        return link(schema["$ref"].rsplit("/", 1)[1])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            kinds = dict.fromkeys(_kind(each, link) for each in schema[key])
            return ", or ".join(kinds)
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind == "array":
        items = _kind(schema.get("items", {}), link)
        words = r"^(text|number|whole number)\b"
        least, most = schema.get("minItems"), schema.get("maxItems")
        count = "two " if least == most == 2 else ""
        return f"list of {count}{re.sub(words, lambda found: f'{found[1]}s', items)}"
    if kind == "object":
        values = schema.get("additionalProperties")
        of = f": name → {_kind(values, link)}" if isinstance(values, dict) and values else ""
        of = re.sub(r"(, or null| \(or null\))+$", " (or null)", of)  # at any depth
        return f"mapping{of}"
    if kind in ("number", "integer"):
        word = {"number": "number", "integer": "whole number"}[kind]
        signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        limits = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
        return f"{word} {', '.join(limits)}".rstrip()
    return {"string": "text", "boolean": "true or false", "null": "null"}.get(str(kind), "any")


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith(".") else f"{text[:1].upper()}{text[1:]}."


def _value(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _cell(text: str) -> str:
    """A text within a table: {braces} and the like are code, a | would end the cell."""
    plain = " ".join(text.split()).replace("|", "&#124;")
    return plain.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


# --- Command line --------------------------------------------------------------------------------

COMMANDS = """\
# Command line

`task-arithmetic COMMAND` does what a command says. A mistake is one sentence on stderr and exit
status 1; a mistyped option has exit status 2. Commands with `--json` print the same as JSON, for
machines. `task-arithmetic COMMAND --help` prints what stands here, and `task-arithmetic
--version` the version. `source <(task-arithmetic completion bash)` lets a shell complete all of
it.
"""
STAGES = """\
## stage

`task-arithmetic stage NAME` runs one stage, as the workflow does in each of its jobs; a job's log
begins with its command. All files that a stage reads and writes are options, and `--settings` is
its slice of the configuration as JSON, so that a job can be repeated by hand. Every stage also
takes `--job LOG`, the job's log beside which its record goes, and `--code`, the label of the code
that the run was planned with. Options in brackets may be left out.
"""


def command_line() -> str:
    """The page of all commands, and of all stages."""
    from task_arithmetic.cli import parser
    from task_arithmetic.commands.catalogue import FOR_PEOPLE

    commands = _choices(parser())
    lines = [MADE, "", *COMMANDS.splitlines(), "", "| Command | What it does |", "| :-- | :-- |"]
    for name, known in FOR_PEOPLE.items():
        lines.append(f"| [`{name}`](#{name}) | {_cell(known.text)} |")
    lines += ["| [`stage`](#stage) | run one stage, as the workflow does |", ""]
    for name, known in FOR_PEOPLE.items():
        options = _options(commands[name])
        lines += [f"## {name}", "", _sentence(_code(known.text)), ""]
        lines += ["```text", *_usage(f"task-arithmetic {name}", options), "```", ""]
        lines += ["| Option | Default | Meaning |", "| :-- | :-- | :-- |"]
        for option in options:
            shown = " ".join(filter(None, [_name(option), _metavar(option)]))
            lines.append(f"| `{shown}` | {_default(option)} | {_meaning(option)} |")
        lines += ["", f"Example: `task-arithmetic {name} {known.example}`", ""]
    lines += [*STAGES.splitlines(), "", "| Stage | What it does | Options |", "| :-- | :-- | :-- |"]
    for name, stage in _choices(commands["stage"]).items():
        own = [each for each in _options(stage) if each.dest not in ("job", "code")]
        names = ", ".join(f"`{_optional(each, _name(each))}`" for each in own)
        lines.append(f'| <a id="stage-{name}"></a>`{name}` | {stage.description} | {names} |')
    lines += ["", *_meanings(commands["stage"])]
    return "\n".join(lines) + "\n"


def _meanings(stages: argparse.ArgumentParser) -> Iterator[str]:
    """What the stages' options mean: each means the same in all."""
    every = {
        option.dest: option for stage in _choices(stages).values() for option in _options(stage)
    }
    yield from ("| Option of a stage | Meaning |", "| :-- | :-- |")
    for _, option in sorted(every.items()):
        yield f"| `{_name(option)}` | {_cell(option.help or '')} |"


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise LookupError("no commands")


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [each for each in parser._actions if not isinstance(each, argparse._HelpAction)]


def _name(option: argparse.Action) -> str:
    return option.option_strings[0] if option.option_strings else option.dest.upper()


def _metavar(option: argparse.Action) -> str:
    if not option.option_strings or option.nargs == 0:
        return ""
    one = str(option.metavar or option.dest.upper())
    if option.choices:
        one = "{" + ",".join(map(str, option.choices)) + "}"
    return f"{one} ..." if option.nargs in ("+", "*") else one


def _optional(option: argparse.Action, shown: str) -> str:
    place_needed = not option.option_strings and option.nargs not in ("*", "?")
    return shown if option.required or place_needed else f"[{shown}]"


def _usage(start: str, options: list[argparse.Action]) -> list[str]:
    parts = []
    for option in sorted(options, key=lambda each: not each.option_strings):
        shown = " ".join(filter(None, [_name(option), _metavar(option)]))
        if not option.option_strings:
            shown = "{" + ",".join(option.choices) + "}" if option.choices else shown
            shown += " ..." * (option.nargs in ("*", "+"))
        parts.append(_optional(option, shown).replace(" ", "\0"))
    indent = " " * (len("usage: ") + 4)
    wrapped = textwrap.wrap(
        f"usage: {start} {' '.join(parts)}",
        width=88,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in wrapped]


def _default(option: argparse.Action) -> str:
    if _optional(option, "") == "":
        return "required"
    return f"`{option.default}`" if option.default not in (None, [], "", False) else NONE


def _meaning(option: argparse.Action) -> str:
    several = ", several times" if isinstance(option, argparse._AppendAction) else ""
    choices = f" ({', '.join(f'`{each}`' for each in option.choices)})" if option.choices else ""
    text = option.help or ""
    return _cell(text) + choices + several * ("several" not in text)


def _code(text: str) -> str:
    before, colon, command = text.partition(": source ")
    return f"{before}: `source {command}`" if colon else text


PAGES = {"configuration.md": configuration, "command-line.md": command_line}


def main() -> None:
    for name, make in PAGES.items():
        path, text = PLACE / name, make()
        if not path.is_file() or path.read_text("utf-8") != text:  # else a server would reload
            path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
