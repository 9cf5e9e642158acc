"""Reading and rebuilding what modules return: tensors in tuples, dicts, dataclasses, in any depth.

A *path* is the tuple of member keys that leads from a container to one of its leaves.
"""

import copy
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

__all__ = ["first_tensor", "get_leaf", "leaves", "locate", "map_leaves", "put_leaf"]

Path = tuple[Any, ...]


def _members(value: object) -> list[tuple[Hashable, Any]] | None:
    """Keys and values of a container, None for a leaf."""
    if isinstance(value, Tensor):
        return None
    # ModelOutput is a mapping and a dataclass; its mapping side hides the fields that are None.
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    return None


def _with_members(value: Any, members: Mapping[Any, object]) -> Any:
    """Copy of a container, of the same type, with some members exchanged."""
    if isinstance(value, tuple):
        items = [members.get(k, member) for k, member in enumerate(value)]
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    assignable = hasattr(value, "__setitem__")
    if not assignable and not is_dataclass(value):
        raise TypeError(
            f"a {type(value).__name__} is read-only and cannot be rebuilt with other members "
            f"{list(members)}; return a dict, a tuple or a dataclass, or edit inside the module"
        )
    changed = copy.copy(value)
    for key, member in members.items():
        if assignable:
            changed[key] = member
        else:
            # Frozen dataclasses refuse assignment, and `replace` would run __post_init__ again.
            object.__setattr__(changed, str(key), member)
    return changed


def _member_key(value: object, key: int | str, names: list[Hashable]) -> Hashable:
    """Translate a site's key into a key of this container."""
    if key in names:
        return key
    named = list(getattr(value, "_fields", ()))
    if key in named:
        return named.index(key)
    if isinstance(key, int) and -len(names) <= key < len(names):
        return names[key]
    raise KeyError(f"no member {key!r} in a {type(value).__name__} with members {named or names}")


def _first_path(value: object) -> Path | None:
    if isinstance(value, Tensor):
        return ()
    for key, member in _members(value) or ():
        rest = _first_path(member)
        if rest is not None:
            return (key, *rest)
    return None


def locate(value: object, key: int | str | None) -> Path:
    """Path of the tensor that a site's key names: the first one, depth first, without a key."""
    if key is None:
        start: Path = ()
    else:
        pairs = _members(value)
        if pairs is None:
            raise KeyError(
                f"key {key!r} needs a container, got a {type(value).__name__}; leave the key out"
            )
        start = (_member_key(value, key, [name for name, _ in pairs]),)
    rest = _first_path(get_leaf(value, start))
    if rest is None:
        raise TypeError(f"a {type(value).__name__} without a tensor (key {key!r}) is not a site")
    return (*start, *rest)


def get_leaf(value: Any, path: Path) -> Any:
    """Follow `path` into `value`."""
    for key in path:
        value = (
            value[key] if isinstance(value, (tuple, list, Mapping)) else getattr(value, str(key))
        )
    return value


def put_leaf(value: Any, path: Path, leaf: object) -> Any:
    """Copy of `value` with the leaf at `path` exchanged; all other members are the same objects."""
    if not path:
        return leaf
    member = put_leaf(get_leaf(value, path[:1]), path[1:], leaf)
    return _with_members(value, {path[0]: member})


def leaves(value: object, path: Path = ()) -> list[tuple[Path, Any]]:
    """All leaves with their paths, depth first."""
    pairs = _members(value)
    if pairs is None:
        return [(path, value)]
    return [leaf for key, member in pairs for leaf in leaves(member, (*path, key))]


def map_leaves(function: Callable[[Path, Any], Any], value: Any, path: Path = ()) -> Any:
    """Copy of `value` with every leaf exchanged for `function(path, leaf)`."""
    pairs = _members(value)
    if pairs is None:
        return function(path, value)
    mapped = {key: map_leaves(function, member, (*path, key)) for key, member in pairs}
    changed = {key: mapped[key] for key, member in pairs if mapped[key] is not member}
    return _with_members(value, changed) if changed else value


def first_tensor(value: object) -> Tensor:
    """First tensor of `value`, depth first.

    Raises:
        TypeError: When there is none.
    """
    tensor: Tensor = get_leaf(value, locate(value, None))
    return tensor
