"""Strict settings from YAML and `key=value`: errors name the file, the line, the key and the nearest right key."""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from danlu.ledger.errors import UserError

Place = tuple[str | int, ...]  # the way to a value: keys and list positions
COMMAND_LINE = "command line"


class Settings(BaseModel):
    """Typed, frozen settings: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


S = TypeVar("S", bound=Settings)


def load_settings(cls: type[S], path: Path, overrides: list[str] | None = None) -> S:
    """Reads a YAML file, lays `a.b=value` overrides over it and checks the whole against `cls`.

    Raises UserError naming file, line, key and the nearest right key; all errors of the file at once.
    """
    content, places = read_yaml(path)
    for override in overrides or []:
        _override(content, places, override)
    return check(cls, content, places)


def settings_from(cls: type[S], overrides: list[str]) -> S:
    """Settings from `key=value` alone, over the defaults. Raises UserError as `load_settings` does."""
    content: dict[str, Any] = {}
    places: dict[Place, str] = {}
    for override in overrides:
        _override(content, places, override)
    return check(cls, content, places)


def check(cls: type[S], content: dict[str, Any], places: dict[Place, str] | None = None) -> S:
    """Checks plain values against `cls`; `places` says where each value was written.

    Raises UserError listing every error with its place.
    """
    try:
        # JSON is the strict mode in which a path is a string and a tuple a list, as in YAML.
        return cls.model_validate_json(json.dumps(content, ensure_ascii=False))
    except ValidationError as error:
        lines = [_explain(cls, content, places or {}, details) for details in _told(error.errors())]
        raise UserError("\n".join(lines)) from None


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Place, str]]:
    """A YAML mapping as plain values, and for each key the "file:line" where it stands.

    Raises UserError for a missing file, a wrong encoding, broken YAML and keys that come twice.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.yaml")], n=1)
        do = f"did you mean {path.parent / near[0]}?" if near else "name a YAML file, for example recipes/tiny.yaml"
        raise UserError("no such file", where=str(path), do=do) from None
    except IsADirectoryError:
        raise UserError("a folder, not a YAML file", where=str(path), do="name the .yaml file in it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start})", where=str(path), do="save the file as UTF-8") from None
    numbered = list(enumerate(text.splitlines(), 1))
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        _refuse_full_width_colon(path, numbered[line - 1 :: -1])
        raise UserError(f"not YAML: {error.problem}", where=f"{path}:{line}", do="mend that line") from None
    places: dict[Place, str] = {(): f"{path}:1"}
    content = _build(root, (), path, places) if root is not None else {}
    if not isinstance(content, dict):
        _refuse_full_width_colon(path, numbered)
        raise UserError("a recipe is a mapping of keys to values", where=f"{path}:1", do="begin with `name: …`")
    return content, places


