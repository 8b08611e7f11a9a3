"""Draw quality against size, with and without teachers: `python -m tests.benchmarks.plot_size_curve NAME`.

Reads the results of `distilrec benchmark --config cluster/runs/NAME.yaml`. Writes results/NAME.svg. NAME is size_curve_laptop,
size_curve_beauty or size_curve_games.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
KINDS = {"gru": "GRU", "attention": "attention"}
WIDTHS = (8, 16, 32, 64)
TICKS = (20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
LOOKS = {"taught": "#0b6e4f", "plain": "#b3541e"}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw one panel per kind of student. Points are means over seeds, bars are 95% intervals."""
    mpl.rcParams.update({"svg.hashsalt": "distilrec", "svg.fonttype": "none", "font.size": 9})
    figures, intervals, models = results["figures"], results["intervals"], results["models"]
    teachers = "teacher" if len(results["teachers"]) == 1 else "teachers"
    figure, panels = plt.subplots(1, len(KINDS), figsize=(8.4, 3.6), sharey=True, layout="constrained")
    for panel, (kind, label) in zip(panels, KINDS.items(), strict=True):
        for how, colour in LOOKS.items():
            words = f"{'with' if how == 'taught' else 'without'} {teachers}"
            names = [f"{kind}_d{width}_{how}" for width in WIDTHS]
            sizes = [models[name]["parameters"] for name in names]
            values = [figures[f"{name}_ndcg10"] for name in names]
            bounds = [intervals[f"{name}_ndcg10"] for name in names]
            below = [value - low for value, (low, _) in zip(values, bounds, strict=True)]
            above = [high - value for value, (_, high) in zip(values, bounds, strict=True)]
            panel.errorbar(sizes, values, yerr=[below, above], color=colour, marker="o", ms=4, capsize=2, label=words)
            for size, value, width in zip(sizes, values, WIDTHS, strict=True):
                panel.annotate(f"d{width}", (size, value), textcoords="offset points", xytext=(5, -12), color=colour)
        goal = figures["teacher_ensemble_ndcg10"]
        panel.axhline(goal, color="#555", lw=1, ls="--")
        panel.text(0.02, goal, teachers, transform=panel.get_yaxis_transform(), va="bottom", color="#555")
        panel.set(title=f"{label} student", xlabel="parameters", xscale="log")
        ticks = [tick for tick in TICKS if 0.8 * min(sizes) < tick < 1.2 * max(sizes)]
        panel.set_xticks(ticks, [f"{tick // 1000:,}k" for tick in ticks])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("expected NDCG@10" if "users_with_truth" in results else "NDCG@10")
    panels[0].margins(y=0.12)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    [name] = sys.argv[1:]
    draw(json.loads((RESULTS / f"{name}.json").read_text()), RESULTS / f"{name}.svg")
