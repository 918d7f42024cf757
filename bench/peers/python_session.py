"""One session that steps from Python: the median of a step, by the client of a package.

    python_session.py SERVER PACKAGE [--warmup S] [--seconds S]

SERVER is the oxenv binary, which is started on the other core; PACKAGE has a `GenericEnvClient`: `oxenv`, or
`openenv.core`. Prints one JSON object with microseconds: blocking (`sync_us`) and in an event loop
(`async_us`).
"""

import argparse
import asyncio
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

SERVER_CORE, OUR_CORE = 0, 1
START_DEADLINE_S = 30
ACTION = {"type": "call_tool", "tool_name": "echo_message", "arguments": {"message": "hello"}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("server")
    parser.add_argument("package")
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    client = generic_client(args.package)
    with served(args.server) as url:
        os.sched_setaffinity(0, {OUR_CORE})
        blocking = blocking_steps(client, url, args.warmup, args.seconds)
        looping = asyncio.run(looping_steps(client, url, args.warmup, args.seconds))
    report = {"bench": "python", "package": args.package, "steps": len(blocking) + len(looping)}
    for name, took in (("sync", blocking), ("async", looping)):
        report[f"{name}_us"] = round(statistics.median(took) * 1e6, 1)
        report[f"{name}_p99_us"] = round(statistics.quantiles(took, n=100)[98] * 1e6, 1)
    print(json.dumps(report))


def generic_client(package: str) -> type:
    """The class, wherever its package has it."""
    for module in (package, f"{package}.generic_client"):
        found = getattr(importlib.import_module(module), "GenericEnvClient", None)
        if found is not None:
            return found
    sys.exit(f"{package} has no GenericEnvClient")


@contextmanager
def served(binary: str) -> Iterator[str]:
    """A server of ours on the other core, at a port of its choice."""
    serve = [binary, "serve", "echo", "--host", "127.0.0.1", "--port", "0"]
    command = ["taskset", "-c", str(SERVER_CORE), *serve]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{port_of(process)}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=START_DEADLINE_S)


def port_of(process: subprocess.Popen) -> int:
    """The port that it says it listens on."""
    for line in process.stderr:
        if "127.0.0.1:" in line:
            port = int("".join(digit for digit in line.rsplit("127.0.0.1:", 1)[1][:5] if digit.isdigit()))
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=START_DEADLINE_S).close()
            return port
    sys.exit("the server ended before it listened")


def blocking_steps(client: type, url: str, warmup: float, seconds: float) -> list[float]:
    took = []
    with client(base_url=url).sync() as env:
        env.reset()
        begin = time.perf_counter() + warmup
        while (before := time.perf_counter()) < begin + seconds:
            result = env.step(ACTION)
            after = time.perf_counter()
            check(result)
            if before >= begin:
                took.append(after - before)
    return took


async def looping_steps(client: type, url: str, warmup: float, seconds: float) -> list[float]:
    took = []
    async with client(base_url=url) as env:
        await env.reset()
        begin = time.perf_counter() + warmup
        while (before := time.perf_counter()) < begin + seconds:
            result = await env.step(ACTION)
            after = time.perf_counter()
            check(result)
            if before >= begin:
                took.append(after - before)
    return took


def check(result: object) -> None:
    """A failed call is no step."""
    if result.observation.get("error") is not None:
        sys.exit(f"the tool failed: {result.observation}")


if __name__ == "__main__":
    main()