def describe(cls: type[Settings], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every setting of `cls` and the settings inside it as (key, type, default, meaning)."""
    for name, info in cls.model_fields.items():
        key = prefix + (info.alias or name)
        inner = _settings_in(info.annotation)
        yield key, type_name(info.annotation), _default(info), info.description or ""
        many = "[]" if _is_list(info.annotation) else ""
        for part in inner:
            yield from describe(part, f"{key}{many}.")


def type_name(annotation: Any) -> str:
    """A type as a user writes it: `number`, `whole number`, `text`, `one of a, b`, `list of …`."""
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", type(None): "null"}
    if annotation in plain:
        return plain[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(part) for part in arguments))
    if str(origin) == "typing.Literal":
        return "one of " + ", ".join(str(value) for value in arguments)
    if origin in (list, tuple):
        inner = [part for part in arguments if part is not Ellipsis]
        return "list of " + ", ".join(dict.fromkeys(type_name(part) for part in inner))
    if origin is dict:
        return f"mapping of {type_name(arguments[0])} to {type_name(arguments[1])}"
    return "section" if _settings_in(annotation) else getattr(annotation, "__name__", str(annotation))


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, only true and false are booleans, and dates stay text."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    own = {
        "tag:yaml.org,2002:float": re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?$|[-+]?\.inf$|\.nan$"),
        "tag:yaml.org,2002:bool": re.compile(r"(true|True|false|False)$"),
    }
    replaced = {*own, "tag:yaml.org,2002:timestamp"}
    table = {
        first: [(tag, pattern) for tag, pattern in entries if tag not in replaced]
        for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for tag, pattern in own.items():
        for first in "-+.0123456789" if tag.endswith("float") else "tTfF":
            table.setdefault(first, []).append((tag, pattern))
    return table


_Loader.yaml_implicit_resolvers = _resolvers()


def _build(node: yaml.Node, at: Place, path: Path, places: dict[Place, str]) -> Any:
    """Plain values out of YAML nodes, noting where each stands."""
    places[at] = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            where = f"{path}:{key_node.start_mark.line + 1}"
            if key in built:
                raise UserError(f"key `{key}` comes twice", where=where, do="keep one of them")
            built[key] = _build(value_node, (*at, key), path, places)
            places[(*at, key)] = where
        return built
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*at, index), path, places) for index, item in enumerate(node.value)]
    return _scalar(node, places[at])


def _scalar(node: yaml.Node, where: str) -> Any:
    try:
        return _Loader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"not a value: {node.value!r} ({error})", where=where, do="put text in quotes") from None


def _refuse_full_width_colon(path: Path, lines: list[tuple[int, str]]) -> None:
    """Raises UserError for the first of the numbered `lines` with the colon of Chinese, in which YAML sees no key."""
    for number, line in lines:
        if found := re.search(r"([A-Za-z_][\w.]*)\s*：", re.sub(r"(^|\s)#.*", "", line)):
            do = f"write `{found[1]}: `, with a half-width colon and a blank"
            raise UserError(f"the colon after `{found[1]}` is full-width (：)", where=f"{path}:{number}", do=do)


def _override(content: dict[str, Any], places: dict[Place, str], override: str) -> None:
    """Lays one `a.b=value` over `content`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"`{override}` is not key=value", where=COMMAND_LINE, do="write for example sft.train.epochs=1")
    steps: list[str | int] = [int(step) if step.isdigit() else step for step in key.split(".")]
    inner: Any = content
    for depth, step in enumerate(steps[:-1]):
        if isinstance(inner, list) and isinstance(step, int) and step < len(inner):
            inner = inner[step]
            continue
        if not isinstance(inner, dict):
            raise _not_there(inner, steps[:depth], key)
        if inner.get(str(step)) is None:
            inner[str(step)] = {}
            places[tuple(steps[: depth + 1])] = COMMAND_LINE
        inner = inner[str(step)]
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        raise UserError(f"not a YAML value: {text!r}", where=COMMAND_LINE, do="put it in quotes") from None
    found: dict[Place, str] = {}
    value = None if node is None else _build(node, tuple(steps), Path(COMMAND_LINE), found)
    if isinstance(inner, list) and isinstance(steps[-1], int) and steps[-1] < len(inner):
        inner[steps[-1]] = value
    elif isinstance(inner, dict):
        inner[str(steps[-1])] = value
    else:
        raise _not_there(inner, steps[:-1], key)
    places.update(dict.fromkeys([*found, tuple(steps)], COMMAND_LINE))


def _not_there(inner: Any, at: list[str | int], key: str) -> UserError:
    """Why a key below the value `inner` cannot be set."""
    name = ".".join(map(str, at))
    if isinstance(inner, list):
        what, do = f"`{name}` is a list of {len(inner)}", f"write a position from 0 to {len(inner) - 1}, or all of it"
    else:
        what, do = f"`{name}` is {json.dumps(inner, ensure_ascii=False, default=str)[:80]}", f"set {name} as a whole"
    return UserError(f"{what}, so `{key}` cannot be set", where=COMMAND_LINE, do=do)


