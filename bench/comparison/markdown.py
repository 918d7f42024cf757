"""BENCHMARKS.md and the same tables for a terminal.

Tables are built once, as rows of text; the two forms differ only in how a row is drawn.
"""

import argparse
from datetime import date

from .machine import Setup
from .measures import ECHO, MEASURES, TYPED, WARMUP_S, Measure, compact
from .results import Run
from .targets import TargetResult

HEADERS = {
    "oxenv": "oxenv",
    "bare": "bare limit",
    "rmcp": "rmcp 3.9.0",
    "fastmcp": "fastmcp 4.1.6",
    "openenv-echo": "openenv 0.10.0 echo (MCP tools)",
    "openenv-typed": "openenv 0.10.0 typed",
    "hosted-echo": "its echo under oxenv, a process each",
    "hosted-typed": "its typed under oxenv, a process each",
    "hosted-echo-threads": "its echo under oxenv, a thread each",
    "hosted-typed-threads": "its typed under oxenv, a thread each",
}
# Measurements that compare variants of one thing: the title of each.
VARIANTS = {
    "hooks": {"oxenv": "without", "oxenv-recording": "with `--record`", "oxenv-metrics": "with `--metrics`"},
    "client-64": {"oxenv": "raw", "client": "Rust client", "client-stock": "Rust client, stock dialect"},
    "client-many-64": {"oxenv": "raw", "client": "Rust client"},
    "pages": {"openenv-pages": "openenv 0.10.0", "hosted-pages": "under oxenv, a process each",
              "hosted-pages-threads": "under oxenv, a thread each"},
}
# Measurements by a program of their own: the title of the table, and its figures.
PROGRAM_FIGURES = {
    "python-1": ("A step of one session from Python, µs", {
        "sync, median": "sync_us", "asyncio, median": "async_us",
    }),
    "multiplexer": ("A tool call through a multiplexer of two endpoints, µs", {
        "bytes that were built once, straight to one endpoint, median": "bare_us",
        "straight to one endpoint, with the MCP SDK's client, median": "sdk_us",
        "straight to one endpoint, with the multiplexer's own client, median": "straight_us",
        "through the multiplexer, median": "multiplexer_us",
        "what the multiplexer adds": "added_us",
    }),
    "fleet": ("`from_fleet` beyond the simulated time of an instance's creation, ms", {
        "median": "beyond_ms", "longest": "longest_ms",
    }),
    "docker": ("An environment in a container, ms", {
        "`docker run` until the first healthy reply": "docker_run_ms",
        "`from_docker_image` until there is a session": "provider_ms",
    }),
    "forks": ("A fork of a session of connect4, µs", {
        "in process": "in_process_us", "over HTTP, from the request to the reply": "http_us",
    }),
    "toolbox": ("A tool call through a toolbox, µs per call", {
        "the tool, called by its toolset": "direct_us",
        "the tool, called through a toolbox of 50 toolsets": "toolbox_us",
        "what the toolbox adds": "added_us",
    }),
}
CLIENTS = {"oxenv": "oxenv", "client": "oxenv's wheel", "openenv-client": "openenv 0.10.0"}
MIN_SATURATED_SHARE = 0.97
Table = list[list[str]]


def number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{unit}"


def targets_table(target_results: list[TargetResult]) -> Table:
    rows = [["target", "wanted", "figure", "verdict"]]
    for one in target_results:
        target = one.target
        wanted = f"≥ {target.at_least:g}" if target.at_least is not None else f"≤ {target.at_most:,g}"
        rows.append([target.text, wanted + target.unit, number(one.figure, target.unit), one.verdict])
    return rows


def figures_table(run: Run, measures: list[Measure], *keys: str, unit: str = "") -> Table:
    names = [name for name in HEADERS if any(run.values(name, measure.name, *keys) for measure in measures)]
    rows = [["", *(HEADERS[name] for name in names)]]
    for measure in measures:
        rows.append([measure.title, *(cell(run, name, measure.name, keys, unit) for name in names)])
    return rows


def cell(run: Run, server: str, measure: str, keys: tuple[str, ...], unit: str) -> str:
    """The median, the range of the rounds, and a mark if the load generator limits it."""
    values = run.values(server, measure, *keys)
    text = number(run.median(server, measure, *keys), unit)
    if len(values) > 1:
        text += f" ({number(min(values))} to {number(max(values))})"
    return text + (" †" if values and load_bound(run, server, measure) else "")


