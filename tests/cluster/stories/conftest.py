"""Plays all selected stories at once: they wait for timers of Proxmox and Kubernetes most of the time."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.stories import theatre
from pveha import api
from pveha.devkube import target

STAGGER_SECONDS = 2.0
"""Between the beginnings of two stories: starting processes is what takes the processor."""
STORY_SECONDS = 400.0


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def playing(
    request: pytest.FixtureRequest, kube: target.Target, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[theatre.Story, asyncio.Task[None]]]:
    """The stories of all selected tests, being played."""
    kube.admin.kubectl("apply", "--server-side", "-k", str(theatre.ROOT / "crds"))
    names = [f"crd/{resource.plural}.{api.GROUP}" for resource in api.RESOURCES]
    kube.admin.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    found = [getattr(getattr(item, "function", None), "story", None) for item in request.session.items]
    plays: list[theatre.Story] = [play for play in found if play is not None]
    tasks = {}
    for number, play in enumerate(plays):
        folder = tmp_path_factory.mktemp(re.sub(r"\W", "-", play.__name__))
        tasks[play] = asyncio.create_task(_play(play, kube, folder, number * STAGGER_SECONDS))
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


async def _play(play: theatre.Story, kube: target.Target, folder: Path, delay: float) -> None:
    await asyncio.sleep(delay)
    on = theatre.Theatre(kube, folder)
    try:
        async with asyncio.timeout(STORY_SECONDS):
            await play(on)
    except Exception as problem:
        problem.add_note(on.tails())
        raise
    finally:
        await on.close()
