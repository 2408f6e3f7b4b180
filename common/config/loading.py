"""Reads and writes the YAML files. Errors name every fault with its file, key, value and bound."""

import difflib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from common.config.study import Strict, Study
from common.errors import ConfigError
from common.untrusted_text import shown

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
"""The files that hemofed ships."""

Model = TypeVar("Model", bound=Strict)


def find(name: str, kind: str) -> Path:
    """Return the path of the file `name`, or else of the shipped `configs/<kind>/<name>.yaml`.

    Raises:
        ConfigError: there is neither. The message lists the shipped names.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():  # `data fetch` leaves a folder of a config's name
        return path
    shipped = {file.stem: file for file in sorted((CONFIGS / kind).glob("*.yaml"))}
    if name not in shipped:
        raise ConfigError(
            f"{name}: no such file, and no config that hemofed ships; those are: "
            f"{', '.join(shipped)}"
        )
    return shipped[name]


class _Loader(yaml.SafeLoader):
    """Refuses a mapping with a key twice; PyYAML alone would silently drop the first value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value!r} is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or does not hold a mapping.
    """
    return _mapping(_content(path), path)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error


def _mapping(text: bytes, path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(text.decode("utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def load(kind: type[Model], path: Path) -> Model:
    """Return the content of the YAML file `path` as a `kind`.

    Raises:
        ConfigError: the file cannot be read or is not a valid `kind`.
    """
    found: Model = _understood(kind, path, _content(path))
    return found


@lru_cache(maxsize=1024)
def _understood(kind: type[Any], path: Path, text: bytes) -> Any:
    """Parse the file's bytes, and cache the result under them.

    A site reads its policy several times per message, and each time the file as it is then. A
    process may simulate hundreds of sites with two files each.
    """
    return parse(kind, _mapping(text, path), str(path))


def parse(
    kind: type[Model], content: dict[str, Any], origin: str, settings: Sequence[str] = ()
) -> Model:
    """Return `content` as a `kind`.

    Args:
        kind: the model class.
        content: the keys and values.
        origin: names the source of `content` in an error.
        settings: the `--set` assignments that `content` includes; an error names those at fault.

    Raises:
        ConfigError: `content` is not a valid `kind`. The message has one line per fault.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = "\n".join(f"  {_explain(kind, fault, settings)}" for fault in error.errors())
        changed = ", changed by --set" if settings else ""
        raise ConfigError(f"{origin}{changed}: {error.error_count()} wrong\n{faults}") from None


def read_study(path: Path, settings: list[str]) -> Study:
    """Return the study of a study's file, or of a simulation's file, after the `--set` assignments.

    In a simulation's file the study is the value of `study`. A setting's key may start inside the
    study or at the top of the file: `privacy.epsilon=3` and `study.privacy.epsilon=3` are the same.

    Raises:
        ConfigError: the file, a setting or the study is not valid.
    """
    content = read_yaml(path)
    if not isinstance(content.get("study"), dict):
        return parse(Study, assign(content, settings, str(path)), str(path), settings)
    whole = [
        setting if setting.startswith(("variant=", "study.")) else f"study.{setting}"
        for setting in settings
    ]
    inner = [setting.removeprefix("study.") for setting in whole]
    return parse(Study, assign(content, whole, str(path))["study"], str(path), inner)


def assign(content: dict[str, Any], settings: list[str], origin: str) -> dict[str, Any]:
    """Return `content` without its `variants`, after the `--set` assignments, applied in order.

    `variant=NAME` merges `variants.NAME` into `content`; any other key is a dotted path into it.

    >>> content = {"rounds": 20, "variants": {"short": {"rounds": 2}}}
    >>> assign(content, ["variant=short", "privacy.epsilon=3"], "study.yaml")
    {'rounds': 2, 'privacy': {'epsilon': 3}}

    Args:
        content: the file's keys and values; it is not changed.
        settings: `key=value` each.
        origin: names the source of `content` in an error.

    Raises:
        ConfigError: a setting is not `key=value`, its value is not YAML, or there is no such
            variant.
    """
    variants = content.get("variants") or {}
    if not isinstance(variants, dict):
        raise ConfigError(f"{origin}: variants: expected names and what each changes")
    content = {key: value for key, value in content.items() if key != "variants"}
    for setting in settings:
        key, _, name = setting.partition("=")
        if key != "variant":
            content = override(content, setting)
        elif isinstance(variants.get(name), dict):
            content = merge(content, variants[name])
        else:
            known = ", ".join(variants) or "no variants"
            raise ConfigError(f"{origin}: no variant {name!r}; it has: {known}")
    return content


def override(content: dict[str, Any], assignment: str) -> dict[str, Any]:
    """Return `content` with `a.b.c=value` applied, where the value is read as YAML.

    `content` is not changed.

    Raises:
        ConfigError: the assignment is not `key=value`, or the value is not YAML.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {assignment}: expected key=value, like study.rounds=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not valid YAML: {error}") from error
    head, *rest = key.split(".")
    for part in reversed(rest):
        value = {part: value}
    return merge(content, {head: value})


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `changes` in place of its own; nested mappings are merged.

    Neither argument is changed.

    >>> merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}})
    {'a': {'b': 5, 'c': 2}, 'd': 3}
    """
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def dump(config: Strict) -> str:
    """Return YAML text that `load` reads back as the same object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _explain(kind: type[BaseModel], fault: Any, settings: Sequence[str]) -> str:
    loc = tuple(map(str, fault["loc"]))
    at, below = _set_at(loc, settings), _set_below(loc, settings)
    place = f"--set {at}" if at else ".".join(loc) or "(whole file)"
    changed = f"; changed there: --set {', --set '.join(below)}" if below else ""
    return shown(f"{place:.200}: {_wrong(kind, fault)}{changed}")


def _wrong(kind: type[BaseModel], fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        known = _keys_at(kind, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key; {hint}"
    # The key's path says more than a whole mapping or list.
    shown = fault["type"] != "missing" and not isinstance(fault["input"], Mapping | list | tuple)
    value = f" (value: {fault['input']!r:.80})" if shown else ""
    return f"{fault['msg'].removeprefix('Value error, ')}{value}"


def _set_at(loc: tuple[str, ...], settings: Sequence[str]) -> str | None:
    """Return the last assignment to the key path `loc`, or to a mapping that contains it."""
    found = [one for one in settings if _key(one) == loc[: len(_key(one))]]
    return found[-1] if found else None


def _set_below(loc: tuple[str, ...], settings: Sequence[str]) -> list[str]:
    """Return the assignments to keys inside the mapping at `loc`: one of them may be at fault."""
    return [one for one in settings if loc == _key(one)[: len(loc)] != _key(one)]


def _key(setting: str) -> tuple[str, ...]:
    return tuple(setting.partition("=")[0].split("."))


def _keys_at(kind: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Return the keys that the model at `path` inside `kind` allows."""
    for part in path:
        field = kind.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    return list(kind.model_fields)