def load_bound(run: Run, server: str, measure: str) -> bool:
    load = run.median(server, measure, "load", "cpu_share")
    used = run.median(server, measure, "server", "cpu_share")
    if load is None or used is None:
        return False
    return load >= MIN_SATURATED_SHARE > used


def tables(run: Run, target_results: list[TargetResult], wanted: list[Measure]) -> list[tuple[str, Table]]:
    separate = {"start", "idle", "idle-10k", *VARIANTS, *PROGRAM_FIGURES}
    loads = [measure for measure in wanted if measure.name not in separate]
    chosen = {measure.name: measure for measure in wanted}
    made = [("Targets", targets_table(target_results))]
    if loads:
        made += [
            ("Requests per second", figures_table(run, loads, "rate")),
            ("Median latency, µs", figures_table(run, loads, "latency_us", "p50")),
            ("99th percentile of latency, µs", figures_table(run, loads, "latency_us", "p99")),
            ("Server CPU per request, µs", figures_table(run, loads, "server", "cpu_us_per_request")),
            ("Share of its core that the server used", figures_table(run, loads, "server", "cpu_share")),
            ("Share of its core that the load generator used",
             figures_table(run, loads, "load", "cpu_share")),
            ("Bytes of a reply", figures_table(run, loads, "reply_bytes")),
        ]
    if start := chosen.get("start"):
        made.append(("Start, ms from spawn to the first healthy reply",
                     figures_table(run, [start], "start_ms")))
        made.append(("Resident memory after the start, bytes", figures_table(run, [start], "rss_bytes")))
    if idle := chosen.get("idle"):
        made.append(("Memory of an idle session, bytes", figures_table(run, [idle], "bytes_per_session")))
    if many := chosen.get("idle-10k"):
        made.append(("Resident memory with 10,000 idle sessions, bytes",
                     figures_table(run, [many], "rss_idle_bytes")))
    made += [(f"{chosen[name].title}: what each does", variants_table(run, name))
             for name in VARIANTS if name in chosen]
    made += [(title, program_table(run, name, rows))
             for name, (title, rows) in PROGRAM_FIGURES.items() if name in chosen]
    return made


def variants_table(run: Run, measure: str) -> Table:
    """One measurement of several that differ in one thing."""
    columns = {
        "requests/s": ("rate",), "p50, µs": ("latency_us", "p50"), "p99, µs": ("latency_us", "p99"),
        "server CPU per request, µs": ("server", "cpu_us_per_request"),
        "server's share of its core": ("server", "cpu_share"),
        "load's share of its core": ("load", "cpu_share"),
    }
    rows = [["", *columns]]
    for name, title in VARIANTS[measure].items():
        rows.append([title, *(cell(run, name, measure, keys, "") for keys in columns.values())])
    return rows


def program_table(run: Run, measure: str, rows: dict[str, str]) -> Table:
    names = [name for name in CLIENTS if run.reports(name, measure)]
    table = [["", *(CLIENTS[name] for name in names)]]
    return table + [[title, *(cell(run, name, measure, (key,), "") for name in names)]
                    for title, key in rows.items()]


def document(run: Run, target_results: list[TargetResult], setup: Setup, args: argparse.Namespace,
             wanted: list[Measure], day: date) -> str:
    met = sum(one.verdict == "met" for one in target_results)
    measured = sum(one.verdict != "not measured" for one in target_results)
    parts = ["# Benchmarks", f"Written by `bench/compare` on {day.isoformat()}; do not edit."]
    if len(wanted) < len(MEASURES) or args.rounds < 5 or args.without:
        parts.append("**A partial run: these are not the project's figures.**")
    parts.append(f"{met} of {measured} targets that were measured are met.")
    parts.append("![Requests per second of each server, on a logarithmic scale](docs/benchmarks.svg)")
    made = tables(run, target_results, wanted)
    parts += section(*made[0])
    if run.warnings():
        parts.append("Warnings of this run:\n" + "\n".join(f"- {line}" for line in run.warnings()))
    parts += ["## Machine and versions", listing(setup.machine + setup.versions), "## Method", method(args)]
    for title, table in made[1:]:
        parts += section(title, table)
    return "\n\n".join(parts) + "\n"


def section(title: str, table: Table) -> list[str]:
    head, *rows = (f"| {' | '.join(row)} |" for row in table)
    return [f"## {title}", "\n".join([head, "|" + "---|" * len(table[0]), *rows])]


