"""What is measured on and with: builds, the peers' virtual environment, and the facts for the report.

Nothing that names this machine's paths goes into the report.
"""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OPENENV = "0.10.0"
PACKAGES = ("openenv", "fastmcp", "uvicorn", "pydantic", "websockets")


@dataclass(frozen=True)
class Facts:
    target: Path
    binaries: Path
    peer_python: Path
    machine: list[tuple[str, str]]
    versions: list[tuple[str, str]]


def prepare(root: Path, build: bool, peers: bool) -> Facts:
    """Builds what is missing and gathers the facts."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target")).resolve()
    if build:
        subprocess.run(["cargo", "build", "--release", "-p", "oxenv", "-p", "oxenv-bench"], cwd=root, check=True)
    peer_python = root / "target" / "venvs" / f"openenv-{OPENENV}" / "bin" / "python"
    if peers and not peer_python.exists():
        make_venv(peer_python.parent.parent)
    return Facts(
        target=target,
        binaries=target / "release",
        peer_python=peer_python,
        machine=machine(),
        versions=versions(root, peer_python if peers else None),
    )


def make_venv(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", f"openenv=={OPENENV}"]
    subprocess.run(pip, check=True)


def machine() -> list[tuple[str, str]]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        ("CPU", cpu_model()),
        ("cores", str(os.cpu_count())),
        ("memory", f"{memory:.0f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
    ]


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def versions(root: Path, peer_python: Path | None) -> list[tuple[str, str]]:
    found = [("oxenv", revision(root)), ("rustc", output(["rustc", "--version"], root).removeprefix("rustc "))]
    if peer_python:
        code = "import platform, importlib.metadata as m, sys; print(platform.python_version())\n"
        code += "for name in sys.argv[1:]: print(m.version(name))"
        lines = output([str(peer_python), "-c", code, *PACKAGES], root).splitlines()
        found += zip(("python", *PACKAGES), lines)
    return found


def revision(root: Path) -> str:
    commit = output(["git", "rev-parse", "--short=12", "HEAD"], root)
    if not commit:
        return "not committed"
    # The report itself is rewritten by each run, so it does not count as a change.
    changed = output(["git", "status", "--porcelain", "--", ".", ":!BENCHMARKS.md", ":!docs/benchmarks.svg"], root)
    return f"{commit} with changes" if changed else commit


def output(command: list[str], root: Path) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
