"""What a new leader needs from Kubernetes before it can do anything."""

import pytest

from pveha.control import loop
from pveha.model import errors
from pveha.sim import clock, kubernetes


@pytest.mark.parametrize(("lost", "read"), [(1, True), (2, False)])
def test_a_secret_is_asked_for_twice(lost: int, read: bool) -> None:
    server = kubernetes.SimulatedKubernetes()
    server.put_secret("default", "token", {"tokenID": b"x"})
    left = lost

    async def hang(request: str) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise errors.Unreachable("no answer in 5 s")

    async def main() -> None:
        server.hang = hang
        if read:
            assert await loop.read_secret(server, "default", "token") == {"tokenID": b"x"}
        else:
            with pytest.raises(errors.Unreachable):
                await loop.read_secret(server, "default", "token")

    clock.run(main())
