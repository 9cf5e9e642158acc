"""Where the parts of a model are, read from the names and types of its modules.

Nothing runs here and nothing is guessed twice: what cannot be told from the structure is an error
that names the way out, `sites=`.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

from torch import Tensor, nn

__all__ = [
    "Kind",
    "blocks",
    "hidden_projection",
    "input_projections",
    "is_linear",
    "n_heads",
    "output_projection",
    "parts",
    "width_of_input",
]

Kind: TypeAlias = Literal["attention", "mlp", "embedding", "norm", "final_norm", "unembedding"]

# Mixers of state-space models stand where a transformer has its attention.
_ATTENTION = re.compile(r"attn|attention|mixer|ssm|mamba", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|(^|_)ff(_|\d|$)|(^|_)moe(_|$)", re.IGNORECASE)
_EMBEDDING = re.compile(r"emb|wte|wpe|tok", re.IGNORECASE)
_UNEMBEDDING = re.compile(r"head|unembed|readout|decoder|classifier|fc_out|^out", re.IGNORECASE)
_OUTPUT = re.compile(
    r"c_proj|o_proj|out_proj|proj_out|project|to_out|^out|^w_?o$|^o$|dense|^proj", re.IGNORECASE
)
_INPUT = re.compile(
    r"attn|qkv|kv|query|key|value|in_proj|to_[qkv]|^w?_?[qkv]$|[qkv]_proj|_[qkv]$", re.IGNORECASE
)
_DOWN = re.compile(
    r"down|c_proj|fc_?(2|out)|(^|[a-z])2$|4h_to_h|^w_?o$|^out|out$|output", re.IGNORECASE
)
_FINAL = re.compile(r"final|last|_f$|_out$", re.IGNORECASE)
_HEAD_COUNTS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "nhead", "heads")
# These stand beside the parts and often carry their names: `attn_norm`, `mlp_dropout`.
_BESIDE = re.compile(r"norm|drop|identity|rotary|relative|bias", re.IGNORECASE)


def blocks(model: nn.Module) -> list[str]:
    """Paths of the repeated blocks: the longest `ModuleList` or `Sequential` of equal types.

    Of nested lists the outer one counts, so that a list of heads inside every block is not taken
    for the blocks. A list called after a part of a block (`attention`, `mlp`) holds such parts. In
    a `Sequential` with other modules at its ends, the run of equal types counts.

    Raises:
        ValueError: When there is no such list.
    """
    runs = [*_runs("", model)]
    repeated = [run for run in runs if len(run) > 1]
    # One layer is a list of one; a Sequential of one is anything.
    lists = [run for run in runs if isinstance(model.get_submodule(_parent(run[0])), nn.ModuleList)]
    candidates = repeated or lists
    if not candidates:
        raise ValueError(
            f"no repeated blocks in {type(model).__name__}: no ModuleList or Sequential of equal "
            "types; name the places with sites=[...]"
        )
    return max(candidates, key=lambda run: (len(run), _size(model, run)))


def parts(model: nn.Module, kind: Kind) -> list[str]:
    """Paths of all parts of one kind, in the order of their registration.

    `attention` and `mlp` are looked for inside the blocks, or in the whole model when there are
    none; `norm` inside the blocks; the others outside of them.

    Raises:
        ValueError: When there is none.
    """
    found = _FINDERS[kind](model)
    if not found:
        raise ValueError(
            f"no {kind.replace('_', ' ')} in {type(model).__name__}, by the names and types of its "
            "modules; name the places with sites=[...]"
        )
    return found


def output_projection(model: nn.Module, attention_path: str) -> str:
    """Path of the linear map at the end of an attention or mixer; heads are parts of its input.

    Raises:
        ValueError: When the module has none, or never calls it as a module.
    """
    module = model.get_submodule(attention_path)
    fused = isinstance(module, nn.MultiheadAttention)
    if fused:
        raise ValueError(
            f"'{attention_path}' is an nn.MultiheadAttention, which never calls its out_proj: the "
            "heads are inside one function; use an attention with a projection of its own, or name "
            "the places with sites=[...]"
        )
    names = _linear_names(module)
    named = [name for name in names if any(_OUTPUT.search(part) for part in name.split("."))]
    if not named:
        raise ValueError(
            f"no output projection in '{attention_path}' ({type(module).__name__}), among its "
            f"linear maps {names}; name the places with sites=[...]"
        )
    return _join(attention_path, named[-1])


def input_projections(model: nn.Module, attention_path: str) -> list[str]:
    """Paths of the linear maps that read the input of an attention or mixer.

    Raises:
        ValueError: When the module has none.
    """
    output = output_projection(model, attention_path)
    module = model.get_submodule(attention_path)
    names = [name for name in _linear_names(module) if _join(attention_path, name) != output]
    found = [name for name in names if _INPUT.search(name.rpartition(".")[2])]
    if not found:
        raise ValueError(
            f"no input projection in '{attention_path}' ({type(module).__name__}), among its "
            f"linear maps {names}; name the places with sites=[...]"
        )
    return [_join(attention_path, name) for name in found]


def hidden_projection(model: nn.Module, mlp_path: str) -> str:
    """Path of the linear map at the end of an MLP; the hidden units are its input.

    Raises:
        ValueError: When the module has none.
    """
    module = model.get_submodule(mlp_path)
    names = _linear_names(module)
    named = [name for name in names if _DOWN.search(name.rpartition(".")[2])]
    found = named or (names if isinstance(module, nn.Sequential) else [])
    if not found:
        raise ValueError(
            f"no last linear map in '{mlp_path}' ({type(module).__name__}), among {names}; name "
            "the places with sites=[...]"
        )
    return _join(mlp_path, found[-1])


def n_heads(model: nn.Module) -> int | None:
    """Count the heads, from the configuration or an attribute of the attention; None if unknown."""
    config = getattr(model, "config", None)
    holders = [config, getattr(config, "text_config", None), model]
    try:
        attention = parts(model, "attention")
    except ValueError:
        attention = []
    for path in attention[:1]:
        holders += list(model.get_submodule(path).modules())
    for holder in holders:
        for name in _HEAD_COUNTS:
            count = getattr(holder, name, None)
            if isinstance(count, int) and count > 0:
                return count
    return None


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map of the last dimension: `nn.Linear` or GPT-2's `Conv1D`."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def width_of_input(module: nn.Module) -> int | None:
    """Width of the last dimension that a linear map reads; None for another module."""
    if isinstance(module, nn.Linear):
        return module.in_features
    weight = getattr(module, "weight", None)
    # GPT-2's Conv1D keeps its weight as (in, out).
    return weight.shape[0] if is_linear(module) and isinstance(weight, Tensor) else None


def _runs(path: str, module: nn.Module) -> Iterator[list[str]]:
    """Runs of equal types in the outermost lists, as paths."""
    children = [*module.named_children()]
    listed = isinstance(module, (nn.ModuleList, nn.Sequential))
    # A list named `attention` holds one part of each block, not blocks.
    of_parts = bool(_part_of_block(path.rpartition(".")[2]))
    inside = children
    if listed and children and not of_parts:
        runs = [[*run] for _, run in itertools.groupby(children, key=lambda item: type(item[1]))]
        longest = max(runs, key=len)
        if len(longest) > 1 or len(runs) == 1:
            yield [_join(path, name) for name, _ in longest]
        # A Sequential of one is a wrapper: what it wraps may hold the blocks.
        alone = len(runs) > 1 or isinstance(module, nn.Sequential)
        inside = [run[0] for run in runs if len(run) == 1 and alone]
    for name, child in inside:
        yield from _runs(_join(path, name), child)


def _part_of_block(name: str) -> bool:
    return bool(_ATTENTION.search(name) or _MLP.search(name))


def _roots(model: nn.Module) -> list[str]:
    try:
        return blocks(model)
    except ValueError:
        return [""]


def _size(model: nn.Module, run: list[str]) -> int:
    return sum(p.numel() for path in run for p in model.get_submodule(path).parameters())


def _inside(pattern: re.Pattern[str]) -> Callable[[nn.Module], list[str]]:
    def find(model: nn.Module) -> list[str]:
        found: list[str] = []
        for root in _roots(model):
            module = model.get_submodule(root)
            found += [*_outermost(root, module, lambda name, _child: bool(pattern.search(name)))]
        return found or _by_class(model, pattern)

    return find


def _by_class(model: nn.Module, pattern: re.Pattern[str]) -> list[str]:
    """Parts that only their class names tell; a block that is one of them counts as it is."""
    found: list[str] = []
    for root in _roots(model):
        module = model.get_submodule(root)
        inner = [*_outermost(root, module, lambda _, child: bool(pattern.search(_kind(child))))]
        found += inner or ([root] if root and pattern.search(_kind(module)) else [])
    return found


def _outermost(
    path: str, module: nn.Module, match: Callable[[str, nn.Module], bool]
) -> Iterator[str]:
    """Paths of the outermost matching modules; a list that matches stands for its members."""
    for name, child in module.named_children():
        place = _join(path, name)
        if _BESIDE.search(_kind(child)) or _BESIDE.search(name):
            continue
        if not match(name, child):
            yield from _outermost(place, child, match)
        elif isinstance(child, nn.ModuleList):
            yield from (_join(place, inner) for inner, _ in child.named_children())
        elif not is_linear(child):
            yield place


def _norms(model: nn.Module) -> list[str]:
    return [
        _join(root, name)
        for root in _roots(model)
        for name, child in model.get_submodule(root).named_children()
        if _is_norm(child)
    ]


def _final_norms(model: nn.Module) -> list[str]:
    """Norms registered after the blocks, or named as the last one."""
    outside, after = _outside(model, _is_norm)
    return after or [path for path in outside if _FINAL.search(path.rpartition(".")[2])]


def _embeddings(model: nn.Module) -> list[str]:
    unembedding = {model.get_submodule(path) for path in _unembeddings(model)}
    tables, _ = _outside(model, lambda m: isinstance(m, nn.Embedding) and m not in unembedding)
    if tables:
        return tables
    maps, _ = _outside(model, lambda m: is_linear(m) and m not in unembedding)
    return [path for path in maps if _EMBEDDING.search(path.rpartition(".")[2])]


def _unembeddings(model: nn.Module) -> list[str]:
    maps, after = _outside(model, is_linear)
    named = [path for path in maps if _UNEMBEDDING.search(path.rpartition(".")[2])]
    return named or after[-1:]


def _outside(model: nn.Module, match: Callable[[nn.Module], bool]) -> tuple[list[str], list[str]]:
    """Modules outside the blocks: all that match, and those registered after the last block."""
    inner = _roots(model)
    if inner == [""]:
        return [], []
    outside: list[str] = []
    after: list[str] = []
    passed = False
    for path, module in model.named_modules():
        if any(path == root or path.startswith(f"{root}.") for root in inner):
            passed = True
        elif match(module):
            outside.append(path)
            after += [path] if passed else []
    return outside, after


_FINDERS: dict[Kind, Callable[[nn.Module], list[str]]] = {
    "attention": _inside(_ATTENTION),
    "mlp": _inside(_MLP),
    "embedding": _embeddings,
    "norm": _norms,
    "final_norm": _final_norms,
    "unembedding": _unembeddings,
}


def _linear_names(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_modules() if name and is_linear(child)]


def _is_norm(module: nn.Module) -> bool:
    return "norm" in _kind(module).lower()


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
