"""Draw disk, memory, vocabulary, time and quality over a row of nights: `python -m tests.benchmarks.plot_sixty_nights`.

Reads results/sixty_nights.json and writes results/sixty_nights.svg.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
GREEN, BROWN, BLUE, FAULT = "#0b6e4f", "#b3541e", "#2b5b9e", "#d9b8b0"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw one panel per quantity, over the nights. A bar behind the curves marks a night with a fault."""
    mpl.rcParams.update({"svg.hashsalt": "distilrec", "svg.fonttype": "none", "font.size": 9})
    nights = results["nights"]
    numbers = range(1, len(nights) + 1)

    def values(name: str) -> list[float]:
        return [float("nan") if night[name] is None else night[name] for night in nights]

    def quality(model: str) -> list[float]:
        return [night["ndcg@10"][model] for night in nights]

    curves = {
        "disk, MB": [
            ("output folder", values("output_megabytes"), GREEN),
            ("delivered", values("delivered_megabytes"), BROWN),
            ("temporary folder", values("temporary_megabytes"), BLUE),
        ],
        "peak memory, GB": [("all processes of the run", values("peak_gigabytes"), GREEN)],
        "items": [("vocabulary", values("items"), GREEN)],
        "thousands": [
            ("events", [night["events"] / 1000 for night in nights], BLUE),
            ("users", [night["users"] / 1000 for night in nights], GREEN),
        ],
        "seconds a night, all tries": [
            ("by the clock", values("seconds"), BROWN),
            ("of the processors", values("cpu_seconds"), GREEN),
        ],
        "NDCG@10": [("student", quality("student"), GREEN), ("popularity", quality("popularity"), BROWN)],
    }
    figure, panels = plt.subplots(3, 2, figsize=(8.4, 6.6), sharex=True, layout="constrained")
    for panel, (label, lines) in zip(panels.flat, curves.items(), strict=True):
        for number, night in zip(numbers, nights, strict=True):
            if night["faults"]:
                panel.axvspan(number - 0.5, number + 0.5, color=FAULT, lw=0, alpha=0.6)
        for name, line, colour in lines:
            panel.plot(numbers, line, color=colour, marker="o", ms=2, lw=1, label=name)
        panel.margins(y=0.15)
        panel.set(ylabel=label, xlim=(0.5, len(nights) + 0.5), ylim=(0, None))
        panel.legend(loc="best", frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[-1]:
        panel.set_xlabel("night; a bar marks a night with a fault")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(json.loads((RESULTS / "sixty_nights.json").read_text()), RESULTS / "sixty_nights.svg")
