"""Which node is asked, and what is remembered of its health.

Endpoints come from the user (hosts, and addresses of nodes) and from the cluster itself (the address of each
member). An endpoint that did not answer is set aside: everything else is tried before it, so that it costs
one timeout and not one per call. It returns when it answers again: the membership probe of its node asks it
all the time.
"""

import asyncio
import dataclasses
from collections.abc import Collection, Iterable, Mapping

from typing_extensions import override

BACKOFF_SECONDS = 5.0
"""How long an endpoint is set aside after a first failure; doubled by each further one."""

BACKOFF_LIMIT_SECONDS = 60.0

DEFAULT_PORT = 8006
"""pveproxy's port."""


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where an API is: a host name or an IP address, and a port."""

    host: str
    port: int = DEFAULT_PORT

    @override
    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(eq=False, slots=True)
class Endpoint:
    """One address and its health. `node` is None until the node there has told its name."""

    address: Address
    node: str | None = None
    discovered: bool = False
    """Learnt from the cluster: an address of its internal network, so anything the user named is better."""
    failures: int = 0
    aside_until: float = 0.0

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self) -> None:
        pause = min(BACKOFF_SECONDS * 2**self.failures, BACKOFF_LIMIT_SECONDS)
        self.failures += 1
        self.aside_until = asyncio.get_running_loop().time() + pause

    @property
    def aside(self) -> bool:
        return self.failures > 0 and asyncio.get_running_loop().time() < self.aside_until


class Endpoints:
    """All endpoints of one cluster."""

    def __init__(self, hosts: Iterable[Address], nodes: Mapping[str, Address]) -> None:
        self._quorate: frozenset[str] = frozenset()
        hosts = list(hosts)
        self._port = hosts[0].port if hosts else DEFAULT_PORT
        names = {address: name for name, address in nodes.items()}
        self._all = [Endpoint(each, names.get(each)) for each in dict.fromkeys([*hosts, *names])]

    def ranked(self, node: str | None = None) -> list[Endpoint]:
        """All endpoints, the best first: `node`'s own, then those in health, quorate nodes before others."""
        return sorted(
            self._all,
            key=lambda each: (
                node is None or each.node != node,
                each.failures > 0,
                each.aside,
                each.node not in self._quorate,
                each.discovered,
            ),
        )

    def of(self, node: str) -> Endpoint | None:
        """The endpoint that is `node` itself, rather one the user named."""
        own = [each for each in self._all if each.node == node]
        return min(own, key=lambda each: each.discovered, default=None)

    def unidentified(self) -> list[Endpoint]:
        """Endpoints that have not told which node they are and are not set aside."""
        return [each for each in self._all if each.node is None and not each.aside]

    def prefer(self, quorate: Collection[str]) -> None:
        """Let cluster-wide reads go to these nodes while one of them is in health."""
        self._quorate = frozenset(quorate)

    def noted(self, node: str, quorate: bool) -> None:
        """What `node` last said of its own quorum."""
        self._quorate = (self._quorate | {node}) if quorate else (self._quorate - {node})

    def learn(self, addresses: Mapping[str, str]) -> None:
        """Take in the members' addresses; what was discovered of a node that left is forgotten.

        Nodes of a cluster have the same port: that of the first host.
        """
        self._all = [each for each in self._all if not each.discovered or each.node in addresses]
        for node, host in addresses.items():
            own = [each for each in self._all if each.node == node]
            if not own:
                self._all.append(Endpoint(Address(host, self._port), node, discovered=True))
            for each in own:
                if each.discovered and each.address.host != host:
                    each.address, each.failures = Address(host, self._port), 0
