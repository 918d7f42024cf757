"""The plot: requests per second of each server, as bars on a logarithmic scale.

bench/compare runs it as `python -m comparison.plot RESULTS.json PLOT.svg` in a virtual environment with
matplotlib. The background is transparent; the colours are readable on a light and on a dark page.
"""

import json
import sys
from pathlib import Path

import matplotlib

from .results import Run

matplotlib.use("svg")
matplotlib.rcParams.update({
    # Text stays text; ids do not differ from run to run.
    "svg.fonttype": "none",
    "svg.hashsalt": "oxenv",
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "text.color": "#768390",
    "axes.labelcolor": "#768390",
    "xtick.color": "#768390",
    "ytick.color": "#768390",
})

from matplotlib import pyplot  # noqa: E402

GROUPS = {
    "ws-64": "/ws step\n64 sessions",
    "ws-256": "/ws step\n256 sessions",
    "mcp": "POST /mcp\n32 connections",
    "http": "POST /step\n32 connections",
    "churn": "connect, reset,\nstep, close",
    "mcp-2026": "MCP 2026-07-28\n32 connections",
    "mcp-2025": "MCP 2025-11-25\n32 sessions",
    "proxy-16": "stdio upstream\n16 in flight",
}
COLOURS = {
    "oxenv": "#2f81f7",
    "bare": "#8b949e",
    "rmcp": "#a371f7",
    "fastmcp": "#3fb950",
    "openenv-echo": "#db6d28",
    "openenv-typed": "#bf8700",
}
LABELS = {
    "oxenv": "oxenv",
    "bare": "bare limit",
    "rmcp": "rmcp 3.9.0",
    "fastmcp": "fastmcp 4.1.6",
    "openenv-echo": "openenv 0.10.0 echo (MCP)",
    "openenv-typed": "openenv 0.10.0 typed",
}
MAX_BAR_WIDTH = 0.2
"""Of the distance between two groups."""


def draw(run: Run, path: Path) -> None:
    """Writes the plot of all measurements that the run has."""
    rates = {measure: rates_of(run, measure) for measure in GROUPS}
    rates = {measure: of_servers for measure, of_servers in rates.items() if of_servers}
    width = min(MAX_BAR_WIDTH, 0.9 / max(map(len, rates.values()), default=1))
    figure, axes = pyplot.subplots(figsize=(max(2 * len(rates), 4), 4), layout="constrained")
    for number, of_servers in enumerate(rates.values()):
        for place, (server, rate) in enumerate(of_servers.items()):
            position = number + width * (place - (len(of_servers) - 1) / 2)
            bars = axes.bar(position, rate, width=width * 0.9, color=COLOURS[server])
            axes.bar_label(bars, labels=[short(rate)], padding=1, fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(10, 1_000_000)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xticks(range(len(rates)), [GROUPS[measure] for measure in rates])
    axes.set_title("Requests per second, one core (logarithmic)", loc="left", fontsize=11, pad=26)
    axes.grid(axis="y", color="#8b949e", alpha=0.35, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.minorticks_off()
    axes.spines[:].set_visible(False)
    shown = [server for server in LABELS if any(server in of_servers for of_servers in rates.values())]
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=COLOURS[server]) for server in shown]
    axes.legend(handles, [LABELS[server] for server in shown], loc="lower left", bbox_to_anchor=(-0.01, 1),
                ncols=len(shown), frameon=False, handlelength=1, handleheight=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    title = "Requests per second of each server"
    figure.savefig(path, transparent=True, metadata={"Title": title, "Date": None, "Creator": None})


def rates_of(run: Run, measure: str) -> dict[str, float]:
    rates = {server: run.median(server, measure, "rate") for server in LABELS}
    return {server: rate for server, rate in rates.items() if rate}


def short(rate: float) -> str:
    if rate >= 10_000:
        return f"{rate / 1000:.0f}k"
    return f"{rate / 1000:.1f}k" if rate >= 1000 else f"{rate:.0f}"


if __name__ == "__main__":
    draw(Run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), Path(sys.argv[2]))
