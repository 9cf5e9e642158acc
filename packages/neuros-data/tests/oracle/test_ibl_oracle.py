"""Recorded answers of an Alyx server, read by us and by the laboratory's own client."""

import json
from importlib.resources import files

import pytest

from neuros_data.acquisition._alf import choose_files

pytestmark = pytest.mark.oracle


def test_files_lie_where_the_one_client_puts_them() -> None:
    converters = pytest.importorskip("one.converters")
    folder = files("one") / "tests" / "fixtures" / "rest_responses"
    answers = [json.loads(f.read_text()) for f in folder.iterdir() if "." not in f.name]
    pages = [answer[0] if isinstance(answer, list) else answer for answer in answers]
    records = [
        record
        for page in pages
        for record in (page.get("results", ()) if isinstance(page, dict) else ())
        if "file_records" in record
    ]
    ours = {f.path: f for f in choose_files(records, sorter="pykilosort", revision="")}
    theirs = converters.datasets2records(records)
    shared = theirs[theirs["rel_path"].isin(ours)]
    assert len(ours) == len(shared) > 0
    for row in shared.itertuples():
        number = str(row.Index[1])
        assert number in ours[row.rel_path].url
        assert ours[row.rel_path].size in {None, row.file_size}
