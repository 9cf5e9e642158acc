"""Draw docs/assets/geometry.png: the ring of the guide, its distances and its holes.

Usage: python docs/figures/geometry.py
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

PAPER, INK, MARK = "#fbfaf7", "#22252b", "#b3432b"
DOCS = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the guide's blocks, then draw what they found."""
    mpl.use("Agg")
    page = (DOCS / "how-to" / "geometry.md").read_text()
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, found)
    flat = found["ring"] @ found["frame"]
    far = found["GeodesicDistance"](k=20).compute(found["ring"])[0]
    figure, axes = plt.subplots(1, 2, figsize=(8.0, 3.4), layout="constrained", facecolor=PAPER)
    dots = axes[0].scatter(flat[:, 0], flat[:, 1], c=far, s=8, cmap="viridis")
    axes[0].plot(*flat[0], "o", color=MARK, ms=8)
    axes[0].set_aspect("equal")
    axes[0].set_title("the ring, seen in its plane", fontsize=9)
    figure.colorbar(dots, ax=axes[0], label="distance along it from the red point")
    top = float(max(d[d.isfinite()].max() for d in found["diagrams"])) * 1.1
    axes[1].plot([0, top], [0, top], color=INK, lw=0.8)
    for dim, name in enumerate(("components", "loops")):
        diagram = found["diagrams"][dim].clamp(max=top)
        axes[1].scatter(diagram[:, 0], diagram[:, 1], s=(14, 40)[dim], color=(INK, MARK)[dim],
                        marker=("o", "D")[dim], label=name)  # fmt: skip
    axes[1].set_xlabel("scale of birth")
    axes[1].set_ylabel("scale of death (top: never)")
    axes[1].legend(frameon=False, loc="lower right")
    axes[1].set_title("persistence: far from the diagonal is real", fontsize=9)
    figure.savefig(DOCS / "assets" / "geometry.png", dpi=120)


if __name__ == "__main__":
    main()
