"""Plays all selected stories at once (heavy ones after the others), in a thread beside all other tests: they
mostly wait for timers.

Their tests come last and wait for how they end.
"""

import asyncio
import concurrent.futures
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.stories import theatre
from pveha import api
from pveha.devkube import cache, target

STAGGER_SECONDS = 2.0
"""Between the beginnings of two stories: starting processes is what takes the processor."""
AT_ONCE = 10
"""Stories that are played side by side: with more, two cores have no room left for the API server, and
leaders lose their Leases."""
STORY_SECONDS = 600.0
END_SECONDS = 120.0

Ends = dict[theatre.Story, concurrent.futures.Future[None]]
PLAYING = pytest.StashKey["Playing"]()
SEEDS = pytest.StashKey[set[int]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _story(item) is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    plays = [play for item in session.items if (play := _story(item)) is not None]
    functions: list[Any] = [getattr(item, "function", None) for item in session.items]
    session.config.stash[SEEDS] = {each.seed for each in functions if hasattr(each, "seed")}
    if plays and not session.config.option.collectonly:
        session.stash[PLAYING] = Playing(plays, session.config.getoption("--kube"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if playing := session.stash.get(PLAYING, None):
        playing.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell by which seed stories were chosen, which repeats the choice."""
    for seed in config.stash.get(SEEDS, ()):
        terminalreporter.write_line(f"perturbed scenarios of this run: PVEHA_SEED={seed}")


@pytest.fixture(scope="session")
def ends(request: pytest.FixtureRequest) -> Ends:
    """How each story ends."""
    return request.session.stash[PLAYING].ends


def _story(item: pytest.Item) -> Any:
    return getattr(getattr(item, "function", None), "story", None)


class Playing:
    """Stories being played on an API server of their own, since other tests cut theirs."""

    def __init__(self, plays: list[theatre.Story], kube: str) -> None:
        self.ends: Ends = {play: concurrent.futures.Future() for play in plays}
        self._kube = kube
        self._loop = asyncio.new_event_loop()
        self._all: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="stories", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Cancel what still is being played; returns when all of it is taken down."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(lambda: self._all and self._all.cancel())
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        try:
            with (
                tempfile.TemporaryDirectory(prefix="pveha-stories-") as folder,
                target.open_target(self._kube, cache.say_on_stderr) as kube,
            ):
                kube.admin.kubectl("apply", "--server-side", "-k", str(theatre.ROOT / "crds"))
                names = [f"crd/{resource.plural}.{api.GROUP}" for resource in api.RESOURCES]
                kube.admin.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
                self._loop.run_until_complete(self._play_all(kube, Path(folder)))
        except BaseException as problem:
            for end in self.ends.values():
                if not end.done():
                    end.set_exception(problem)
        finally:
            self._loop.close()

    async def _play_all(self, kube: target.Target, folder: Path) -> None:
        self._all = asyncio.current_task()
        places = asyncio.Semaphore(AT_ONCE)
        for heavy in (False, True):
            plays = [play for play in self.ends if (play in theatre.HEAVY) is heavy]
            async with asyncio.TaskGroup() as group:
                for number, play in enumerate(plays):
                    own = folder / re.sub(r"\W", "-", play.__name__)
                    own.mkdir()
                    on = theatre.Theatre(kube, own)
                    group.create_task(_play(play, self.ends[play], on, number * STAGGER_SECONDS, places))


async def _play(
    play: theatre.Story,
    end: concurrent.futures.Future[None],
    on: theatre.Theatre,
    delay: float,
    places: asyncio.Semaphore,
) -> None:
    try:
        await asyncio.sleep(delay)
        async with places:
            try:
                async with asyncio.timeout(STORY_SECONDS):
                    await play(on)
            except Exception as problem:
                problem.add_note(on.tails())
                raise
            finally:
                await on.close()
    except Exception as problem:
        end.set_exception(problem)
    else:
        end.set_result(None)