def listing(facts: list[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts)


def method(args: argparse.Namespace) -> str:
    return "\n".join([
        f"- {args.rounds} round(s); every figure is the median of the rounds, with the lowest and the "
        "highest in brackets; a ratio is one of medians.",
        "- A round starts every server afresh. Each measurement then goes over all servers before the next "
        "begins, and each round begins with another server. The next server is measured when the last one "
        "is idle.",
        "- Servers, and the upstreams that they start, run on core 0, the load generator (`oxenv bench`, "
        "one thread) on core 1, over loopback with TCP_NODELAY, built with the profile `dist`.",
        f"- Closed loop: one request in flight for each session or connection; {args.seconds:g} s are "
        f"measured after {WARMUP_S:g} s of warm-up, with all sessions open and reset before. A reply that "
        "is an error is no request.",
        f"- Payload: `{compact(ECHO)}` and the same reply, byte for byte, from oxenv and the bare limit, "
        "and the same in content from the others, `_meta` apart (the run compares them and reports a "
        f"difference under warnings). The typed environment has no tools: its action is `{{\"message\":…}}` "
        f"with {len(TYPED['message'])} characters, which makes the requests as many bytes long; its reply "
        "is about 0.6 times as long as the others', which is in its favour. It has no `POST /mcp` tools.",
        "- The bare limit (`oxenv-bare`, not shipped) parses the JSON and formats the reply and does nothing "
        "else: no sessions, no validation. tokio-tungstenite for `/ws`, axum and serde_json for HTTP.",
        "- openenv is what `pip install openenv==0.10.0` gives, served with uvicorn, 512 sessions at most; "
        "its `POST /step` and `POST /mcp` build an environment for each request, as it is designed to.",
        "- `POST /step` and `POST /mcp` of oxenv go to its one default session, on all connections, unless "
        "MCP's handshake made sessions.",
        "- rmcp is the official Rust SDK with a handler written by hand: its `StreamableHttpService` "
        "behind axum, stateless with JSON replies for MCP 2026-07-28, with sessions and event streams (its "
        "default) for 2025-11-25. fastmcp is served with uvicorn, stateless with JSON replies.",
        "- A stdio upstream is rmcp's own server with an echo tool, one process for all calls. oxenv "
        "serves it from a manifest; the bare limit is an axum handler that forwards to rmcp's client; "
        "rmcp is that client alone, in one process with its callers, so that its calls cross no socket. "
        "Ratios to it include the whole HTTP exchange. CPU figures are without the upstream's.",
        "- The lists are those of a manifest with 50 upstreams of 20 tools each. A reply is read and "
        "compared within its latency; the server's part of it is its CPU time.",
        "- A call through a toolbox is measured without a server, on core 0: 1,000 native tools in 50 "
        "toolsets, each with patterns to allow and deny, a role's and a rate limit, called in an order "
        "without locality, in turns with calls of the toolsets themselves.",
        "- The Rust client and the raw load generator send the same steps to servers of their own, one of "
        "each, from one thread: one session for each socket in what the server offers (`oxenv.1`) and in "
        "the stock dialect, or all of them on one socket.",
        "- From Python, one session steps for the same time by the wheel's client and by openenv's, each "
        "in an interpreter on core 1, first blocking, then in an event loop.",
        "- The multiplexer is measured over two servers on threads of their own, in turns with its own "
        "client and the MCP SDK's (`rmcp`) straight to one of them, one call in flight, all on core 0. "
        "What it adds is counted from the faster of the two.",
        "- `from_fleet` is timed until the tools are connected, against a simulator that holds each "
        "creation for 250 ms, which is taken away. `from_docker_image` is timed until there is a session, "
        "in turns with `docker run` of the same image up to the first healthy reply, asked for every "
        "millisecond.",
        "- An idle session is connected and reset. Its memory is the growth of the server's resident set: "
        "2,000 sessions on oxenv and the bare limit, 256 on openenv, in a server that had one session "
        "before. Memory that the kernel holds for sockets is not in it. KB are 1,000 bytes.",
        "- The start is timed from before the process is spawned (through `taskset`) to the reply of `GET "
        "/health`, asked for without a pause.",
        "- CPU time is what `/proc` says, in ticks of 10 ms.",
        f"- † the load generator used at least {MIN_SATURATED_SHARE:.0%} of its core and the server less: "
        "the figure is the load generator's.",
    ])


def console(run: Run, target_results: list[TargetResult], wanted: list[Measure]) -> str:
    parts = []
    for title, table in tables(run, target_results, wanted):
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in table]
        parts.append("\n".join([f"== {title}", *lines]))
    parts += [f"! {line}" for line in run.warnings()]
    return "\n\n".join(parts)
