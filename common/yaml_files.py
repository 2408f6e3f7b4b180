"""Reading and writing the YAML files: every fault named with its file, key, value and bound."""

import difflib
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from common.config import Strict, Study
from common.errors import ConfigError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
"""The files that hemofed ships."""

Model = TypeVar("Model", bound=Strict)


def find(name: str, kind: str) -> Path:
    """The file `name`, or the config of that name that hemofed ships in `configs/<kind>`."""
    path = Path(name)
    shipped = CONFIGS / kind / f"{name}.yaml"
    return shipped if shipped.exists() and not path.exists() else path


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
        content = yaml.safe_load(text.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def load(kind: type[Model], path: Path) -> Model:
    """Read `path` as a `kind`. Raises ConfigError naming file, key, value and bound."""
    found: Model = _understood(kind, path, _content(path))
    return found


@lru_cache(maxsize=64)
def _understood(kind: type[Any], path: Path, text: bytes) -> Any:
    """Kept by the file's bytes: a site's policy is read several times a message, and holds as it
    stands at that moment."""
    return parse(kind, _mapping(text, path), str(path))


def parse(kind: type[Model], content: dict[str, Any], origin: str) -> Model:
    """Validate `content` as a `kind`; `origin` names its source in an error."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = "\n".join(f"  {_explain(kind, fault)}" for fault in error.errors())
        raise ConfigError(f"{origin}: {error.error_count()} wrong\n{faults}") from None


def read_study(path: Path, settings: list[str]) -> Study:
    """The study in a study's YAML, or under `study:` in a simulation's, with settings applied.

    In a simulation's, keys start at the study or at the file: `privacy.epsilon=3` and
    `study.privacy.epsilon=3` are the same. Raises ConfigError as `assign` does.
    """
    content = read_yaml(path)
    if not isinstance(content.get("study"), dict):
        return parse(Study, assign(content, settings, str(path)), str(path))
    whole = [
        setting if setting.startswith(("variant=", "study.")) else f"study.{setting}"
        for setting in settings
    ]
    return parse(Study, assign(content, whole, str(path))["study"], str(path))


def assign(content: dict[str, Any], settings: list[str], origin: str) -> dict[str, Any]:
    """`content` with `--set` assignments applied in order, less its `variants`.

    `variant=NAME` lays `variants.NAME` over it; any other key is a path into it. `origin` names
    its source in an error. Raises ConfigError: a variant that does not exist, not key=value.
    """
    variants = content.get("variants") or {}
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


def _explain(kind: type[BaseModel], fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
    if fault["type"] == "extra_forbidden":
        known = _keys_at(kind, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{path}: unknown key; {hint}"
    value = "" if fault["type"] == "missing" else f" (value: {fault['input']!r:.80})"
    return f"{path}: {fault['msg']}{value}"


def _keys_at(kind: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The keys that the model at `path` inside `kind` allows."""
    for part in path:
        field = kind.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    return list(kind.model_fields)
