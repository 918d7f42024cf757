"""The figures that must be reached, and whether they are.

Every target is a ratio of medians, or a median against a limit; what was not measured is neither met nor missed.
"""

from dataclasses import dataclass

from .results import Run

RATE = ("rate",)
P50 = ("latency_us", "p50")
CPU = ("server", "cpu_us_per_request")


@dataclass(frozen=True)
class Target:
    text: str
    measure: str
    keys: tuple[str, ...]
    against: str | None
    """The server that is compared with; none where the limit is absolute."""
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "×"


@dataclass(frozen=True)
class Judged:
    target: Target
    figure: float | None

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "not measured"
        low, high = self.target.at_least, self.target.at_most
        met = (low is None or self.figure >= low) and (high is None or self.figure <= high)
        return "met" if met else "MISSED"


def step_targets(sessions: int) -> list[Target]:
    name, what = f"ws-{sessions}", f"`/ws` steps/s at {sessions} sessions"
    return [
        Target(f"{what}, of the bare WebSocket responder", name, RATE, "bare", at_least=0.75),
        Target(f"{what}, of openenv 0.10.0's MCP echo", name, RATE, "openenv-echo", at_least=150),
        Target(f"{what}, of openenv 0.10.0's typed environment", name, RATE, "openenv-typed", at_least=20),
    ]


TARGETS = [
    *step_targets(64),
    *step_targets(256),
    Target("`/ws` p50 at one session, of bare", "ws-1", P50, "bare", at_most=1.3),
    Target("`POST /mcp` tools/call, CPU per request, of bare axum + serde_json", "mcp", CPU, "bare", at_most=1.3),
    Target("`POST /step`, CPU per request, of bare axum + serde_json", "http", CPU, "bare", at_most=1.3),
    Target("connect + reset + step + close, of openenv 0.10.0 typed", "churn", RATE, "openenv-typed", at_least=15),
    Target("connect + reset + step + close, of openenv 0.10.0 echo", "churn", RATE, "openenv-echo", at_least=150),
    Target("a held idle session", "held", ("bytes_per_session",), None, at_most=32_000, unit=" bytes"),
    Target("start to first healthy reply", "start", ("start_ms",), None, at_most=30, unit=" ms"),
]


def judge(run: Run) -> list[Judged]:
    return [Judged(target, figure(run, target)) for target in TARGETS]


def figure(run: Run, target: Target) -> float | None:
    ours = run.median("oxenv", target.measure, *target.keys)
    if target.against is None or ours is None:
        return ours
    theirs = run.median(target.against, target.measure, *target.keys)
    return ours / theirs if theirs else None
