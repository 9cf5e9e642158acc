"""Write the pages of the site that have their source elsewhere.

Usage: python tools/render_docs.py

- docs/reference/MODULE.md: every public name of the modules that mkdocs.yml lists, in the order
  of `__all__`; a public name that no page shows is an error.
- docs/tutorials/NAME.md: the examples, their `# %%` cells as text and code.
- docs/house-rules.md: CONTRIBUTING.md.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def exported(path: Path) -> list[str]:
    """The literal `__all__` of a module, or of the stub beside a lazy package."""
    stub = path.with_suffix(".pyi")
    for node in ast.parse((stub if stub.exists() else path).read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def modules() -> dict[str, list[str]]:
    """Every public module of the five packages and its public names."""
    found = {}
    for source in ROOT.glob("packages/*/src"):
        for path in source.rglob("*.py"):
            parts = path.relative_to(source).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if not any(part.startswith("_") for part in parts):
                found[".".join(parts)] = exported(path)
    return found


def write_reference(folder: Path) -> list[str]:
    """Write the pages that the navigation lists; return the public names that no page shows."""
    listed = re.findall(r"reference/([\w.]+)\.md", (ROOT / "mkdocs.yml").read_text())
    public = modules()
    folder.mkdir(parents=True, exist_ok=True)
    shown = set()
    for module in listed:
        names = [n for n in public[module] if not n.startswith("__")]
        blocks = [f"::: {module}.{name}" for name in names]
        head = f"# {module}\n\n::: {module}\n    options:\n      members: false\n"
        head += "      show_root_heading: false\n      show_root_toc_entry: false\n"
        (folder / f"{module}.md").write_text("\n\n".join([head, *blocks]) + "\n")
        shown.update(names)
    every = {(m, n) for m, names in public.items() for n in names if not n.startswith("__")}
    return sorted(f"{m}.{n}" for m, n in every if n not in shown)


def write_tutorials(folder: Path) -> None:
    """Turn the cells of every example into a page."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(ROOT.glob("examples/[0-9]*.py")):
        page = []
        for cell in re.split(r"^# %%", path.read_text(), flags=re.MULTILINE)[1:]:
            kind, _, body = cell.partition("\n")
            if "[markdown]" in kind:
                text = "\n".join(re.sub(r"^# ?", "", line) for line in body.strip().splitlines())
                page.append(text)
            else:
                page.append(f"``` {{.python}}\n{body.strip()}\n```")
        (folder / f"{path.stem}.md").write_text("\n\n".join(page) + "\n")


def main() -> int:
    """Write all pages."""
    docs = ROOT / "docs"
    missing = write_reference(docs / "reference")
    write_tutorials(docs / "tutorials")
    (docs / "house-rules.md").write_text((ROOT / "CONTRIBUTING.md").read_text())
    if missing:
        print("no reference page shows " + ", ".join(missing), file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
