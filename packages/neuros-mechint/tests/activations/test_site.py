import copy
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuros_mechint.activations import Site, SiteInfo, run, sites

ends = st.none() | st.integers(-9, 9)
slices = st.builds(slice, ends, ends, st.none() | st.integers(1, 3))
parts = st.integers(-9, 9) | slices | st.just(...) | st.lists(st.integers(0, 9), max_size=3)
indices = st.none() | parts | st.tuples(parts) | st.tuples(parts, parts)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    path=st.text("ab0.:@[]in_ -", max_size=12),
    io=st.sampled_from(["input", "output"]),
    key=st.none() | st.integers(-3, 20) | st.text(max_size=6),
    call=st.none() | st.integers(0, 99),
    index=indices,
)
def test_the_text_of_a_site_reads_back_as_the_site(path, io, key, call, index) -> None:
    site = Site(path, io=io, key=key, call=call, index=index)
    again = Site.parse(str(site))
    assert again == site
    assert hash(again) == hash(site)
    assert (again.path, again.io, again.key, again.call) == (path, io, key, call)


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("", Site("")),
        ("h.0", Site("h.0")),
        ("h.0:in", Site("h.0", io="input")),
        ("h.0:out.1", Site("h.0", key=1)),
        ("h.0:out.logits@3", Site("h.0", key="logits", call=3)),
        (':in."a b"', Site("", io="input", key="a b")),
        ("h.0@2[:, 5]", Site("h.0", call=2, index=(slice(None), 5))),
        ("h.0[..., [1, 2]]", Site("h.0", index=(..., [1, 2]))),
        ("h.0[1:5:2]", Site("h.0", index=slice(1, 5, 2))),
        ("h.0[3,]", Site("h.0", index=(3,))),
        ("h.0[[True, False]]", Site("h.0", index=[True, False])),
    ],
)
def test_the_grammar_is_path_side_key_call_index(text: str, site: Site) -> None:
    assert Site.parse(text) == site
    assert Site.parse(str(site)) == site


def test_sites_that_differ_in_one_part_are_different() -> None:
    variants = [
        Site("a"), Site("b"), Site("a", io="input"), Site("a", key=0), Site("a", key="0"),
        Site("a", call=0), Site("a", index=0), Site("a", index=(0,)), Site("a", index=None),
    ]  # fmt: skip
    assert len(set(variants)) == len(variants) - 1
    assert Site("a") != "a"


def test_an_index_given_as_a_tensor_equals_the_list() -> None:
    assert Site("a", index=torch.tensor([1, 2])) == Site("a", index=[1, 2])
    assert Site("a", index=(..., torch.tensor([True]).numpy())) == Site("a", index=(..., [True]))
    assert Site("a", index=range(2)) == Site("a", index=[0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"path": 3}, TypeError, "path needs a str, got int"),
        ({"path": 'a"b'}, ValueError, "quotation mark"),
        ({"path": "a", "io": "out"}, ValueError, "io needs 'input' or 'output', got 'out'"),
        ({"path": "a", "call": -1}, ValueError, "call counts from 0, got -1"),
        ({"path": "a", "index": "x"}, TypeError, "index needs ints, slices, lists"),
    ],
)
def test_a_site_refuses_parts_of_the_wrong_kind(arguments, error, message) -> None:
    # Under run-time type checks the annotation speaks before we do.
    with pytest.raises((error, TypeError), match=rf"{message}|Type-check error"):
        Site(**arguments)


@pytest.mark.parametrize("text", ["a[1:::2]", "a[0][1]", "a[1:[2]]"])
def test_parse_refuses_brackets_that_are_no_index(text: str) -> None:
    with pytest.raises(ValueError, match="is not a tensor index"):
        Site.parse(text)


def test_parse_needs_a_text() -> None:
    with pytest.raises(TypeError, match=r"text needs a str, got int|Type-check error"):
        Site.parse(3)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first
        self.unused = nn.LayerNorm(3)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return {"y": self.second(self.first(x)), "note": "text"}


def test_sites_lists_aliases_shapes_calls_and_order() -> None:
    model = Tied()
    found = sites(model, None, torch.ones(2, 3))
    f32 = torch.float32
    assert found == [
        SiteInfo("", "Tied", (), (2, 3), f32, 1, 1),
        SiteInfo("first", "Linear", ("second",), (2, 3), f32, 2, 0),
        SiteInfo("unused", "LayerNorm", (), None, None, 0, None),
    ]
    assert model.count.item() == 0


def test_sites_filters_by_glob_over_all_names() -> None:
    assert [info.name for info in sites(Tied(), "sec*")] == ["first"]
    assert sites(Tied(), "sec*")[0].calls is None
    assert sites(Tied(), "nothing") == []


def test_sites_notes_a_module_without_a_tensor_as_called() -> None:
    class Speaker(nn.Module):
        def forward(self, _x):
            return "text"

    assert sites(Speaker(), None, 1)[0] == SiteInfo("", "Speaker", calls=1, order=0)


def test_every_name_that_sites_gives_can_be_captured() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 1)))
    names = [info.name for info in sites(net)]
    cache = run(net, torch.ones(1, 2), capture=names).cache
    assert [site.path for site in cache] == names


# A fresh interpreter, in which texts have another hash, has to import torch.
@pytest.mark.slow
def test_a_site_from_another_process_is_found_in_a_dict() -> None:
    site = Site("a.b", io="input", index=(..., [1, 2]))
    code = (
        "import pickle, sys; from neuros_mechint.activations import Site; "
        "site = pickle.loads(sys.stdin.buffer.read()); "
        "print({Site('a.b', io='input', index=(..., [1, 2])): 1}[site])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=pickle.dumps(site), capture_output=True, check=True)
    assert done.stdout.strip() == b"1"
    assert {site: 1}[copy.deepcopy(site)] == 1
