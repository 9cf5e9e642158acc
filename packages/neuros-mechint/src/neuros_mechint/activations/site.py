"""A site names a tensor inside a model."""

import ast
import difflib
import fnmatch
import functools
import json
import operator
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuros_mechint.activations._container import first_tensor
from neuros_mechint.activations._hooks import watch
from neuros_mechint.activations._state import preserved

__all__ = ["Site", "SiteInfo", "SiteLike", "sites"]

_GRAMMAR = re.compile(
    r"""(?P<path>.*?)
    (?: :(?P<io>in|out) (?: \.(?P<key> -?\d+ | [A-Za-z_][\w-]* | "(?:[^"\\]|\\.)*" ) )? )?
    (?: @(?P<call>\d+) )?
    (?: \[(?P<index> (?: [-\d\s,:.\[\]] | None | True | False )* )\] )?""",
    re.VERBOSE | re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z_][\w-]*")


@dataclass(frozen=True, eq=False)
class Site:
    """Name of one tensor: an input or output of a module, at one or all of its calls.

    The text form is `path[:in|:out][.key][@call][index]`; `Site.parse(str(site)) == site`.

    Args:
        path: Dotted module path as in `model.named_modules()`; `""` is the model itself.
        io: `"output"` or `"input"`.
        key: Member of a container: position or name of an output, position or name of an argument.
            None takes the first tensor, so that a module that returns a tensor in one version of a
            library and a tuple in another keeps its name.
        call: Which call of the module, counted from 0; None means every call.
        index: Any tensor index over the value, such as `(slice(None), 5)`. Reading returns that
            slice, editing changes that slice only. Tensors and arrays become nested lists.

    Raises:
        TypeError: When the path is not a `str` or the index is not a tensor index.
        ValueError: When `io` is neither `"input"` nor `"output"`, `call` is negative or the path
            holds a quotation mark.

    Examples:
        >>> site = Site("encoder.0", io="input", key="mask", call=2, index=(..., [1, 2]))
        >>> str(site)
        'encoder.0:in.mask@2[..., [1, 2]]'
        >>> Site.parse("encoder.0:in.mask@2[..., [1, 2]]") == site
        True
        >>> Site.parse("transformer.h.0")
        Site(path='transformer.h.0', io='output', key=None, call=None, index=None)
    """

    path: str
    io: Literal["input", "output"] = "output"
    key: int | str | None = None
    call: int | None = None
    index: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str):
            raise TypeError(f"path needs a str, got {type(self.path).__name__}")
        if '"' in self.path:
            raise ValueError(f"path must not hold a quotation mark, got {self.path!r}")
        if self.io not in {"input", "output"}:
            raise ValueError(f"io needs 'input' or 'output', got {self.io!r}")
        if self.call is not None and self.call < 0:
            raise ValueError(f"call counts from 0, got {self.call}")
        index = None if self.index is None else _plain_index(self.index)
        object.__setattr__(self, "index", index)
        # Slices and lists have no hash, so a site is identified by the text of its index.
        parts = (self.path, self.io, self.key, self.call, _index_text(index))
        object.__setattr__(self, "_parts", parts)
        # A sweep looks its sites up hundreds of times.
        object.__setattr__(self, "_hash", hash(parts))

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read the text form of a site.

        A key needs `:in` or `:out` before it, because a dot alone belongs to the module path.

        Args:
            text: Such as `"h.0"`, `"h.0:in"`, `"lstm:out.1@3"` or `"h.0[:, 5]"`.

        Returns:
            The site.

        Raises:
            TypeError: When `text` is not a `str`.
            ValueError: When the part in brackets is not a tensor index.

        Examples:
            >>> Site.parse("lstm:out.1@3").key
            1
        """
        if not isinstance(text, str):
            raise TypeError(f"text needs a str, got {type(text).__name__}")
        return _parse(text)

    def __str__(self) -> str:
        # A path such as "a@1" or "a[0]" reads as itself only with its side written out.
        explicit = self.io == "input" or self.key is not None or bool(set(":@[") & set(self.path))
        side = (":in" if self.io == "input" else ":out") if explicit else ""
        key = "" if self.key is None else f".{_key_text(self.key)}"
        call = "" if self.call is None else f"@{self.call}"
        return f"{self.path}{side}{key}{call}{_index_text(self.index)}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and vars(self)["_parts"] == vars(other)["_parts"]

    def __hash__(self) -> int:
        return int(vars(self)["_hash"])

    def __reduce__(self) -> tuple[type["Site"], tuple[Any, ...]]:
        # Made anew, as texts have another hash in another process.
        return Site, (self.path, self.io, self.key, self.call, self.index)


SiteLike = Site | str | nn.Module


class SiteInfo(NamedTuple):
    """What `sites` tells about one module.

    Attributes:
        name: Path of the module; use it as a site.
        type: Class name of the module.
        aliases: Further paths of the same module object (tied modules).
        shape: Shape of the first tensor of its first output, None when it did not run.
        dtype: Data type of that tensor.
        calls: How often it ran, None without example inputs.
        order: Rank of its first completed call among all modules, None when it did not run.
    """

    name: str
    type: str
    aliases: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    calls: int | None = None
    order: int | None = None


def sites(
    model: nn.Module, pattern: str | None = None, *example_inputs: Any, **example_kwargs: Any
) -> list[SiteInfo]:
    """List the modules of a model, and what each returns when example inputs are given.

    Args:
        model: Any module.
        pattern: Glob over paths, such as `"h.*.mlp"`; a module is listed when one of its names
            matches. None lists all.
        *example_inputs: Positional arguments of one forward, run without gradient.
        **example_kwargs: Keyword arguments of that forward.

    Returns:
        One entry per module in the order of `model.named_modules()`.

    Examples:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> [info.name for info in sites(net)]
        ['', '0', '1']
        >>> sites(net, "0", torch.ones(2, 4))[0].shape
        (2, 3)
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    ran = bool(example_inputs or example_kwargs)
    seen = _survey(model, example_inputs, example_kwargs) if ran else {}
    found = []
    for module, (name, *aliases) in names.items():
        if pattern is None or any(fnmatch.fnmatchcase(n, pattern) for n in (name, *aliases)):
            info = SiteInfo(name, type(module).__name__, tuple(aliases), calls=0 if ran else None)
            found.append(info._replace(**seen.get(module, {})))
    return found