def _told(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """The errors; of several items that a list lacks only the last, whose position says how many it needs."""
    last = {error["loc"][:-1]: error for error in errors if _lacks_item(error)}
    return [error for error in errors if not _lacks_item(error) or error is last[error["loc"][:-1]]]


def _lacks_item(error: ErrorDetails) -> bool:
    return error["type"] == "missing" and isinstance(error["input"], list)


def _explain(cls: type[Settings], content: Any, places: dict[Place, str], details: ErrorDetails) -> str:
    """One error of pydantic's as "file:line: key: what", and below it what to do."""
    at, kind, given = _real_place(content, details["loc"]), details["type"], details.get("input")
    length = details.get("ctx", {}).get("max_length") if kind == "too_long" else None
    if _lacks_item(details):
        at, kind, length = at[:-1], "too_short", int(at[-1]) + 1
    here = _Kinds.at(cls, content, at)
    if here.tag and kind in ("union_tag_invalid", "union_tag_not_found"):
        at, kind = (*at, here.tag), "missing_tag" if here.tag not in given else "literal_error"
        given = given.get(here.tag)
    where = next((places[at[:end]] for end in range(len(at), -1, -1) if at[:end] in places), COMMAND_LINE)
    key = ".".join(map(str, at))
    if kind == "extra_forbidden":
        return f"{where}: `{key}` is not a setting\n  → {_known(str(at[-1]), _Kinds.at(cls, content, at[:-1]))}"
    if kind == "missing_tag":
        return f"{where}: `{key}` is missing\n  → set it to {_either(here.having(*details['input']) or here.names)}"
    if kind == "missing":
        return f"{where}: `{key}` is missing\n  → set it in the file or as {key}=…"
    if kind == "value_error":
        message = details["msg"].removeprefix("Value error, ")
        where = _blamed(message, at, places) or where
        return f"{where}: `{key}`: {message}" if key else f"{where}: {message}"
    message = details["msg"].replace("Input should be", "should be").replace("a valid array", "a list")
    if at[-1:] == (here.tag,):
        message = f"should be {_either(here.names)}"
    if length is not None:
        message = f"should be a list of {length}"
    told = f"{where}: `{key}`: {message}, but is {json.dumps(given, ensure_ascii=False, default=str)[:80]}"
    if kind == "literal_error":
        choices = re.findall(r"[^\s',]+", message.removeprefix("should be"))
        near = difflib.get_close_matches(str(given), choices, n=1)
        return f"{told}\n  → did you mean `{near[0]}`?" if near else told
    better = _better(kind, given, here)
    if better and where == COMMAND_LINE:
        better = f"'{key}={better}'"  # in quotes, for a shell has its own meaning for brackets
    return f"{told}\n  → write {better}" if better else told


def _blamed(message: str, at: Place, places: dict[Place, str]) -> str | None:
    """Where the keys below `at` that a message names were written; the command line goes before the file."""
    named = [(*at, *dotted.split(".")) for dotted in re.findall(r"\w+(?:\.\w+)*", message)]
    ends = [name[:end] for name in named for end in range(len(name), len(at), -1)]
    found = [places[end] for end in ends if end in places]
    return COMMAND_LINE if COMMAND_LINE in found else next(iter(found), None)


def _known(key: str, here: _Kinds) -> str:
    """What to do about an unknown key: the section or kind that has it, or the nearest of those that may stand here."""
    known = here.keys(here.chosen)
    fields = [(name, info.annotation) for one in here.chosen for name, info in one.model_fields.items()]
    below = [f"{name}.{key}" for name, section in fields if key in getattr(section, "model_fields", ())]
    near = below or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean `{near[0]}`?"
    elsewhere = difflib.get_close_matches(key, here.keys(here.classes), n=1, cutoff=0.7)
    if elsewhere:
        told = f"`{elsewhere[0]}` belongs to {here.tag} {_either(here.having(elsewhere[0]))}"
        return f"{told}, but {here.tag} is {here.value} here: change it, or remove `{key}`"
    return "known here: " + ", ".join(sorted(known))


def _better(kind: str, given: Any, here: _Kinds) -> str | None:
    """A word that stands for a list or for settings, written as one."""
    listed = kind == "list_type"
    if not isinstance(given, str):
        return None
    if here.classes and (pair := re.fullmatch(r"([A-Za-z_]\w*)\s*：\s*(.*)", given)):
        return f"{{{pair[1]}: {pair[2]}}}"
    if given in here.names:
        settings = f"{{{here.tag}: {given}}}"
        return f"[{settings}]" if listed else settings
    words = filter(None, (word.strip() for word in re.split("[,，、]", given)))
    return f"[{', '.join(words)}]" if listed and not here.classes else None


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


@dataclass(frozen=True)
class _Kinds:
    """The settings that the value at a place may be. Of a union, the `tag`, a key, tells which: by `value`."""

    classes: list[type[Settings]]
    tag: str | None
    value: Any

    @classmethod
    def at(cls, top: type[Settings], content: Any, at: Place) -> _Kinds:
        """What `content`, checked against `top`, may have at a place."""
        here = cls([top], None, None)
        for step in at:
            content = content.get(step) if isinstance(content, dict) else content[int(step)]
            classes, tag = here.classes, here.tag
            if isinstance(step, str):
                owners = [(name, info) for one in here.chosen for name, info in one.model_fields.items()]
                fields = [info for name, info in owners if step in (name, info.alias)]
                classes = list(dict.fromkeys(inner for info in fields for inner in _settings_in(info.annotation)))
                tag = next(filter(None, map(_tag_of, fields)), None)
            here = cls(classes, tag, content.get(tag) if isinstance(content, dict) else None)
        return here

    @property
    def chosen(self) -> list[type[Settings]]:
        """Those that the tag tells, or all."""
        return [one for one in self.classes if not self.tag or self.value in self._values(one)] or self.classes

    @property
    def names(self) -> list[str]:
        """The values of the tag."""
        return [str(value) for one in self.classes for value in self._values(one)]

    def having(self, *keys: str) -> list[str]:
        """The values of the tag whose settings have all these keys."""
        return [str(value) for one in self.classes if {*keys} <= self.keys([one]) for value in self._values(one)]

    def keys(self, classes: list[type[Settings]]) -> set[str]:
        return {info.alias or name for one in classes for name, info in one.model_fields.items()}

    def _values(self, one: type[Settings]) -> tuple[Any, ...]:
        return get_args(one.model_fields[self.tag].annotation) if self.tag else ()


def _tag_of(field: Any) -> str | None:
    """The key by which a union of settings is told apart, in a list too; None for any other type."""
    if isinstance(field, FieldInfo) and isinstance(field.discriminator, str):
        return field.discriminator
    inside = (field.annotation,) if isinstance(field, FieldInfo) else get_args(field)
    return next(filter(None, map(_tag_of, inside)), None)


def _real_place(content: Any, loc: tuple[str | int, ...]) -> Place:
    """pydantic's place without the names of union members that it puts between keys."""
    at: list[str | int] = []
    for position, step in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(content, dict) and (step in content or (last and isinstance(step, str))):
            at.append(step)
            content = content.get(step)
        elif isinstance(content, list) and isinstance(step, int):
            at.append(step)
            content = content[step] if step < len(content) else None
    return tuple(at)


def _settings_in(annotation: Any) -> list[type[Settings]]:
    """The settings classes that a type may hold, in a list, union or mapping too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation] if issubclass(annotation, Settings) else []
    return [inner for part in get_args(annotation) for inner in _settings_in(part)]


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) in (list, tuple) or any(_is_list(part) for part in get_args(annotation))


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=False)
    values = value if isinstance(value, list) else [value]
    if value is PydanticUndefined or any(isinstance(one, BaseModel) for one in values):
        return ""
    return json.dumps(value, ensure_ascii=False, default=str)
