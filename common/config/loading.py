"""Reading and writing the YAML files: every fault named with its file, key, value and bound."""

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
    """The file `name`, or the config of that name that hemofed ships in `configs/<kind>`.

    Raises ConfigError, with the names that there are, when it is neither.
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
    """Refuses a key that is there twice: the first value would be lost without a word."""

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
    """The mapping in a YAML file. Raises ConfigError: no such file, not YAML, not a mapping."""
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
    """Read `path` as a `kind`. Raises ConfigError naming file, key, value and bound."""
    found: Model = _understood(kind, path, _content(path))
    return found


@lru_cache(maxsize=1024)
def _understood(kind: type[Any], path: Path, text: bytes) -> Any:
    """Kept by the file's bytes: a site's policy is read several times a message, and holds as it
    stands at that moment. A process may simulate hundreds of sites, of two files each."""
    return parse(kind, _mapping(text, path), str(path))


def parse(
    kind: type[Model], content: dict[str, Any], origin: str, settings: Sequence[str] = ()
) -> Model:
    """Validate `content` as a `kind`; `origin` names its source in an error.

    settings: the assignments that went into `content`; an error names those it comes from.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = "\n".join(f"  {_explain(kind, fault, settings)}" for fault in error.errors())
        changed = ", changed by --set" if settings else ""
        raise ConfigError(f"{origin}{changed}: {error.error_count()} wrong\n{faults}") from None


def read_study(path: Path, settings: list[str]) -> Study:
    """The study in a study's YAML, or under `study:` in a simulation's, with settings applied.

    In a simulation's, keys start at the study or at the file: `privacy.epsilon=3` and
    `study.privacy.epsilon=3` are the same. Raises ConfigError as `assign` does.
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
    """`content` with `--set` assignments applied in order, less its `variants`.

    `variant=NAME` lays `variants.NAME` over it; any other key is a path into it. `origin` names
    its source in an error. Raises ConfigError: a variant that does not exist, not key=value.
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
    """`content` with `a.b.c=value` applied (value read as YAML); the argument is not changed."""
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
    """`base` with `changes` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def dump(config: Strict) -> str:
    """The YAML text that `load` reads back as the same object."""
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
    # A whole mapping or list says less than the key's path does.
    shown = fault["type"] != "missing" and not isinstance(fault["input"], Mapping | list | tuple)
    value = f" (value: {fault['input']!r:.80})" if shown else ""
    return f"{fault['msg'].removeprefix('Value error, ')}{value}"


def _set_at(loc: tuple[str, ...], settings: Sequence[str]) -> str | None:
    """The last assignment to the place `loc`, or to what holds it."""
    found = [one for one in settings if _key(one) == loc[: len(_key(one))]]
    return found[-1] if found else None


def _set_below(loc: tuple[str, ...], settings: Sequence[str]) -> list[str]:
    """The assignments to what the place `loc` holds: one of them may be at fault."""
    return [one for one in settings if loc == _key(one)[: len(loc)] != _key(one)]


def _key(setting: str) -> tuple[str, ...]:
    return tuple(setting.partition("=")[0].split("."))


def _keys_at(kind: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The keys that the model at `path` inside `kind` allows."""
    for part in path:
        field = kind.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    return list(kind.model_fields)
