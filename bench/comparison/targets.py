"""The targets, and whether they are met.

A target bounds a ratio or a difference of medians, or a median. One that was not measured is neither met nor
missed.
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
    """The server to compare with; none if the limit is absolute."""
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "×"
    of: str = "oxenv"
    """Whose figure it is."""
    minus: bool = False
    """Whether the other server's figure is subtracted, instead of divided by."""


@dataclass(frozen=True)
class TargetResult:
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


def call_targets() -> list[Target]:
    """Calls over MCP, beside those who do the least and those who do the same."""
    call, sessions = "tools/call of MCP 2026-07-28", "tools/call in sessions of MCP 2025-11-25"
    return [
        Target(f"{call}, CPU per request, of bare axum + serde_json", "mcp-2026", CPU, "bare", at_most=1.35),
        Target(f"{call}, requests/s, of rmcp's service, stateless with JSON", "mcp-2026", RATE, "rmcp",
               at_least=1.7),
        Target(f"{call}, requests/s, of fastmcp 4.1.6, stateless with JSON", "mcp-2026", RATE, "fastmcp",
               at_least=50),
        Target(f"{sessions}, requests/s, of rmcp's service with event streams", "mcp-2025", RATE, "rmcp",
               at_least=0.9),
    ]


def proxy_targets() -> list[Target]:
    """Calls that go through to a stdio upstream. Only we and the forwarding handler carry them over HTTP "
    "first."""
    client, handler = "a bare rmcp client, without HTTP before it", "an axum handler that forwards to one"
    targets = [
        Target(f"upstream's tool, {number} in flight, calls/s, of {whom}", f"proxy-{number}", RATE, name,
               at_least=0.9)
        for whom, name in ((client, "rmcp"), (handler, "bare"))
        for number in (1, 16)
    ]
    added = "upstream's tool, 1 in flight, p50 above that of"
    return targets + [
        Target(f"{added} {whom}", "proxy-1", P50, name, at_most=80, unit=" µs", minus=True)
        for whom, name in ((client, "rmcp"), (handler, "bare"))
    ]


def list_targets() -> list[Target]:
    return [
        Target("`POST /mcp` tools/list of 1,000 tools, p50", "list", P50, None, at_most=1000, unit=" µs"),
        Target("`GET /tools` of 1,000 tools, p50", "tools", P50, None, at_most=1000, unit=" µs"),
        Target("owner among 1,000 tools and policy, per call", "toolbox", ("added_us",), None, at_most=3,
               unit=" µs"),
    ]


def session_targets() -> list[Target]:
    """What trainers rely on must not cost much."""
    recording, metrics = "`/ws` steps/s at 64 sessions with", "of without"
    return [
        Target(f"{recording} --record, {metrics}", "hooks", RATE, "oxenv", at_least=0.8,
               of="oxenv-recording"),
        Target(f"{recording} --metrics, {metrics}", "hooks", RATE, "oxenv", at_least=0.97,
               of="oxenv-metrics"),
        Target("a fork of a native session, in process", "forks", ("in_process_us",), None, at_most=20,
               unit=" µs"),
        Target("a fork of a native session, over HTTP", "forks", ("http_us",), None, at_most=300, unit=" µs"),
        Target("10,000 idle sessions, the server's memory", "idle-10k", ("rss_idle_bytes",), None,
               at_most=320_000_000, unit=" bytes"),
    ]


def client_targets() -> list[Target]:
    """What people write programs with, beside what does the least."""
    raw, stock = "of the raw load generator", "of the stock 0.10.0 client's"
    python = "one session from Python, p50 of a step"
    return [
        Target(f"Rust client, steps/s at 64 sessions, {raw}", "client-64", RATE, "oxenv", at_least=0.85,
               of="client"),
        Target(f"Rust client, stock dialect, steps/s at 64 sessions, {raw}", "client-64", RATE, "oxenv",
               at_least=0.85,
               of="client-stock"),
        Target(f"Rust client, 64 sessions on one socket, steps/s, {raw}", "client-many-64", RATE, "oxenv",
               at_least=0.85, of="client"),
        Target(f"{python}, sync, {stock}", "python-1", ("sync_us",), "openenv-client", at_most=0.6,
               of="client"),
        Target(f"{python}, asyncio, {stock}", "python-1", ("async_us",), "openenv-client", at_most=0.6,
               of="client"),
        Target("multiplexer over two endpoints, added to a call's p50", "multiplexer", ("added_us",), None,
               at_most=60,
               unit=" µs"),
        Target("`from_fleet` beyond the provisioning delay", "fleet", ("beyond_ms",), None, at_most=50,
               unit=" ms"),
        Target("`from_docker_image`, of `docker run` + health", "docker", ("ratio",), None, at_most=1.2),
    ]


