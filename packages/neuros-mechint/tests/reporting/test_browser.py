"""A report in a real browser, at the width of a desktop and of a phone."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from neuros_mechint.reporting import Report

BROWSER = shutil.which("chromium")
WIDTHS = (1280, 390)

# Opens every fold, sorts one table, and tells the frame around it what it sees.
PROBE = """<script>
let refused = 0;
document.addEventListener("securitypolicyviolation", () => refused += 1);
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(fold => fold.open = true);
  const table = document.querySelector("table.sortable");
  const head = [...table.tHead.rows[0].cells].find(cell => cell.textContent === "size");
  head.querySelector("button").click();
  const first = [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
  head.querySelector("button").click();
  parent.postMessage({
    width: innerWidth,
    content: document.documentElement.scrollWidth,
    requests: performance.getEntriesByType("resource").length,
    refused,
    drawings: [...document.querySelectorAll("svg")].map(svg => svg.getBBox().width > 50),
    sorted: first,
    sorted_back: [...table.tBodies[0].rows].map(row => row.cells[0].textContent),
  }, "*");
});
</script>"""

FRAMES = """<!DOCTYPE html><title>frames</title><script>
const seen = [];
addEventListener("message", event => {
  seen.push(event.data);
  document.querySelector("pre").textContent = JSON.stringify(seen);
});
</script><pre>[]</pre>"""


def everything() -> Report:
    made = Report("A title that is long enough to need more than one line on a phone")
    made.add_heading("a.very.long.path.of.a.module.that.has.no.space.in.it.anywhere.at.all.12345")
    frame = pd.DataFrame({"name": ["b", "a", "c"], "size": [10.0, -2.0, 3.0]})
    made.add_table(frame, caption="Sizes")
    made.add_table(pd.DataFrame(np.eye(4, 40)), caption="A wide table")
    scores = {
        (f"blocks.{k}.{u}", f"blocks.{k + 1}.{v}"): float(u - v)
        for k in range(5)
        for u in range(2)
        for v in range(2)
    }
    made.add_circuit(SimpleNamespace(edges=set(scores), nodes=set(), scores=scores))
    made.add_figure('<svg viewBox="0 0 2000 90"><rect width="2000" height="90"/></svg>')
    made.add_patching(
        pd.DataFrame({"layer": ["x"] * 30, "position": range(30), "effect": range(30)})
    )
    made.add_text("https://example.org/" + "long" * 60)
    return made


@pytest.mark.slow  # starts a browser
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_page_fits_a_desktop_and_a_phone_and_asks_for_nothing(tmp_path: Path) -> None:
    page = everything().to_html().replace("</body>", PROBE + "</body>")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    # Frames, because a browser window is never as narrow as a phone.
    frames = "".join(
        f'<iframe src="page.html" width="{width}" height="900" style="border:0"></iframe>'
        for width in WIDTHS
    )
    (tmp_path / "frames.html").write_text(FRAMES + frames, encoding="utf-8")
    command = [
        str(BROWSER),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=4000",
        "--dump-dom",
        (tmp_path / "frames.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    told = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert told is not None
    seen: list[dict[str, Any]] = json.loads(html.unescape(told[1]))
    assert sorted(one["width"] for one in seen) == sorted(WIDTHS)
    for one in seen:
        assert one["content"] <= one["width"]
        assert one["requests"] == one["refused"] == 0
        assert one["drawings"] == [True, True]
        assert one["sorted"] == ["a", "c", "b"]
        assert one["sorted_back"] == ["b", "c", "a"]
