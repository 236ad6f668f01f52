"""Listings that come late, and never, in virtual time; the watch itself is tested on an API server."""

import asyncio
from typing import Any

import pytest

from pveha.control import store, watch
from pveha.kube import config
from pveha.model import errors
from pveha.model.kubernetes import Listing
from pveha.report import metrics
from pveha.sim import clock, kubernetes

LIST_SECONDS = 20.0


class Lagging(kubernetes.SimulatedKubernetes):
    """An API server whose listings are all of one moment."""

    version = 9

    async def list_objects(self, kind: str, namespace: str | None) -> Listing:
        return Listing((), str(self.version))


@pytest.fixture
def without_kopf(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(self: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(watch.Watch, "_keep_watching", forever)


async def _play(server: Lagging, back_seconds: float) -> asyncio.Task[None]:
    """The API server is back in its past for a time; returns the watch after that, as a task."""
    watcher = watch.Watch(
        server, config.Access(), None, store.Store(), metrics.Metrics(), list_every=LIST_SECONDS
    )
    task = asyncio.create_task(watcher.run())
    await asyncio.sleep(LIST_SECONDS / 2)
    server.version = 5
    await asyncio.sleep(LIST_SECONDS)
    assert "went back from 9 to 5" in watcher.problem
    await asyncio.sleep(back_seconds - LIST_SECONDS)
    server.version = 10
    await asyncio.sleep(LIST_SECONDS)
    return task


@pytest.mark.usefixtures("without_kopf")
def test_an_api_server_that_lags_is_asked_again() -> None:
    async def main() -> None:
        task = await _play(Lagging(), watch.BACK_SECONDS / 2 + LIST_SECONDS)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    clock.run(main())


@pytest.mark.usefixtures("without_kopf")
def test_one_that_stays_in_the_past_was_restored_from_a_backup() -> None:
    async def main() -> None:
        task = await _play(Lagging(), 2 * watch.BACK_SECONDS)
        with pytest.raises(errors.PvehaError, match="must start anew"):
            await task

    clock.run(main())
