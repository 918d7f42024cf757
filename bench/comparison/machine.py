"""What is measured on and with: builds, virtual environments, and the machine for the report.

Nothing that names this machine's paths goes into the report.
"""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OPENENV = "0.10.0"
FASTMCP = "4.1.6"
STOCK = "openenv-typed"
PLOT = "plot"


@dataclass(frozen=True)
class Venv:
    """A virtual environment of a Python peer, or of the plot."""

    name: str
    install: tuple[str, ...]
    """What pip is asked to install."""
    packages: tuple[str, ...]
    """Whose versions the report has."""


def venvs(root: Path) -> dict[str, Venv]:
    """The virtual environments, by the names of the peers that need them."""
    openenv = Venv(f"openenv-{OPENENV}", (f"openenv=={OPENENV}",),
                   ("openenv", "fastmcp", "uvicorn", "pydantic", "websockets"))
    fastmcp = Venv(f"fastmcp-{FASTMCP}", ("-r", str(root / "bench" / "peers" / "fastmcp.txt")),
                   ("fastmcp-slim", "mcp", "uvicorn", "pydantic"))
    return {"openenv-echo": openenv, "openenv-typed": openenv, "fastmcp": fastmcp}


def plot_venv(root: Path) -> Venv:
    """The virtual environment with matplotlib."""
    return Venv(PLOT, ("-r", str(root / "bench" / "comparison" / "requirements.txt")), ())


@dataclass(frozen=True)
class Setup:
    """What a run needs to start, and what its report says about the machine."""

    target: Path
    binaries: Path
    pythons: dict[str, Path]
    """The interpreter of each Python peer."""
    stock_client: Path
    """The interpreter that has the stock client."""
    wheel: Path | None
    """The interpreter that has our wheel, if it was built as the binaries are."""
    plot: Path
    """The interpreter that has matplotlib."""
    machine: list[tuple[str, str]]
    versions: list[tuple[str, str]]


def prepare(root: Path, build: bool, debug: bool, without: list[str]) -> Setup:
    """Builds what is missing and describes the machine."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target")).resolve()
    profile = "debug" if debug else "dist"
    if build:
        cargo = ["cargo", "build", *([] if debug else ["--profile", profile]), "-p", "oxenv-bench"]
        subprocess.run([*cargo, "-p", "oxenv", "--bins"], cwd=root, check=True)
        # Apart from the rest: what an example needs besides must not change what is measured.
        subprocess.run([*cargo, "--examples"], cwd=root, check=True)
    # The stock client's is that of the stock servers.
    needed = {name: venv for name, venv in venvs(root).items() if name not in without or name == STOCK}
    interpreters = {name: interpreter(root, venv) for name, venv in {**needed, PLOT: plot_venv(root)}.items()}
    wanted = {name: venv for name, venv in needed.items() if name not in without}
    pythons = {name: interpreters[name] for name in wanted}
    return Setup(
        target=target,
        binaries=target / profile,
        pythons=pythons,
        stock_client=interpreters[STOCK],
        wheel=wheel(root, profile),
        plot=interpreters[PLOT],
        machine=machine(),
        versions=versions(root, {pythons[name]: venv for name, venv in wanted.items()}),
    )


def interpreter(root: Path, venv: Venv) -> Path:
    """The interpreter of a virtual environment, which is made if it is not there."""
    python = python_of(root, venv.name)
    if not python.exists():
        make_venv(python.parent.parent, venv)
    return python


def python_of(root: Path, venv: str) -> Path:
    return root / "target" / "venvs" / venv / "bin" / "python"


def wheel(root: Path, profile: str) -> Path | None:
    """The interpreter that scripts/wheel has installed the wheel for."""
    python = python_of(root, "wheel")
    installed = python.parent.parent / ".installed"
    built = installed.exists() and installed.read_text(encoding="utf-8").endswith(profile)
    return python if built else None


def make_venv(folder: Path, venv: Venv) -> None:
    """Makes it whole or not at all: a half of one would be taken for a whole one by the next run."""
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet",
               "--disable-pip-version-check"]
        subprocess.run([*pip, *venv.install], check=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


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


def versions(root: Path, interpreters: dict[Path, Venv]) -> list[tuple[str, str]]:
    found = [("oxenv", revision(root)),
             ("rustc", output(["rustc", "--version"], root).removeprefix("rustc "))]
    found.append(("rmcp", locked(root, "rmcp")))
    code = "import platform, importlib.metadata as m, sys; print(platform.python_version())\n"
    code += "for name in sys.argv[1:]: print(m.version(name))"
    for python, venv in interpreters.items():
        lines = output([str(python), "-c", code, *venv.packages], root).splitlines()
        packages = [f"{name} {version}" for name, version in zip(("python", *venv.packages), lines)]
        found.append((f"the peer {venv.name}", ", ".join(packages)))
    return found


def locked(root: Path, package: str) -> str:
    """The version of a crate in Cargo.lock."""
    lines = iter((root / "Cargo.lock").read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line == f'name = "{package}"':
            return next(lines).split('"')[1]
    return "not locked"


def revision(root: Path) -> str:
    commit = output(["git", "rev-parse", "--short=12", "HEAD"], root)
    if not commit:
        return "not committed"
    # The report itself is rewritten by each run, so it does not count as a change.
    changed = output(["git", "status", "--porcelain", "--", ".", ":!BENCHMARKS.md", ":!docs/benchmarks.svg"],
                     root)
    return f"{commit} with changes" if changed else commit


def output(command: list[str], root: Path) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