def hosted_targets() -> list[Target]:
    """The same environments in Python, under our server and under the stock one, on the same core.

    Sessions are threads of one process, as they are in the stock server, or processes of their own.
    """
    return [target for suffix, kind in (("", "processes"), ("-threads", "threads"))
            for target in hosted_targets_of(suffix, kind)]


def hosted_targets_of(suffix: str, kind: str) -> list[Target]:
    stock, typed = "of openenv 0.10.0's own server", f"a hosted typed environment ({kind}), `/ws`"
    return [
        Target(f"{typed} steps/s at 64 sessions, {stock}", "ws-64", RATE, "openenv-typed", at_least=3,
               of="hosted-typed" + suffix),
        Target(f"{typed} p99 at 64 sessions, {stock}", "ws-64", ("latency_us", "p99"), "openenv-typed",
               at_most=0.5, of="hosted-typed" + suffix),
        Target(f"{typed} p50 at one session, {stock}", "ws-1", P50, "openenv-typed", at_most=0.7,
               of="hosted-typed" + suffix),
        Target(f"a hosted MCP echo ({kind}), `/ws` steps/s at 64 sessions, {stock}", "ws-64", RATE,
               "openenv-echo", at_least=8, of="hosted-echo" + suffix),
        Target(f"a hosted observation of 100 KB ({kind}), `/ws` steps/s at 16 sessions, {stock}", "pages",
               RATE, "openenv-pages", at_least=3, of="hosted-pages" + suffix),
        memory_target(suffix, kind),
    ]


def memory_target(suffix: str, kind: str) -> Target:
    """1,000 sessions are held here, and by the stock server as many as it measures at."""
    what = f"an idle session of a hosted typed environment ({kind})"
    if suffix:
        return Target(f"{what}, memory, of openenv 0.10.0's own server", "idle", ("bytes_per_session",),
                      "openenv-typed", at_most=1, of="hosted-typed" + suffix)
    return Target(f"{what}, memory", "idle", ("bytes_per_session",), None, at_most=3_000_000, unit=" bytes",
                  of="hosted-typed" + suffix)


TARGETS = [
    *step_targets(64),
    *step_targets(256),
    Target("`/ws` p50 at one session, of bare", "ws-1", P50, "bare", at_most=1.3),
    Target("`POST /mcp` tools/call in OpenEnv's dialect, CPU per request, of bare axum + serde_json",
           "mcp", CPU, "bare", at_most=1.3),
    Target("`POST /step`, CPU per request, of bare axum + serde_json", "http", CPU, "bare", at_most=1.3),
    Target("connect + reset + step + close, of openenv 0.10.0 typed", "churn", RATE, "openenv-typed",
           at_least=15),
    Target("connect + reset + step + close, of openenv 0.10.0 echo", "churn", RATE, "openenv-echo",
           at_least=150),
    Target("an idle session", "idle", ("bytes_per_session",), None, at_most=32_000, unit=" bytes"),
    Target("start to first healthy reply", "start", ("start_ms",), None, at_most=30, unit=" ms"),
    *call_targets(),
    *proxy_targets(),
    *list_targets(),
    *session_targets(),
    *client_targets(),
    *hosted_targets(),
]


def evaluate(run: Run) -> list[TargetResult]:
    return [TargetResult(target, figure(run, target)) for target in TARGETS]


def figure(run: Run, target: Target) -> float | None:
    ours = run.median(target.of, target.measure, *target.keys)
    if target.against is None or ours is None:
        return ours
    theirs = run.median(target.against, target.measure, *target.keys)
    if not theirs:
        return None
    return ours - theirs if target.minus else ours / theirs
