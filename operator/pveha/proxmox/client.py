"""`ProxmoxClient`: the `Hypervisor` of the real world."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from typing_extensions import override

from pveha import tls
from pveha.model import cluster, errors, guests, node, replication
from pveha.proxmox import access, certificates, credentials, endpoints, shapes, tasks, transport
from pveha.proxmox import errors as failures

PROBE_SECONDS = 1.5
"""A live node tells its membership in about 10 ms (recorded); it is asked every second."""

READ_SECONDS = 5.0
"""Cluster-wide reads were recorded at 3-20 ms. A wrong token is answered only after 3.0 s."""

ATTEMPT_SECONDS = 3.5
"""What one endpoint may take of a read while there are others: longer than the 3.0 s of a 401."""

WRITE_SECONDS = 11.0
"""Without quorum, calls that take a cluster-wide lock say so after 9.9 s (recorded)."""

PRIVILEGES_SECONDS = 300.0
"""For how long sufficient privileges are believed, unless a call is forbidden or a list loses an entry."""

RECHECK_SECONDS = 15.0
"""For how long missing privileges are believed: somebody may be granting them right now."""

NO_CEPH = ("binary not installed", "configuration not initialized")
"""What Proxmox says where its nodes run no Ceph."""
_NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_JOB_ID = re.compile(r"[1-9][0-9]{2,8}-\d{1,9}")
_RULE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]+")

Question = Callable[[transport.Resource], Awaitable[Any]]


class ProxmoxClient:
    """One Proxmox VE cluster.

    `hosts` are asked for what concerns the whole cluster; `nodes` are the addresses at which nodes are asked
    themselves, by name. A node not among them is asked at the host that turns out to be it, else at its
    address in the cluster. Reads try further endpoints within their deadline; a write is tried elsewhere only
    when it cannot have been sent.
    """

    def __init__(
        self,
        hosts: Sequence[endpoints.Address],
        token: credentials.Token,
        trust: tls.Trust,
        *,
        nodes: Mapping[str, endpoints.Address] | None = None,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        self._endpoints = endpoints.Endpoints(hosts, nodes or {})
        self._transport = transport.Transport(token, trust)
        self._token_id = token.id
        self._trust = trust
        self._probe_seconds = probe_seconds
        self._permissions: access.Permissions = {}
        self._permissions_until = 0.0
        self._versions: dict[endpoints.Endpoint, str] = {}
        self._asking = asyncio.Lock()
        self._introductions = asyncio.Lock()
        self._listed: dict[str, frozenset[Any]] = {}

    @override
    def __repr__(self) -> str:
        return f"ProxmoxClient({self._token_id})"

    async def close(self) -> None:
        await self._transport.close()

    def prefer(self, quorate: Collection[str]) -> None:
        """Name the quorate nodes, to be asked before others; until told, each node's own last word counts."""
        self._endpoints.prefer(quorate)

    async def membership(self, witness: str) -> cluster.MembershipView:
        """Ask `witness` itself. `NotFound` if no endpoint can be it."""
        endpoint = self._endpoints.of(_name(witness))
        if (endpoint is None or endpoint.discovered) and self._endpoints.unidentified():
            await self._introduce()
            endpoint = self._endpoints.of(witness)
        if endpoint is None:
            message = f"no node of the cluster is called {witness}"
            raise errors.NotFound(message)
        view = await self._introduced(endpoint)
        if view.witness != witness:
            message = f"{endpoint.address} is not {witness} but {view.witness}: correct the node's address"
            raise errors.BadAnswer(message)
        return view

    async def inventory(self) -> cluster.Inventory:
        """Guests of nodes that are not online keep their last status: it says nothing about now."""
        data = await self._permitted(
            access.INVENTORY, "list the guests", lambda api: api.cluster.resources.get()
        )
        found = shapes.inventory(data, _now())
        storages = frozenset((each.node, each.storage) for each in found.storages)
        await self._believe("inventory", frozenset(found.guests) | storages, access.INVENTORY)
        return found

    async def ha_config(self) -> cluster.HAConfig:
        data = await self._permitted(
            access.HA_READ, "read the HA resources", lambda api: api.cluster.ha.resources.get()
        )
        return shapes.ha_config(data, _now())

    async def ha_rules(self) -> cluster.HARuleConfig:
        data = await self._permitted(
            access.HA_READ, "read the HA rules", lambda api: api.cluster.ha.rules.get()
        )
        return shapes.ha_rules(data, _now())

    async def ha_status(self) -> cluster.HAStatus:
        data = await self._permitted(
            access.HA_READ, "read the HA status", lambda api: api.cluster.ha.status.manager_status.get()
        )
        return shapes.ha_status(data, _now())

    async def replication_jobs(self) -> tuple[replication.Job, ...]:
        data = await self._permitted(
            access.REPLICATION, "list the replication jobs", lambda api: api.cluster.replication.get()
        )
        found = shapes.replication_jobs(data)
        await self._believe("replication jobs", frozenset(each.id for each in found), access.REPLICATION)
        return found

    async def replication_job(self, id_: str) -> tuple[replication.Job, str]:
        data = await self._read(lambda api: api.cluster.replication(_job(id_)).get())
        return shapes.replication_job(data, id_)

    async def replication_syncs(self, on: str) -> tuple[replication.Sync, ...]:
        data = await self._read(lambda api: api.nodes(_name(on)).replication.get(), node=on)
        return shapes.replication_syncs(data, on)

    async def update_replication_job(self, job: replication.Job, digest: str) -> None:
        """A property that is not set is taken out, as Proxmox's own interface does."""
        gone = [name for name, there in (("disable", job.disabled), ("comment", job.comment)) if not there]
        fields: dict[str, Any] = {"disable": True} if job.disabled else {}
        if job.comment:
            fields["comment"] = job.comment
        if gone:
            fields["delete"] = ",".join(gone)
        await self._write(lambda api: api.cluster.replication(_job(job.id)).put(digest=digest, **fields))

    async def privileges(self) -> cluster.Privileges:
        """Privileges on `/vms` and `/storage` count if they hold for everything below. Each node is asked
        for its version; one that does not answer has the one it told last."""
        told = shapes.version(
            await self._permitted((), "read its own privileges", lambda api: api.version.get())
        )
        await asyncio.gather(*(self._ask_version(each) for each in self._endpoints.ranked()))
        known = {each.node or str(each.address): each for each in self._endpoints.ranked()}
        versions = {name: self._versions[each] for name, each in known.items() if each in self._versions}
        return cluster.Privileges(
            root=frozenset(self._permissions.get("/", {})),
            vms=access.throughout(self._permissions, "/vms"),
            storage=access.throughout(self._permissions, "/storage"),
            versions=versions or {"": told},
        )

    async def _ask_version(self, endpoint: endpoints.Endpoint) -> None:
        with contextlib.suppress(errors.OutsideError):
            data = await self._transport.root(endpoint, self._probe_seconds).version.get()
            self._versions[endpoint] = shapes.version(data)

    async def ceph_monitors(self) -> cluster.CephMonitors | None:
        try:
            data = await self._read(lambda api: api.cluster.ceph.status.get())
        except errors.Refused as problem:
            if any(words in str(problem) for words in NO_CEPH):
                return None
            raise
        return shapes.ceph_monitors(data, _now())

    async def certificates(self) -> Mapping[str, float]:
        """Shakes hands with every address that is known, and sends nothing."""
        addresses = [each.address for each in self._endpoints.ranked()]
        shown = await asyncio.gather(
            *(certificates.look(each, self._trust) for each in addresses), return_exceptions=True
        )
        found = {}
        for address, each in zip(addresses, shown, strict=True):
            if isinstance(each, certificates.Shown):
                found[str(address)] = each.not_after.timestamp()
            elif not isinstance(each, errors.Unreachable):
                raise each
        return found

    async def permissions(self) -> access.Permissions:
        """What the token may do, by path."""
        return await self._held()

    async def create_ha_resource(self, resource: cluster.HAResource) -> None:
        await self._write(
            lambda api: api.cluster.ha.resources.post(
                sid=resource.sid, comment=resource.comment or None, **_settings(resource)
            )
        )

    async def update_ha_resource(self, resource: cluster.HAResource, digest: str | None) -> None:
        """Without a digest (None) the last writer wins; the digest of an empty list matches no resource."""
        if digest == "":
            message = f"{resource.sid} is not in the list of resources that was read"
            raise errors.Conflict(message)
        comment = {"comment": resource.comment} if resource.comment else {"delete": "comment"}
        await self._write(
            lambda api: api.cluster.ha.resources(_sid(resource.sid)).put(
                digest=digest, **comment, **_settings(resource)
            )
        )

    async def delete_ha_resource(self, sid: str) -> None:
        """Rules that name the resource are somebody else's and stay as they are (`purge` 0)."""
        await self._write(lambda api: api.cluster.ha.resources(_sid(sid)).delete(purge=False))

    async def create_ha_rule(self, rule: cluster.HARule) -> None:
        """Refused for resources that HA does not manage and nodes that there are not, too."""
        comment = {"comment": rule.comment} if rule.comment else {}
        await self._write(
            lambda api: api.cluster.ha.rules.post(rule=_rule(rule.name), **comment, **_restrictions(rule))
        )

    async def update_ha_rule(self, rule: cluster.HARule, digest: str | None) -> None:
        """A rule with `disable 0` counts as disabled: the property is taken out."""
        if digest == "":
            message = f"{rule.name} is not in the list of rules that was read"
            raise errors.Conflict(message)
        gone = ["disable"] if not rule.disabled else []
        fields: dict[str, Any] = {"disable": True} if rule.disabled else {}
        if rule.comment:
            fields["comment"] = rule.comment
        else:
            gone.append("comment")
        if gone:
            fields["delete"] = ",".join(gone)
        await self._write(
            lambda api: api.cluster.ha.rules(_rule(rule.name)).put(
                digest=digest, **fields, **_restrictions(rule)
            )
        )

    async def delete_ha_rule(self, name: str) -> None:
        await self._write(lambda api: api.cluster.ha.rules(_rule(name)).delete())

    async def start(self, ref: guests.GuestRef, on: str) -> str:
        """For a guest that HA manages (not `ignored`) this only queues an order to the CRM (`hastart`)."""
        data = await self._write(lambda api: _guest(api, ref, on).status.start.post(), node=on)
        return tasks.parse(shapes.upid(data, f"/nodes/{on}/{ref.path}/status/start")).text

    async def migrate(self, ref: guests.GuestRef, source: str, target: str) -> str:
        """Only shared storages: volumes are not copied. A guest that HA manages would be queued
        (`hamigrate`)."""
        how = {"online": True} if ref.kind is guests.GuestKind.VM else {"restart": True}
        order = {"target": _name(target), **how}
        data = await self._write(lambda api: _guest(api, ref, source).migrate.post(**order), node=source)
        return tasks.parse(shapes.upid(data, f"/nodes/{source}/{ref.path}/migrate")).text

    async def migrate_service(self, ref: guests.GuestRef, target: str) -> None:
        """200 even for targets that are dead or unknown: the CRM ignores such commands."""
        verb = "migrate" if ref.kind is guests.GuestKind.VM else "relocate"
        data = await self._write(
            lambda api: api.cluster.ha.resources(_sid(ref.sid))(verb).post(node=_name(target))
        )
        if apart := shapes.blocking(data, f"/cluster/ha/resources/{ref.sid}/{verb}"):
            message = f"{ref.sid} cannot go to {target}: HA rules keep it apart from {', '.join(apart)} there"
            raise errors.Refused(message)

    async def task(self, upid: str) -> cluster.TaskStatus:
        """Asks the task's node, or another that passes it on: a task can be taken up again at any time."""
        node = tasks.parse(upid).node
        data = await self._read(lambda api: api.nodes(node).tasks(upid).status.get(), node=node)
        return shapes.task(data, upid)

    async def guest_runtime(self, ref: guests.GuestRef, on: str) -> cluster.GuestRuntime:
        data = await self._read(lambda api: _guest(api, ref, on).status.current.get(), node=on)
        return shapes.guest_runtime(data, ref)

    async def guest_config(self, ref: guests.GuestRef, on: str) -> Mapping[str, str]:
        """What is in effect now, without changes that wait for a restart of the guest."""
        data = await self._read(lambda api: _guest(api, ref, on).config.get(current=1), node=on)
        return shapes.guest_config(data, ref)

    async def equipment(self, on: str) -> node.Equipment:
        data = await self._read(lambda api: api.nodes(_name(on)).status.get(), node=on)
        return shapes.equipment(data, on, _now())

    async def ping_agent(self, ref: guests.GuestRef, on: str) -> None:
        await self._read(lambda api: _guest(api, ref, on).agent.ping.post(), node=on)

    async def _introduced(self, endpoint: endpoints.Endpoint) -> cluster.MembershipView:
        """Ask an endpoint for its membership, and take down which node it is and where the others are."""
        root = self._transport.root(endpoint, self._probe_seconds)
        try:
            view = shapes.membership(await root.cluster.status.get(), _now())
        except errors.Forbidden as error:
            raise self._forbidden(error) from None
        if endpoint.node is None:
            endpoint.node = view.witness
        self._endpoints.learn(view.addresses)
        self._endpoints.noted(view.witness, view.quorate)
        return view

    async def _introduce(self) -> None:
        """Have every endpoint that has not yet done so say which node it is."""
        async with self._introductions:
            unknown = self._endpoints.unidentified()
            answers = await asyncio.gather(*map(self._introduced, unknown), return_exceptions=True)
        problems = [each for each in answers if isinstance(each, BaseException)]
        for each in problems:
            if not isinstance(each, errors.OutsideError):
                raise each
        if problems and len(problems) == len(answers):
            raise problems[0]

    async def _read(self, question: Question, node: str | None = None) -> Any:
        """Ask the endpoints in turn until one answers or the deadline is over.

        For a question to a node, its own endpoint is asked and then one other, which passes it on.
        """
        deadline = _now() + READ_SECONDS
        candidates = self._endpoints.ranked(node)
        if node is not None and candidates[0].node == node:
            candidates = candidates[:2]
        problem: errors.OutsideError | None = None
        for position, endpoint in enumerate(candidates):
            remaining = deadline - _now()
            if remaining <= 0:
                break
            last = position == len(candidates) - 1
            seconds = remaining if last else min(ATTEMPT_SECONDS, remaining)
            try:
                return await question(self._transport.root(endpoint, seconds))
            except errors.Forbidden as error:
                raise self._forbidden(error) from None
            except (errors.Unreachable, errors.Untrusted, errors.BadAnswer) as error:
                problem = problem or error
                if node is not None and not isinstance(error, failures.NoAnswer | errors.Untrusted):
                    raise
        raise problem or errors.Unreachable("there is no endpoint to ask")

    async def _write(self, order: Question, node: str | None = None) -> Any:
        """Give an order once: to the next endpoint only while it cannot have reached anybody."""
        deadline = _now() + WRITE_SECONDS
        problem: errors.OutsideError | None = None
        for endpoint in self._endpoints.ranked(node):
            remaining = deadline - _now()
            if remaining <= 0:
                break
            try:
                return await order(self._transport.root(endpoint, remaining))
            except errors.Forbidden as error:
                raise self._forbidden(error) from None
            except (failures.NotSent, failures.NotPassedOn, errors.Untrusted) as error:
                problem = problem or error
                if node is not None and isinstance(error, failures.NotPassedOn):
                    raise
        raise problem or errors.Unreachable("there is no endpoint to ask")

    def _forbidden(self, error: errors.Forbidden) -> errors.Forbidden:
        self._permissions_until = 0.0
        return errors.Forbidden(f"{error}. {access.remedy(self._token_id)}")

    async def _permitted(self, needs: Collection[access.Need], purpose: str, question: Question) -> Any:
        """Ask only what the token may ask, lest an empty list be taken for an answer."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                access.demand(await self._held(), needs, self._token_id, purpose)
                return await self._read(question)
        except TimeoutError:
            message = f"could not {purpose} within {READ_SECONDS:g} s"
            raise errors.Unreachable(message) from None

    async def _believe(self, name: str, listed: frozenset[Any], needs: Collection[access.Need]) -> None:
        """Before believing that something is gone, make sure that the right to see it is not."""
        if self._listed.get(name, frozenset()) - listed:
            self._permissions_until = 0.0
            access.demand(await self._held(), needs, self._token_id, f"see the whole {name}")
        self._listed[name] = listed

    async def _held(self) -> access.Permissions:
        async with self._asking:
            if _now() >= self._permissions_until:
                data = await self._read(lambda api: api.access.permissions.get())
                self._permissions = shapes.permissions(data)
                enough = not access.missing(self._permissions, access.OBSERVE)
                self._permissions_until = _now() + (PRIVILEGES_SECONDS if enough else RECHECK_SECONDS)
            return self._permissions


def _settings(resource: cluster.HAResource) -> dict[str, Any]:
    return {
        "state": str(resource.state),
        "failback": resource.failback,
        "max_restart": resource.max_restart,
        "max_relocate": resource.max_relocate,
    }


def _restrictions(rule: cluster.HARule) -> dict[str, Any]:
    """What a rule says, as parameters."""
    found: dict[str, Any] = {"type": rule.type, "resources": ",".join(sorted(rule.sids))}
    if rule.type == cluster.NODE_AFFINITY:
        nodes = [f"{_name(node)}:{weight}" if weight else _name(node) for node, weight in rule.nodes.items()]
        return found | {"nodes": ",".join(sorted(nodes)), "strict": rule.strict}
    return found | {"affinity": "positive" if rule.positive else "negative"}


def _guest(api: transport.Resource, ref: guests.GuestRef, on: str) -> Any:
    return api.nodes(_name(on))(ref.kind.value)(ref.vmid)


def _name(node: str) -> str:
    """A node's name, which becomes part of a path."""
    if not _NODE_NAME.fullmatch(node):
        message = f"{node!r} is not the name of a node"
        raise errors.InvalidConfiguration(message)
    return node


def _rule(name: str) -> str:
    """A rule's name, which becomes part of a path."""
    if not _RULE_NAME.fullmatch(name):
        message = f"{name!r} is not the name of an HA rule"
        raise errors.InvalidConfiguration(message)
    return name


def _job(id_: str) -> str:
    """A replication job's id, which becomes part of a path."""
    if not _JOB_ID.fullmatch(id_):
        message = f"{id_!r} is not the id of a replication job"
        raise errors.InvalidConfiguration(message)
    return id_


def _sid(sid: str) -> str:
    if guests.parse_sid(sid) is None:
        message = f"{sid!r} is not the HA resource of a guest"
        raise errors.InvalidConfiguration(message)
    return sid


def _now() -> float:
    return asyncio.get_running_loop().time()
