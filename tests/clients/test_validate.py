"""`openenv validate --url` of 0.10.0 passes in both modes, and our OpenAPI document is valid."""

import json
import subprocess
import sys

import harness.loopback_only
import pytest
from clients.stock import newest_only
from harness.plain_http import get
from harness.server import clean_environment

MODES = ["simulation", "production"]


@newest_only("validate --url is checked with the newest command line")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("environment", ["echo", "connect4", "grid_world", "number_guess"])
def test_openenv_validate(serve, environment, mode):
    server = serve(environment, "--mode", mode)
    finished = subprocess.run(
        [
            sys.executable,
            harness.loopback_only.__file__,
            "openenv.cli",
            "validate",
            "--url",
            server.url,
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment() | {"HF_HUB_OFFLINE": "1"},
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads(finished.stdout)
    assert report["passed"] and report["mode"] == mode
    assert report["summary"]["failed_criteria"] == []
    assert "BLOCKED" not in finished.stderr, finished.stderr


@newest_only("openapi-spec-validator is in tests/requirements-0.10.0.txt")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("environment", ["echo", "connect4"])
def test_openapi_document_is_valid(serve, environment, mode):
    from openapi_spec_validator import OpenAPIV31SpecValidator

    document = get(f"{serve(environment, '--mode', mode).url}/openapi.json").json()
    assert document["openapi"].startswith("3.1.")
    assert not [
        f"{list(error.absolute_path)}: {error.message}"
        for error in OpenAPIV31SpecValidator(document).iter_errors()
    ]
    controls = {"/reset", "/step", "/state"} & set(document["paths"])
    assert controls == ({"/reset", "/step", "/state"} if mode == "simulation" else set())


def test_the_guard_blocks_what_is_not_loopback():
    assert all(map(harness.loopback_only.is_loopback, ("127.0.0.1", b"127.0.0.1", "::1", "localhost", None)))
    assert not any(
        map(harness.loopback_only.is_loopback, ("192.0.2.1", "example.org", "localhost.example.org"))
    )
    with pytest.raises(PermissionError):
        harness.loopback_only.guard("socket.connect", (None, ("192.0.2.1", 443)))
    with pytest.raises(PermissionError):
        harness.loopback_only.guard("socket.getaddrinfo", ("example.org", 443, 0, 0, 0))
