"""Watches the three resources: kopf tells the store of every event, and everything is listed now and then.

Kopf runs in a thread with an event loop of its own. It ends all tasks of its loop when it stops, and a watch
that it cannot continue ends it; here that is a complaint and a new start, and nothing else notices. Only
`on.event` handlers are registered: all others make kopf write finalizers or annotations to the objects.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import kopf
from typing_extensions import override

from pveha import api
from pveha.control.store import KINDS, HistoryError, Store
from pveha.kube import config
from pveha.model import errors, ports
from pveha.report.metrics import Metrics

LIST_EVERY_SECONDS = 120.0
RETRY_SECONDS = 5.0
STALE_SECONDS = 360.0
"""So long without a successful listing and the process is not healthy."""
GRACE_SECONDS = 10.0
"""How much later than a listing a watch may tell of the same change; after that it has gone silent."""
BACK_SECONDS = 60.0
"""A server whose listings are older than one before for so long does not lag: it was restored from a backup,
and nothing can be compared with what is known here."""
RESTART_SECONDS = (1.0, 5.0, 15.0, 30.0)
CALM_SECONDS = 60.0
"""A watch that lasted so long is started again without a longer pause."""
STOP_SECONDS = 4.0

log = logging.getLogger(__name__)


class Watch:
    """Keeps `store` true for `namespaces` (None: all). Run it as a task."""

    def __init__(
        self,
        kubernetes: ports.Kubernetes,
        access: config.Access,
        namespaces: Sequence[str] | None,
        store: Store,
        metrics: Metrics,
        list_every: float = LIST_EVERY_SECONDS,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self._kubernetes = kubernetes
        self._access = access
        self._namespaces = namespaces
        self._store = store
        self._metrics = metrics
        self._list_every = list_every
        self._grace = grace
        self._listed_at: dict[str, float] = {}
        self._back_since: float | None = None
        self.problem = "nothing has been listed yet"
        """Why not everything could be listed the last time, or ""."""
        self._silent = ""
        self._failed = asyncio.Event()

    @property
    def synced(self) -> bool:
        """Whether everything has been listed at least once."""
        return len(self._listed_at) == len(KINDS)

    def not_ready(self) -> str:
        """For /readyz: what is missing before the store can be used."""
        return "" if self.synced else self.problem

    def not_live(self) -> str:
        """For /healthz: what is stale."""
        now = asyncio.get_running_loop().time()
        ages = {kind: now - at for kind, at in self._listed_at.items()}
        for kind, age in ages.items():
            self._metrics.since_listed.labels(kind).set(age)
        if old := [kind for kind, age in ages.items() if age > STALE_SECONDS]:
            return f"{', '.join(old)} not listed for {max(ages.values()):.0f} s: {self.problem}"
        return self._silent

    async def run(self) -> None:
        """List, then watch and list until cancelled."""
        await self._list_until_done()
        listing = asyncio.create_task(self._keep_listing(), name="listing")
        watching = asyncio.create_task(self._keep_watching(), name="watching")
        try:
            await asyncio.wait({listing, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (listing, watching):
                task.cancel()
            results = await asyncio.gather(listing, watching, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _keep_listing(self) -> None:
        while True:
            await asyncio.sleep(self._list_every)
            await self._list_until_done()

    async def _list_until_done(self) -> None:
        done = await self._list()
        while not done:
            await asyncio.sleep(RETRY_SECONDS)
            done = await self._list()

    async def _list(self) -> bool:
        """List all kinds; False (and a problem) if that was not possible."""
        try:
            for kind in KINDS:
                untold = 0
                for namespace in self._namespaces or (None,):
                    listing = await self._kubernetes.list_objects(kind, namespace)
                    untold = max(untold, self._store.listed(kind, namespace, listing))
                if self.synced and untold:
                    await self._expect(kind, untold)
                self._listed_at[kind] = asyncio.get_running_loop().time()
        except errors.OutsideError as error:
            problem = f"the resources cannot be listed: {error}"
            if isinstance(error, errors.NotFound):
                problem = f"the resource definitions are missing, 'pveha crds' prints them: {error}"
            self._complain(problem)
            return False
        except HistoryError as error:
            now = asyncio.get_running_loop().time()
            self._back_since = now if self._back_since is None else self._back_since
            if now - self._back_since >= BACK_SECONDS:
                raise
            self._complain(str(error))
            return False
        self._back_since = None
        self.problem = ""
        return True

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem

    async def _expect(self, kind: str, untold: int) -> None:
        """Give the watch time to tell of what the listing has shown; if it does not, it has gone silent."""
        await asyncio.sleep(self._grace)
        if self._store.told(kind) < untold:
            self._fail(f"the watch of {kind} is silent: it did not tell of changes that a listing showed")

    def _fail(self, problem: str) -> None:
        """The watch is of no use any more: complain, and have it started anew."""
        if not self._failed.is_set():
            self._silent = problem
            log.error("%s", problem)
            self._failed.set()

    async def _keep_watching(self) -> None:
        """Run kopf, and start it again when it has ended or gone silent."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            self._failed.clear()
            thread = _Kopf(self._access, self._namespaces, self._store, loop, self._fail)
            thread.start()
            began = loop.time()
            try:
                await self._failed.wait()
            finally:
                thread.stop.set()
                await asyncio.to_thread(thread.join, STOP_SECONDS)
            failures = 0 if loop.time() - began > CALM_SECONDS else failures + 1
            await asyncio.sleep(RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)])
            log.info("watching anew")
            self._silent = ""


class _Kopf(threading.Thread):
    """One run of kopf. A daemon thread: it writes nothing, so the process may end without waiting for it."""

    def __init__(
        self,
        access: config.Access,
        namespaces: Sequence[str] | None,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        ended: Callable[[str], None],
    ) -> None:
        super().__init__(name="kopf", daemon=True)
        self.stop = threading.Event()
        self._ended = ended
        self._access = access
        self._namespaces = namespaces
        self._store = store
        self._loop = loop

    @override
    def run(self) -> None:
        reason = "kopf returned"
        try:
            asyncio.run(
                kopf.operator(
                    registry=self._registry(),
                    settings=_settings(),
                    standalone=True,
                    clusterwide=self._namespaces is None,
                    namespaces=self._namespaces or (),
                    stop_flag=self.stop,
                )
            )
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
        if not self.stop.is_set():
            self._loop.call_soon_threadsafe(self._ended, f"the watch has ended: {reason}")

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for resource in api.RESOURCES:
            kopf.on.event(api.GROUP, api.VERSION, resource.plural, registry=registry)(
                self._handler(resource.kind_name)
            )
        return registry

    def _handler(self, kind: str) -> Any:
        async def tell(event: kopf.RawEvent, **_: object) -> None:
            if not self.stop.is_set():
                self._loop.call_soon_threadsafe(self._store.event, kind, event["type"], event["object"])

        return tell

    async def _login(self, **_: object) -> kopf.ConnectionInfo:
        found = await self._access.load()
        scheme, _space, token = (await found.get_api_key_with_prefix("BearerToken") or "").rpartition(" ")
        return kopf.ConnectionInfo(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            username=found.username or None,
            password=found.password or None,
            scheme=scheme or None,
            token=token or None,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
            proxy_url=found.proxy,
            trust_env=True,
        )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 5.0
    settings.networking.trust_env = True
    return settings
