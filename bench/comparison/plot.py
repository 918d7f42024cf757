"""The plot: requests per second of each server, as bars on a logarithmic scale.

Drawn without a background, in colours that read on a light and on a dark page.
"""

import math

from .results import Run

WIDTH, HEIGHT = 1200, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 60, 60
LOWEST, HIGHEST = 10, 1_000_000
GROUPS = [
    ("ws-64", "/ws step", "64 sessions"),
    ("ws-256", "/ws step", "256 sessions"),
    ("mcp", "POST /mcp", "32 connections"),
    ("http", "POST /step", "32 connections"),
    ("churn", "connect, reset,", "step, close"),
    ("mcp-2026", "MCP 2026-07-28", "32 connections"),
    ("mcp-2025", "MCP 2025-11-25", "32 sessions"),
    ("proxy-16", "stdio upstream", "16 in flight"),
]
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
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #57606a }
  .title { font-size: 15px; font-weight: 600 }
  .value { font-size: 10px }
  line { stroke: #8b949e; stroke-opacity: 0.35 }
  @media (prefers-color-scheme: dark) { text { fill: #adbac7 } }
"""


def svg(run: Run) -> str:
    body = [text(LEFT, 20, "Requests per second, one core (logarithmic)", "start", "title"), *legend(run), *grid()]
    for index, (measure, *names) in enumerate(GROUPS):
        body += group(run, index, measure, names)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Requests per second of each server">',
        f"<style>{STYLE}</style>",
        *body,
        "</svg>",
    ]) + "\n"


def group(run: Run, index: int, measure: str, names: list[str]) -> list[str]:
    room = (WIDTH - LEFT - RIGHT) / len(GROUPS)
    middle = LEFT + room * (index + 0.5)
    drawn = [text(middle, HEIGHT - BOTTOM + 18 + 15 * line, name) for line, name in enumerate(names)]
    bars = [(name, run.median(name, measure, "rate")) for name in LABELS]
    bars = [(name, rate) for name, rate in bars if rate]
    width = min(36.0, room * 0.9 / max(len(bars), 1))
    left = middle - width * len(bars) / 2
    for place, (name, rate) in enumerate(bars):
        x, y = left + place * width, height_of(rate)
        drawn.append(
            f'<rect x="{x + 2:.1f}" y="{y:.1f}" width="{width - 4:.1f}" height="{HEIGHT - BOTTOM - y:.1f}" '
            f'rx="2" fill="{COLOURS[name]}"><title>{LABELS[name]}: {rate:,.0f} per second</title></rect>'
        )
        drawn.append(text(x + width / 2, y - 4, short(rate), "middle", "value"))
    return drawn


def legend(run: Run) -> list[str]:
    drawn, x = [], LEFT
    for name in LABELS:
        if name in run.raw:
            drawn.append(f'<rect x="{x}" y="30" width="12" height="12" rx="2" fill="{COLOURS[name]}"/>')
            drawn.append(text(x + 18, 40, LABELS[name], "start"))
            x += 40 + 7 * len(LABELS[name])
    return drawn


def grid() -> list[str]:
    drawn = []
    for power in range(round(math.log10(LOWEST)), round(math.log10(HIGHEST)) + 1):
        y = height_of(10**power)
        drawn.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        drawn.append(text(LEFT - 8, y + 4, f"{10**power:,}", "end"))
    return drawn


def height_of(rate: float) -> float:
    share = math.log10(min(max(rate, LOWEST), HIGHEST) / LOWEST) / math.log10(HIGHEST / LOWEST)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def short(rate: float) -> str:
    return f"{rate / 1000:.0f}k" if rate >= 10_000 else f"{rate / 1000:.1f}k" if rate >= 1000 else f"{rate:.0f}"


def text(x: float, y: float, content: str, anchor: str = "middle", kind: str = "") -> str:
    styled = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{styled}>{content}</text>'
