"""These tests need a daemon that nobody else uses: `scripts/with-docker` starts one, with the images."""

import os
from typing import Iterator

import pytest
from docker.containers import count


def pytest_configure() -> None:
    if "OXENV_DOCKER_HOST" not in os.environ:
        pytest.exit("run these by scripts/with-docker: they count containers", returncode=2)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Each test leaves as many containers as it found: none."""
    assert count() == 0
    yield
    assert count() == 0