def _survey(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[nn.Module, dict[str, Any]]:
    """Run one forward and note shape, dtype, number of calls and order for every module."""
    seen: dict[nn.Module, dict[str, Any]] = {}

    def leave(module: nn.Module, output: Any) -> None:
        if module in seen:
            seen[module]["calls"] += 1
            return
        seen[module] = {"calls": 1, "order": len(seen)}
        try:
            tensor = first_tensor(output)
        except TypeError:
            return
        seen[module].update(shape=tuple(tensor.shape), dtype=tensor.dtype)

    with (
        preserved(model),
        watch(model.modules(), enter=lambda *_: None, leave=leave),
        torch.no_grad(),
    ):
        model(*args, **kwargs)
    return seen


def as_site(model: nn.Module, site: SiteLike) -> Site:
    """Turn a path, a module of the model or a site into a site."""
    if isinstance(site, Site):
        return site
    if isinstance(site, str):
        return Site.parse(site)
    if not isinstance(site, nn.Module):
        raise TypeError(f"a site needs a Site, a str or a module, got {type(site).__name__}")
    for name, module in model.named_modules():
        if module is site:
            return Site(name)
    raise KeyError(f"this {type(site).__name__} is not a module of the model")


def find_module(model: nn.Module, site: Site) -> nn.Module:
    """Return the module of a site.

    Raises:
        KeyError: When the path names no module; the message holds the three nearest names.
        ValueError: When the module runs inside compiled code, where no hook of ours fires.
    """
    module, own = model, model.__dict__
    hidden = own.get("_compiled_call_impl") is not None
    for part in site.path.split(".") if site.path else ():
        # A wrapper made by torch.compile(module) calls its own hooks outside the compiled code;
        # what it wraps, and a module that compiled itself in place, run inside.
        hidden = hidden or "_orig_mod" in own["_modules"]
        child = own["_modules"].get(part)
        module = _child(model, module, part, site.path) if child is None else child
        own = module.__dict__
        hidden = hidden or own.get("_compiled_call_impl") is not None
    if hidden:
        raise ValueError(
            f"site '{site}' lies inside compiled code, where it can be neither read nor edited; "
            "use the module that torch.compile returned, or the model before compilation"
        )
    return module


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is a compiled wrapper or compiled itself in place."""
    return _is_compiled_wrapper(module) or vars(module).get("_compiled_call_impl") is not None


def with_index(site: Site, index: Any) -> Site:
    """Return the site with another index."""
    return replace(site, index=index)


def _is_compiled_wrapper(module: nn.Module) -> bool:
    return "_orig_mod" in vars(module)["_modules"]


def _child(model: nn.Module, module: nn.Module, part: str, path: str) -> nn.Module:
    # A compiled wrapper answers for the names of what it wraps.
    child = getattr(module, part, None)
    if isinstance(child, nn.Module):
        return child
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    nearest = difflib.get_close_matches(path, names, n=3, cutoff=0.0)
    raise KeyError(f"no module '{path}' in {type(model).__name__}; nearest names: {nearest}")


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> Site:
    match = _GRAMMAR.fullmatch(text)
    # Every part of the grammar is optional, so any text is at least a path.
    parts = match.groupdict() if match else {"path": text}
    call = parts.get("call")
    return Site(
        parts["path"],
        io="input" if parts.get("io") == "in" else "output",
        key=_parse_key(parts.get("key")),
        call=None if call is None else int(call),
        index=_parse_index(parts.get("index")),
    )


def _parse_key(text: str | None) -> int | str | None:
    if text is None:
        return None
    if text.startswith('"'):
        return str(json.loads(text))
    return int(text) if text.lstrip("-").isdigit() else text


def _key_text(key: int | str) -> str:
    if isinstance(key, int):
        return str(key)
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key)


def _plain_index(index: Any) -> Any:
    """Exchange tensors and arrays for nested lists, and check the rest."""
    if isinstance(index, tuple):
        return tuple(_plain_index(part) for part in index)
    if isinstance(index, (Tensor,)) or hasattr(index, "tolist"):
        return index.tolist()
    if index is None or index is Ellipsis or isinstance(index, (int, slice, list)):
        return index
    if isinstance(index, range):
        return list(index)
    raise TypeError(f"index needs ints, slices, lists, None or ..., got {type(index).__name__}")


def _index_text(index: Any) -> str:
    if index is None:
        return ""
    parts = index if isinstance(index, tuple) else (index,)
    comma = "," if isinstance(index, tuple) and len(parts) == 1 else ""
    return f"[{', '.join(_part_text(part) for part in parts)}{comma}]"


def _part_text(part: Any) -> str:
    if part is Ellipsis:
        return "..."
    if isinstance(part, slice):
        ends = ["" if end is None else str(end) for end in (part.start, part.stop, part.step)]
        return ":".join(ends if ends[2] else ends[:2])
    return str(part)


def _parse_index(text: str | None) -> Any:
    if text is None:
        return None
    try:
        tree = ast.parse(f"x[{text}]", mode="eval").body
        # "a[0][1]" would parse as an index into an index.
        if isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name):
            return _evaluate(tree.slice)
    except (SyntaxError, TypeError, ValueError):
        pass
    raise ValueError(f"[{text}] is not a tensor index; write it as in [:, 5] or [..., [1, 2]]")


def _evaluate(node: ast.expr) -> Any:
    if isinstance(node, ast.Tuple):
        return tuple(_evaluate(part) for part in node.elts)
    if isinstance(node, ast.Slice):
        ends = (node.lower, node.upper, node.step)
        numbers = (None if end is None else operator.index(ast.literal_eval(end)) for end in ends)
        return slice(*numbers)
    return ast.literal_eval(node)
