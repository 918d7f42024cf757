"""The RFC's manifests in a container, on a folder of somebody else's: it is read and written, and stays
theirs."""

import os
import shutil
from pathlib import Path
from typing import Iterator

import pytest
from docker.containers import WITH_TMP, running
from harness.plain_http import get, post
from tools.doors import DOORS, newest_mcp, stock
from tools.test_rfc import printed

OWNER = (1234, 1235)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    """A folder that only its owner may look into, with a file and a folder."""
    # The parents of tmp_path are root's own; a container's user has to reach the folder only, not its
    # parents.
    folder = tmp_path / "workspace"
    (folder / "notes").mkdir(parents=True)
    (folder / "hello.txt").write_text("from the workspace\n")
    (folder / "notes" / "private.txt").write_text("kept\n")
    (folder / "hello.txt").chmod(0o640)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, *OWNER)
    folder.chmod(0o700)
    yield folder
    shutil.rmtree(folder)


def snapshot(folder: Path) -> dict[str, tuple]:
    """Everything about a folder that a container might change."""
    seen = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        seen[str(path.relative_to(folder))] = (stat.st_uid, stat.st_gid, oct(stat.st_mode), content)
    return seen


def manifest_flags(name: str, tmp_path: Path) -> tuple[list[str], tuple[str, ...]]:
    """The RFC's manifest, mounted where the image with Node expects nothing, and the command that serves
    it."""
    file = tmp_path / "tools.yaml"
    file.write_text(printed(name), encoding="utf-8")
    file.chmod(0o644)
    flags = ["--volume", f"{file}:/app/tools.yaml:ro", "--env", "GITHUB_TOKEN=a-token-of-nobody"]
    return flags, ("serve", "--tools", "/app/tools.yaml", "--host", "0.0.0.0", "--open")


@pytest.mark.parametrize("case", ["coding-env", "filesystem", "manifest"])
def test_the_rfc_s_manifest_reads_the_mounted_folder(case, workspace, tmp_path):
    flags, command = ([], ()) if case == "coding-env" else manifest_flags(case, tmp_path)
    image = "coding-env:latest" if case == "coding-env" else "oxenv-tools:latest"
    before = snapshot(workspace)
    with running(image, *WITH_TMP, *flags, command=command, user=workspace) as container:
        assert post(f"{container.url}/reset", {}, timeout_s=60.0).status == 200
        for name, door in DOORS.items():
            answer = door(container.url, "read_text_file", {"path": "/workspace/hello.txt"})
            assert "from the workspace" in answer.text, name
        assert snapshot(workspace) == before
        toolsets = {
            tool.get("toolset") for tool in get(f"{container.url}/tools", timeout_s=60.0).json()["tools"]
        }
        assert ("github" in toolsets) == (case == "manifest")
    assert snapshot(workspace) == before


def test_what_is_written_belongs_to_the_folder_s_owner(workspace):
    before = snapshot(workspace)
    with running("coding-env:latest", *WITH_TMP, user=workspace) as container:
        assert post(f"{container.url}/reset", {}, timeout_s=60.0).status == 200
        arguments = {"path": "/workspace/notes/new.txt", "content": "made by a tool"}
        assert not stock(container.url, "write_file", arguments).is_error
        # A reset begins a new episode; the folder is not the session's own, so it is left as it is.
        assert post(f"{container.url}/reset", {}, timeout_s=60.0).status == 200
    new = workspace / "notes" / "new.txt"
    assert new.read_text() == "made by a tool"
    assert (new.stat().st_uid, new.stat().st_gid) == OWNER
    after = snapshot(workspace)
    assert {path: seen for path, seen in after.items() if path != "notes/new.txt"} == before


def test_nothing_outside_the_folder_is_reached(workspace):
    with running("coding-env:latest", *WITH_TMP, user=workspace) as container:
        assert post(f"{container.url}/reset", {}, timeout_s=60.0).status == 200
        answer = newest_mcp(container.url, "read_text_file", {"path": "/etc/passwd"})
        assert answer.is_error and "outside allowed directories" in answer.text
