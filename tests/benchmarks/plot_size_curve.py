"""Draw quality against size, with and without teacher: `python -m tests.benchmarks.plot_size_curve`.

Reads the results of `distilrec benchmark --config cluster/runs/size_curve_laptop.yaml`. Writes results/size_curve_laptop.svg.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
KINDS = {"gru": "GRU", "attention": "attention"}
WIDTHS = (8, 16, 32, 64)
TICKS = (20_000, 50_000, 100_000, 200_000)
LOOKS = {"taught": ("#0b6e4f", "with teacher"), "plain": ("#b3541e", "without teacher")}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw one panel per kind of student. Points are means over seeds, bars are 95% intervals."""
    mpl.rcParams.update({"svg.hashsalt": "distilrec", "svg.fonttype": "none", "font.size": 9})
    figures, intervals, models = results["figures"], results["intervals"], results["models"]
    figure, panels = plt.subplots(1, len(KINDS), figsize=(8.4, 3.4), sharey=True, layout="constrained")
    for panel, (kind, label) in zip(panels, KINDS.items(), strict=True):
        for how, (colour, words) in LOOKS.items():
            names = [f"{kind}_d{width}_{how}" for width in WIDTHS]
            sizes = [models[name]["parameters"] for name in names]
            values = [figures[f"{name}_ndcg10"] for name in names]
            bounds = [intervals[f"{name}_ndcg10"] for name in names]
            below = [value - low for value, (low, _) in zip(values, bounds, strict=True)]
            above = [high - value for value, (_, high) in zip(values, bounds, strict=True)]
            panel.errorbar(sizes, values, yerr=[below, above], color=colour, marker="o", ms=4, capsize=2, label=words)
            place = (-2, 9) if how == "taught" else (-2, -16)
            for size, value, width in zip(sizes, values, WIDTHS, strict=True):
                panel.annotate(f"d{width}", (size, value), textcoords="offset points", xytext=place, color=colour)
        teacher = figures["teacher_single_ndcg10"]
        panel.axhline(teacher, color="#555", lw=1, ls="--")
        panel.text(0.02, teacher, "teacher", transform=panel.get_yaxis_transform(), va="bottom", color="#555")
        panel.set(title=f"{label} student", xlabel="parameters", xscale="log")
        panel.set_xticks(TICKS, [f"{tick // 1000}k" for tick in TICKS])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("expected NDCG@10")
    panels[0].margins(y=0.12)
    panels[0].legend(frameon=False, loc="center right")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(json.loads((RESULTS / "size_curve_laptop.json").read_text()), RESULTS / "size_curve_laptop.svg")
