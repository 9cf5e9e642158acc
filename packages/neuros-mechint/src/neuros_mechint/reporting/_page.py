"""The fixed parts of a report: style sheet, sorting script, frame."""

__all__ = ["PAGE", "SCRIPT", "STYLE"]

# The policy makes "no network request" a property that the browser enforces.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to content</a>
<header>
<h1>{title}</h1>
<p class="byline">{byline}</p>
</header>
<div class="page">
<nav aria-label="Contents">
<p class="nav-title">Contents</p>
<ol>
{contents}
</ol>
</nav>
<main id="content">
{body}
</main>
</div>
<script>{script}</script>
</body>
</html>
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fcfcfb; --ink: #1d1f23; --soft: #5f646d; --faint: #8b909a;
  --rule: #dfe0e3; --band: #f3f3f2; --link: #1f5fa8; --mark: #1f5fa8;
  --pos: #d98032; --neg: #3f7fbf; --paper: #fff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --ink: #e4e5e7; --soft: #a3a8b1; --faint: #7d828c;
    --rule: #2e3238; --band: #1d2024; --link: #86b6ec; --mark: #86b6ec;
    --pos: #c9722a; --neg: #3c79b8; --paper: #eceae6;
  }
}
:root {
  --strongest-pos: color-mix(in srgb, var(--pos) 70%, var(--page));
  --strongest-neg: color-mix(in srgb, var(--neg) 70%, var(--page));
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
a { color: var(--link); text-underline-offset: .15em; }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--page); padding: .25rem .5rem; z-index: 2; }
header, .page { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 3rem; padding-bottom: 1.25rem; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.6rem, 1.2rem + 1.8vw, 2.3rem); letter-spacing: -.015em; margin: 0; }
h2 { font-size: 1.35rem; margin: 2.75rem 0 .75rem; letter-spacing: -.01em; scroll-margin-top: 1rem;
  padding-top: .9rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.08rem; margin: 2rem 0 .5rem; scroll-margin-top: 1rem; }
main > :first-child { margin-top: 0; }
main > h2:first-child { border-top: 0; padding-top: 0; }
p { max-width: 42rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
.byline { color: var(--soft); margin: .5rem 0 0; font-size: .9rem; }
nav { font-size: .9rem; line-height: 1.4; margin-bottom: 2rem; }
nav ol { list-style: none; margin: 0; padding: 0; max-height: 14rem; overflow: auto; }
nav li { padding: .2rem 0; overflow-wrap: anywhere; }
nav .sub { padding-left: 1rem; }
nav a { color: var(--soft); text-decoration: none; }
nav a:hover { color: var(--ink); text-decoration: underline; }
.nav-title { font-size: .75rem; font-weight: 600; letter-spacing: .06em; text-transform: uppercase;
  color: var(--faint); margin: 0 0 .4rem; }
main { min-width: 0; padding-bottom: 4rem; }
figure { margin: 1.75rem 0; }
figcaption { font-size: .9rem; color: var(--soft); max-width: 42rem; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-weight: 600; }
.table figcaption { margin-bottom: .5rem; }
.drawing figcaption { margin-top: .6rem; }
.paper { background: var(--paper); color: #1d1f23; border: 1px solid var(--rule);
  border-radius: 6px; padding: .75rem; overflow: auto; width: fit-content; max-width: 100%; }
.paper svg { display: block; max-width: 100%; height: auto; }
.canvas { overflow: auto; max-width: 100%; padding: .25rem 0; }
.canvas svg { display: block; }
.legend { display: block; }
.scores { margin: -1.1rem 0 1.75rem; }
summary { cursor: pointer; font-size: .9rem; color: var(--link); width: fit-content; }
details[open] summary { margin-bottom: .6rem; }
.scroll { overflow: auto; max-height: 34rem; width: fit-content; max-width: 100%;
  border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink); }
table { border-collapse: separate; border-spacing: 0; font-size: .875rem; line-height: 1.4;
  font-variant-numeric: tabular-nums lining-nums; }
th, td { padding: .32rem .8rem; text-align: left; vertical-align: baseline; white-space: nowrap; }
td { max-width: 28rem; overflow: hidden; text-overflow: ellipsis; }
thead th { position: sticky; top: 0; background: var(--page); font-weight: 600;
  border-bottom: 1px solid var(--rule); z-index: 1; }
tbody th { font-weight: 500; }
tbody tr:nth-child(even) > * { background: var(--band); }
.n, td.na { text-align: right; }
th button { all: unset; cursor: pointer; }
th button::after { content: "\\2195"; color: var(--faint); margin-left: .35em; font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\2191"; color: var(--mark); }
th[aria-sort=descending] button::after { content: "\\2193"; color: var(--mark); }
th button:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
.heat th, .heat td { padding: .32rem .5rem; }
.heat th[scope=col]:not(:first-child), .heat td { text-align: right; }
.heat tbody th { position: sticky; left: 0; background: var(--page); }
.heat tbody tr:nth-child(even) > th { background: var(--page); }
.heat td.pos { --shade: color-mix(in srgb, var(--strongest-pos) var(--s), var(--page)); }
.heat td.neg { --shade: color-mix(in srgb, var(--strongest-neg) var(--s), var(--page)); }
.heat td:is(.pos, .neg), .heat tbody tr:nth-child(even) > td:is(.pos, .neg) {
  background: var(--shade); }
td.note { white-space: normal; min-width: 8rem; }
td.na { color: var(--faint); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.5rem; font-size: .875rem;
  margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .8125rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media (min-width: 62rem) {
  .page { display: grid; grid-template-columns: 13rem minmax(0, 1fr); gap: 3.5rem; }
  nav { position: sticky; top: 1.5rem; align-self: start; }
  nav ol { max-height: calc(100vh - 6rem); }
}
@media (max-width: 34rem) {
  header { padding-top: 1.75rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; }
  th, td { padding: .32rem .55rem; }
  .prose th { white-space: normal; }
  .paper { padding: .4rem; }
}
@media print {
  nav, .skip { display: none; }
  .page { display: block; }
  .scroll, .canvas { max-height: none; overflow: visible; }
  figure { break-inside: avoid; }
}
"""

# Without it the tables stand in the order they were given.
SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const original = [...body.rows];
  if (original.length < 2) continue;
  const key = (row, i) => row.cells[i].dataset.v;
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent || "index";
    button.title = "Sort by this column";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const sign = up ? 1 : -1;
      const compare = (a, b) => {
        if (key(a, i) === undefined)
          return sign * a.cells[i].textContent.localeCompare(
            b.cells[i].textContent, undefined, {numeric: true});
        const x = Number(key(a, i)), y = Number(key(b, i));
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return x < y ? -sign : x > y ? sign : 0;
      };
      body.append(...[...original].sort(compare));
    });
  });
}
"""
