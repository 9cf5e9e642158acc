"""What a data card says, held against stores whose contents are known."""

import dataclasses
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from neuros_core import Intervals, Recording, Signal, Species
from neuros_data import Store, load_sample, make_split
from neuros_data._card_citation import to_bibtex
from neuros_data._card_forecasts import next_sample_scores
from neuros_data.card import DataCard, Section, data_card


def section(card: DataCard, title: str) -> Section:
    (found,) = [s for s in card.sections if s.title == title]
    return found


def test_it_counts_who_and_what(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    store = make_store(
        ramp("a", subject="s1"), ramp("b", subject="s1", session="2", offset=7.0),
        ramp("c", subject="s2", seconds=16.0, offset=9.0, channels=3),
    )  # fmt: skip
    card = data_card(store)
    what = dict(section(card, "What").table)
    assert what["recordings"] == "3"
    assert what["subjects"] == "2"
    assert what["sessions"] == "3"
    assert what["species"] == "rat"
    assert what["hours"] == "0.01"
    signals = {row[0]: row for row in section(card, "Signals").table}
    assert signals["lfp"] == ("lfp", "signal", "100", "V", "2 to 3", "3", "0.01")
    assert signals["spike"] == ("spike", "events", "", "", "3", "3", "0.01")


def test_labels_stand_with_their_balance_and_the_majority(ramp_store: Store) -> None:
    (_, row) = section(data_card(ramp_store), "Labels").table
    assert row == ("trial.code", "10", "0: 4, 1: 3, 2: 3", "0.400")


def test_missing_samples_and_dead_channels_are_named(make_store: Callable[..., Store]) -> None:
    data = np.random.default_rng(0).normal(size=(100, 2))
    data[:, 1] = np.nan
    signal = Signal(data, rate=10.0, channels=["good", "dead"])
    card = data_card(make_store(Recording("r", "s", "1", Species.RAT, {"lfp": signal})))
    assert section(card, "Missing data").table[1] == ("r", "lfp", "50.00%", "dead")
    assert "50.00% of the samples invalid" in str(section(card, "Known faults").table)


def test_sessions_that_failed_are_listed_unless_they_came_in_later(ramp_store: Store) -> None:
    entries = [{"session": "x7", "error": "no spikes"}, {"session": "ramp", "error": "network"}]
    lines = "\n".join(json.dumps(entry) for entry in entries)
    (ramp_store.path / "failures.jsonl").write_text(lines + "\n\n")
    card = data_card(ramp_store)
    assert section(card, "Excluded sessions").table[1:] == (("x7", "no spikes"),)


def test_subjects_that_a_source_leaves_out_are_listed(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    told = {"source": "eeg", "excluded_subjects": [88, 92]}
    text = str(data_card(make_store(dataclasses.replace(ramp(), provenance=told))))
    assert "| subject 88 | left out by the settings of the source eeg |" in text
    assert "| subject 92 |" in text


def test_every_split_brings_its_proof(ramp_store: Store) -> None:
    make_split(ramp_store, by="time", ratios=(0.6, 0.2, 0.2), window=0.5).save(ramp_store, "mine")
    found = section(data_card(ramp_store), "Split mine")
    assert [row[0] for row in found.table] == ["part", "train", "val", "test"]
    assert found.code == str(ramp_store.split("mine").verify())
    assert "guard" in found.text[0]


def test_equal_recordings_are_named(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    card = data_card(make_store(ramp("a"), ramp("b", subject="s2")))
    assert section(card, "Duplicates").text == ("Equal samples: a, b. Splits keep them together.",)


def test_forecasts_are_those_of_known_processes() -> None:
    draw = np.random.default_rng(0)
    white = draw.normal(size=(20_000, 1))
    mean, persistence, auto = next_sample_scores(white)
    # Of white noise the last sample says nothing: its error has twice the variance.
    assert mean == pytest.approx(0.0, abs=0.01)
    assert persistence == pytest.approx(-1.0, abs=0.06)
    assert auto == pytest.approx(0.0, abs=0.01)
    # An AR(1) with coefficient 0.9: the best forecast explains 0.81, persistence 1 - 2 * 0.1.
    x = np.zeros((20_000, 1))
    for t in range(1, len(x)):
        x[t] = 0.9 * x[t - 1] + white[t]
    _, persistence, auto = next_sample_scores(x)
    assert persistence == pytest.approx(0.8, abs=0.03)
    assert auto == pytest.approx(0.81, abs=0.03)


def test_forecasts_of_a_sine_are_perfect_for_two_lags() -> None:
    x = np.sin(np.arange(2000)[:, None] * np.array([0.3, 0.7]))
    assert next_sample_scores(x)[2] == pytest.approx(1.0, abs=1e-9)


class _Page(HTMLParser):
    """Collects tags, attributes and the depth at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "path", "polyline"}:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        if tag in {"path", "polyline"}:
            return
        assert self.open.pop() == tag


def test_the_page_is_one_file_with_figures_of_every_modality(tmp_path: Path) -> None:
    path = data_card(load_sample()).save(tmp_path / "card.html")
    text, page = path.read_text(), _Page()
    page.feed(text)
    assert page.open == []
    assert page.links == []
    assert "<script" not in text
    captions = [c for c, _ in section(data_card(load_sample()), "Examples").figures]
    for modality in ("ecog", "eeg", "emg", "fmri", "lfp", "spike"):
        assert any(caption.startswith(modality) for caption in captions)
    # The alpha rhythm is in the page: closed eyes, 160 Hz.
    assert "BSD-3-Clause" in text


def test_texts_are_escaped_and_markdown_cells_stay_cells(tmp_path: Path) -> None:
    card = DataCard("<b>", (Section("a & b", table=(("x|y",), ("1\n2",))),))
    assert "&lt;b&gt;" in card.to_html()
    assert "a &amp; b" in card.to_html()
    assert "x\\|y" in str(card)
    assert "1 2" in str(card)
    assert card.save(tmp_path / "card.md").read_text() == str(card)
    with pytest.raises(ValueError, match=r"written as .md or .html, got 'card.pdf'"):
        card.save(tmp_path / "card.pdf")


def test_constant_and_irregular_signals_and_long_lists_are_drawn(
    make_store: Callable[..., Store],
) -> None:
    flat = Signal(np.ones((400, 8)), rate=100.0)
    slow = Signal(np.arange(10.0)[:, None], times=np.cumsum(np.arange(1.0, 11.0)))
    many = [
        Recording(f"r{k:02d}", "s", str(k), Species.RAT, {"lfp": flat, "calcium": slow})
        for k in range(42)
    ]
    card = data_card(make_store(*many))
    assert section(card, "Recordings").text == ("2 more recordings are not listed.",)
    captions = [caption for caption, _ in section(card, "Examples").figures]
    assert any("2 more channels" in caption for caption in captions)
    assert not [s for s in card.sections if s.title in {"Labels", "What needs no model"}]
    assert section(card, "Licence").text[0].startswith("none stated")


def test_trials_without_classes_make_no_label_table(make_store: Callable[..., Store]) -> None:
    trials = Intervals(np.arange(60.0), np.arange(60.0) + 0.5, {"score": np.arange(60.0)})
    signal = Signal(np.zeros((700, 1)), rate=10.0)
    card = data_card(
        make_store(Recording("r", "s", "1", Species.RAT, {"lfp": signal}, {"trial": trials}))
    )
    assert not [s for s in card.sections if s.title == "Labels"]


def test_citations_are_bibtex() -> None:
    texts = [
        (
            "Siegle et al. (2021), Survey of spiking, Nature 592, doi:10.1038/s41586-020-03171-x; "
            "Siegle et al. (2021), Another one, Nature 1, 2"
        ),
        "Doe, J.; Roe, R. (2024) Walking mice. DANDI. https://doi.org/10.48324/dandi.000728/0.22",
        "The people of a_lab & friends",
    ]
    found = to_bibtex(texts)
    assert "@misc{siegle2021,\n  author = {Siegle and others},\n  title = {Another one}," in found
    assert "@misc{siegle2021b,\n  author = {Siegle and others},\n  title = {Survey" in found
    assert "  doi = {10.1038/s41586-020-03171-x}," in found
    assert "@misc{doe2024,\n  author = {Doe, J. and Roe, R.},\n  title = {Walking mice}," in found
    assert "@misc{the,\n  note = {The people of a\\_lab \\& friends},\n}" in found
    assert found.count("@misc") == 4
    assert to_bibtex([""]) == ""
