"""Reports."""

import html.parser
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neuros_core import RunManifest
from neuros_mechint.reporting import Report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> & \x00\ud800"
VOID = {"meta", "br"}
DOT = '<svg viewBox="0 0 1 1"><g id="a"/><use href="#a"/></svg>'


class Page(html.parser.HTMLParser):
    """Parses a page, insisting on balanced tags, unique ids and links that lead somewhere."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(source)
        self.close()
        assert self.open == []
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        for _, attributes in self.tags:
            for name in ("href", "xlink:href"):
                target = attributes.get(name) or "#"
                assert target.startswith("data:image/") or target == "#" or target[1:] in ids

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def report() -> Report:
    return Report("A title", provenance={"seed": 3})


def test_the_page_is_well_formed_and_complete() -> None:
    made = report()
    made.add_heading("First")
    made.add_heading("Second", level=3)
    made.add_text("One.\n\nTwo.\n \nThree.")
    made.add_table(pd.DataFrame({"x": [1, 2]}), caption="Numbers")
    made.add_figure(DOT, caption="A dot")
    page = Page(made.to_html())
    source = made.to_html()
    assert source.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert page.texts["title"] == ["A title"]
    assert page.texts["h2"] == ["First", "Provenance"]
    assert page.texts["h3"] == ["Second"]
    assert [page.count(tag) for tag in ("h1", "main", "nav", "table", "svg", "figcaption")] == [
        1,
        1,
        1,
        1,
        1,
        2,
    ]
    assert [text for text in page.texts["p"] if text in ("One.", "Two.", "Three.")] == [
        "One.",
        "Two.",
        "Three.",
    ]
    assert page.texts["a"] == ["Skip to content", "First", "Second", "Provenance"]
    assert repr(made) == "Report('A title', tables=1, figures=1)"


def test_hostile_strings_are_shown_and_never_read_as_markup() -> None:
    plain = report()
    hostile = Report(HOSTILE, provenance={"seed": 3, HOSTILE: HOSTILE, "config": {HOSTILE: [1]}})
    for made, text in ((plain, "x"), (hostile, HOSTILE)):
        made.add_heading(text)
        made.add_text(text)
        frame = pd.DataFrame({text: [text, "b"]}, index=pd.Index([text, "c"], name=text))
        made.add_table(frame, caption=text)
        made.add_patching(pd.DataFrame({"layer": [text], "recovery": [1.0]}), caption=text)
        made.add_figure(
            f"<svg><text>{'x' if made is plain else '&lt;script&gt;'}</text></svg>",
            caption=text,
            alt=text,
        )
    expected, found = Page(plain.to_html()), Page(hostile.to_html())
    assert found.count("script") == expected.count("script")
    assert found.count("img") == 0
    assert not any(name.startswith("on") for _, attrs in found.tags for name in attrs)
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert found.texts["h1"] == [shown]
    assert shown in found.texts["td"]
    assert "\x00" not in hostile.to_html()
    hostile.to_html().encode("utf-8")


def test_nothing_is_requested_from_a_network() -> None:
    from matplotlib.figure import Figure

    made = report()
    figure = Figure()
    figure.subplots().imshow(np.eye(3))
    made.add_figure(figure)
    page = Page(made.to_html())
    for _, attributes in page.tags:
        for name in ("src", "srcset", "data", "action", "poster"):
            assert name not in attributes
    policy = [a["content"] for tag, a in page.tags if "http-equiv" in a]
    assert policy == [
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    ]
    assert not re.search(r"url\((?!#)|@import", made.to_html())


def test_two_figures_never_share_an_id() -> None:
    made = report()
    made.add_figure(DOT)
    made.add_figure(DOT)
    source = made.to_html()
    Page(source)
    assert 'id="drawing-1-a"' in source
    assert 'href="#drawing-2-a"' in source


def test_a_matplotlib_figure_keeps_its_text_and_is_labelled() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().set_title("latent <3>")
    made = report()
    made.add_figure(figure, caption="A caption", alt="An alternative")
    page = Page(made.to_html())
    assert "latent <3>" in page.texts["text"]
    (svg,) = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert (svg["role"], svg["aria-label"]) == ("img", "An alternative")
    assert "viewbox" in svg
    assert page.count("metadata") == 0


def test_a_label_falls_back_to_the_caption_and_then_the_number() -> None:
    made = report()
    made.add_figure(DOT, caption="A caption")
    made.add_figure(DOT)
    labels = [a["aria-label"] for tag, a in Page(made.to_html()).tags if tag == "svg"]
    assert labels == ["A caption", "Figure 2"]


def test_an_svg_is_cleaned_and_scoped() -> None:
    made = report()
    made.add_figure(
        '<?xml version="1.0" encoding="latin-1"?><!DOCTYPE svg><svg xmlns="http://www.w3.org/'
        '2000/svg" xmlns:ink="urn:x" width="20pt" height="10pt" id="root" ink:zoom="3">'
        "<metadata><rdf:RDF xmlns:rdf='urn:y'>secret</rdf:RDF></metadata><ink:view>hidden<g/>"
        "</ink:view><style>/* c */ #a{fill:#f00} .b{clip-path:url(#a)}</style><style> </style>"
        '<g id="a" style="mask: url(\'#a\')"><text xml:space="preserve">\u00fc</text></g>'
        '<image href="data:image/png;base64,AA=="/></svg>'
    )
    source = made.to_html()
    Page(source)
    assert 'viewBox="0 0 20 10"' in source
    assert "<style>#drawing-1{#drawing-1-a{fill:#f00} .b{clip-path:url(#drawing-1-a)}}" in source
    assert 'style="mask: url(#drawing-1-a)"' in source
    assert '<text xml:space="preserve">\u00fc</text>' in source
    for gone in ("secret", "hidden", "ink:", "latin-1", "root"):
        assert gone not in source.split("<main", 1)[1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("<svg><g></svg>", "not well-formed XML"),
        ("", "not well-formed XML"),
        ("<p>text</p>", "holds <p>, which a report does not embed|exactly one <svg>"),
        ("<svg><svg/></svg>", "exactly one <svg>, its root, got <svg> at depth 2"),
        ("<svg><script>alert(1)</script></svg>", "holds <script>"),
        ("<svg><foreignObject/></svg>", "holds <foreignObject>"),
        ('<svg onload="alert(1)"/>', "holds the handler onload"),
        ('<svg><image href="https://example.org/a.png"/></svg>', "a report loads nothing"),
        ('<svg><use href="javascript:alert(1)"/></svg>', "a report loads nothing"),
        ('<svg><g fill="url(https://example.org/#a)"/></svg>', "a report loads nothing"),
        ("<svg><style>@import 'x';</style></svg>", "cannot be confined"),
        ("<svg><style>a{}} body{}</style></svg>", "cannot be confined"),
        ("<svg><style>a{fill:url(x)}</style></svg>", "a report loads nothing"),
        ('<!DOCTYPE s [<!ENTITY e "x">]><svg>&e;</svg>', "declares the entity e"),
    ],
)
def test_an_unsafe_svg_is_refused(source: str, message: str) -> None:
    made = report()
    with pytest.raises(ValueError, match=message):
        made.add_figure(source)
    assert repr(made).endswith("figures=0)")


def test_numbers_are_formatted_by_column_and_keep_their_value_for_sorting() -> None:
    frame = pd.DataFrame(
        {
            "count": [1, -20000],
            "share": [0.25, -0.000012],
            "tiny": [1e-9, 2e-8],
            "gap": [float("nan"), math.inf],
            "low": [0.0, -math.inf],
            "flag": [True, False],
            "mixed": [None, "text"],
            "when": [pd.NaT, pd.Timestamp("2020-01-02")],
        }
    )
    made = report()
    made.add_table(frame)
    source = made.to_html()
    Page(source)
    row = re.findall(r"<tr>(<t[dh].*?)</tr>", source.split("<tbody>")[1])
    cells = [re.findall(r"<td([^>]*)>(.*?)</td>", text) for text in row]
    assert [text for _, text in cells[0]] == [
        "1",
        "0.2500",
        "1.000e\u221209",
        "\u2013",
        "0",
        "True",
        "\u2013",
        "\u2013",
    ]
    assert [text for _, text in cells[1]] == [
        "\u221220,000",
        "\u22121.2e\u221205",
        "2.000e\u221208",
        "\u221e",
        "\u2212\u221e",
        "False",
        "text",
        "2020-01-02 00:00:00",
    ]
    assert [kind for kind, _ in cells[1]] == [
        " class=n data-v=-20000",
        " class=n data-v=-1.2e-05",
        " class=n data-v=2e-08",
        " class=n data-v=Infinity",
        " class=n data-v=-Infinity",
        "",
        "",
        "",
    ]
    assert cells[0][3][0] == " class=n data-v=NaN"


def test_an_index_is_shown_unless_it_is_the_default() -> None:
    made = report()
    made.add_table(pd.DataFrame({"x": [1]}))
    made.add_table(pd.DataFrame({"x": [1]}, index=pd.Index(["row"], name="name")))
    levels = pd.MultiIndex.from_tuples([("a", 1)], names=["letter", None])
    made.add_table(pd.DataFrame({("x", "y"): [1]}, index=levels))
    made.add_table(pd.DataFrame())
    heads = re.findall(r"<thead><tr>(.*?)</tr>", made.to_html())
    labels = [re.findall(r"<th[^>]*>(.*?)</th>", head) for head in heads]
    assert labels == [["x"], ["name", "x"], ["letter", "", "x / y"], []]
    assert '<th scope="row">row</th>' in made.to_html()


def test_patches_become_a_shaded_map_in_the_order_of_the_frame() -> None:
    frame = pd.DataFrame(
        {
            "layer": ["late", "late", "early", "early"],
            "position": [0, 1, 0, 1],
            "effect": [9.0, 9.0, 9.0, 9.0],
            "recovery": [-0.5, 1.0, 0.0, float("nan")],
        }
    )
    made = report()
    made.add_patching(frame, caption="Recovery")
    source = made.to_html()
    Page(source)
    table = source.split('class="heat"')[1]
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["late", "early"]
    assert re.findall(r'<th scope="col">(.*?)</th>', table) == ["layer \u00d7 position", "0", "1"]
    assert re.findall(r'<td class=(\w+)(?: style="--s:(\d+)%")?>', table) == [
        ("neg", "50"),
        ("pos", "100"),
        ("pos", "0"),
        ("na", ""),
    ]
    made.add_patching(frame, value="effect")
    assert "--s:100%" in made.to_html().split('class="heat"')[2]


def test_patches_without_parts_and_wide_frames_are_maps_too() -> None:
    made = report()
    made.add_patching(pd.DataFrame({"layer": ["a", "b"], "effect": [0.0, 0.0]}))
    wide = pd.DataFrame([[1.0, -2.0]], index=pd.Index(["a"], name="layer"))
    made.add_patching(wide)
    maps = made.to_html().split('class="heat"')[1:]
    assert re.findall(r'<th scope="col">(.*?)</th>', maps[0]) == ["layer", "effect"]
    assert re.findall(r"--s:(\d+)%", maps[0]) == ["0", "0"]
    assert re.findall(r'<th scope="col">(.*?)</th>', maps[1]) == ["layer", "0", "1"]
    assert re.findall(r"--s:(\d+)%", maps[1]) == ["50", "100"]


def test_provenance_is_shown_and_kept_as_json() -> None:
    manifest = RunManifest(
        kind="report",
        config={"lr": 0.1},
        seed=7,
        versions={"torch": "2.13"},
        model_hash="abc",
        created="2026-01-01T00:00:00+00:00",
        git="1234",
    )
    made = Report("Run", provenance=manifest)
    source = made.to_html()
    page = Page(source)
    assert page.texts["dt"] == [
        "Kind",
        "Created",
        "Seed",
        "Code",
        "Model",
        "Data",
        "Versions",
        "Configuration",
    ]
    assert page.texts["dd"][2:6] == ["7", "1234", "abc", "not recorded"]
    assert "torch 2.13" in page.texts["dd"]
    record = re.search(r'id="run-manifest">(.*?)</script>', source)
    assert record is not None
    assert RunManifest.from_dict(json.loads(record.group(1))) == manifest


def test_provenance_is_collected_when_none_is_given_and_copied_when_it_is() -> None:
    assert "neuros-mechint" in Report("Run").to_html().split('id="provenance"')[1]
    record = {"seed": 1}
    made = Report("Run", provenance=record)
    record["seed"] = 2
    assert "<dd>1</dd>" in made.to_html()


def test_bad_arguments_are_refused() -> None:
    made = report()
    with pytest.raises(TypeError, match="int"):
        Report("Run", provenance=3)
    with pytest.raises(TypeError, match="JSON serializable"):
        Report("Run", provenance={"x": object()})
    with pytest.raises(ValueError, match=r"level must be 2 .* got 1"):
        made.add_heading("x", level=1)
    with pytest.raises(TypeError, match="dict"):
        made.add_table({"x": [1]})
    with pytest.raises(TypeError, match="int"):
        made.add_figure(3)
    long = pd.DataFrame({"layer": ["a", "a"], "effect": [1.0, 2.0]})
    with pytest.raises(ValueError, match="more than once per layer"):
        made.add_patching(long)
    with pytest.raises(ValueError, match="no column 'gain', only 'layer', 'effect'"):
        made.add_patching(long, value="gain")
    with pytest.raises(ValueError, match="leave value out for a wide frame"):
        made.add_patching(pd.DataFrame([[1.0]]), value="gain")


def test_saving_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "run.html"
    target.write_text("old")
    made = report()
    assert made.save(str(target)) == target
    assert target.read_text(encoding="utf-8") == made.to_html()
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "run.html"
    folder.mkdir()
    with pytest.raises(OSError, match=r"run\.html"):
        report().save(folder)
    assert list(tmp_path.iterdir()) == [folder]
    with pytest.raises(FileNotFoundError):
        report().save(tmp_path / "missing" / "run.html")


@pytest.mark.slow  # a hundred items; the bar is 2 s for all of them
@pytest.mark.slow  # a new interpreter
def test_importing_the_module_loads_neither_pandas_nor_matplotlib() -> None:
    code = (
        "import sys, neuros_mechint.reporting\n"
        "heavy = {'pandas', 'matplotlib', 'torch', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
