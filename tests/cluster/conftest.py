"""One API server for all cluster tests of a run; tests make and remove namespaces and definitions."""

from collections.abc import Iterator

import pytest

from pveha.devkube import cache, controlplane, target


@pytest.fixture(scope="session")
def kube(request: pytest.FixtureRequest, show_progress: cache.Say) -> Iterator[target.Target]:
    """The API server that --kube names."""
    with target.open_target(request.config.getoption("--kube"), show_progress) as opened:
        yield opened


@pytest.fixture
def namespace(kube: target.Target) -> Iterator[str]:
    """A namespace of its own for one test."""
    with kube.namespace() as name:
        yield name


@pytest.fixture
def control_plane(kube: target.Target) -> Iterator[controlplane.ControlPlane]:
    """The API server's processes, for tests that cut it; running again afterwards."""
    plane = kube.control_plane
    if plane is None:
        pytest.skip(f"--kube {kube.name} is not ours to cut: only --kube local is")
    yield plane
    if plane.api_server_pid is None:
        plane.start_api_server()
