"""Which node is asked, what a bad one costs, and what is never believed or sent twice."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from pveha.model import cluster, errors, guests
from pveha.proxmox import client, endpoints
from pveha.proxmox import errors as failures
from unit.proxmox import server

VM = guests.GuestRef(100, guests.GuestKind.VM)
UPID = "UPID:pve2:00000645:00040550:6B032295:qmstart:100:pveha@pve!operator:"
EVERYTHING = {
    path: {"Sys.Audit": 1, "VM.Audit": 1, "Datastore.Audit": 1}
    for path in ("/", "/vms", "/nodes", "/storage")
}
Answer = Callable[[web.Request, str], Awaitable[web.StreamResponse]]


def status(local: str, quorate: int = 1, addresses: dict[str, str] | None = None) -> list[dict[str, Any]]:
    addresses = addresses or dict.fromkeys(("pve1", "pve2", "pve3"), "127.0.0.1")
    return [
        {"type": "cluster", "id": "cluster", "name": "lab", "quorate": quorate, "nodes": len(addresses)},
        *(
            {"type": "node", "name": name, "online": 1, "local": int(name == local), "ip": ip}
            for name, ip in addresses.items()
        ),
    ]


class Node(server.Server):
    """A node in health; `say` replaces its answers by path."""

    def __init__(self, name: str, port: int = 0, quorate: int = 1) -> None:
        self.name = name
        self.quorate = quorate
        self.say: dict[str, Answer] = {}
        self.held: dict[str, dict[str, int]] = EVERYTHING
        self.resources: list[dict[str, Any]] = []
        super().__init__(self._say, port=port)

    async def _say(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/api2/json")
        if answer := self.say.get(path, self.say.get("*")):
            return await answer(request, path)
        return server.data(
            {
                "/cluster/status": status(self.name, self.quorate),
                "/access/permissions": self.held,
                "/cluster/resources": self.resources,
                "/version": {"version": "9.2.11"},
                "/cluster/ha/status/manager_status": {"manager_status": {}},
            }.get(path, [])
        )

    def asked(self, path: str) -> int:
        return sum(each[1] == path for each in self.seen)


async def hang(_: web.Request, __: str) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


def failing(code: int, reason: str) -> Answer:
    async def answer(_: web.Request, __: str) -> web.StreamResponse:
        return server.problem(code, reason)

    return answer


def guest(vmid: int) -> dict[str, Any]:
    return {"type": "qemu", "id": f"qemu/{vmid}", "vmid": vmid, "node": "pve1", "status": "running"}


@contextlib.asynccontextmanager
async def three() -> AsyncIterator[tuple[Node, Node, Node]]:
    async with Node("pve1") as one, Node("pve2") as two, Node("pve3") as three:
        yield one, two, three


@contextlib.asynccontextmanager
async def using(
    *hosts: Node, nodes: tuple[Node, ...] = (), **settings: Any
) -> AsyncIterator[client.ProxmoxClient]:
    named = {node.name: node.address for node in nodes}
    made = client.ProxmoxClient(
        [node.address for node in hosts], server.TOKEN, server.trust(), nodes=named, **settings
    )
    try:
        yield made
    finally:
        await made.close()


async def dead_port() -> int:
    listener = await asyncio.start_server(lambda *_: None, server.HOST, 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    return int(port)


class TestReads:
    async def test_one_hung_endpoint_costs_one_timeout_not_one_per_call(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "ATTEMPT_SECONDS", 0.2)
        async with three() as (one, two, _), using(one, two) as hypervisor:
            one.say["*"] = hang
            started = asyncio.get_running_loop().time()
            for _ in range(10):
                await hypervisor.ha_status()
            assert len(one.seen) == 1
            assert asyncio.get_running_loop().time() - started < 1

    async def test_it_is_asked_again_once_its_membership_probe_succeeds(self) -> None:
        async with three() as (one, two, _), using(one, two, nodes=(one,)) as hypervisor:
            one.say["*"] = failing(595, "Connection refused")
            await hypervisor.ha_status()
            assert two.asked("/cluster/ha/status/manager_status") == 1
            one.say.clear()
            await hypervisor.membership("pve1")
            await hypervisor.ha_status()
            assert one.asked("/cluster/ha/status/manager_status") == 1

    async def test_a_network_that_comes_back_is_used_at_once(self) -> None:
        port = await dead_port()
        alone = client.ProxmoxClient([endpoints.Address(server.HOST, port)], server.TOKEN, server.trust())
        for _ in range(3):
            with pytest.raises(failures.NotSent):
                await alone.ha_status()
        async with Node("pve1", port=port):
            assert (await alone.ha_status()).armed
        await alone.close()

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (595, "Connection refused"),
            (500, "RPCEnvironment init request failed: Connection refused"),
            (503, "x"),
        ],
    )
    async def test_an_endpoint_whose_services_are_down_is_passed_over(self, code: int, reason: str) -> None:
        async with three() as (one, two, _), using(one, two) as hypervisor:
            one.say["*"] = failing(code, reason)
            await hypervisor.ha_status()
            await hypervisor.ha_status()
            assert len(one.seen) == 1

    @pytest.mark.parametrize(("code", "kind"), [(401, errors.Unauthorized), (500, errors.Refused)])
    async def test_an_error_is_an_answer_and_is_not_asked_for_elsewhere(
        self, code: int, kind: type[errors.OutsideError]
    ) -> None:
        async with three() as (one, two, _), using(one, two) as hypervisor:
            one.say["*"] = failing(code, "no")
            for _ in range(2):
                with pytest.raises(kind):
                    await hypervisor.ha_status()
            assert len(one.seen) == 2
            assert two.seen == []

    async def test_quorate_nodes_are_asked_first(self) -> None:
        async with (
            three() as (one, two, three_),
            using(one, two, three_, nodes=(one, two, three_)) as hypervisor,
        ):
            hypervisor.prefer({"pve3"})
            await hypervisor.ha_status()
            assert (len(one.seen), len(two.seen)) == (0, 0)
            three_.quorate = 0
            await hypervisor.membership("pve3")
            await hypervisor.membership("pve2")
            await hypervisor.ha_rules()
            assert two.asked("/cluster/ha/rules") == 1

    async def test_the_deadline_holds_over_all_endpoints(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "ATTEMPT_SECONDS", 0.2)
        monkeypatch.setattr(client, "READ_SECONDS", 0.5)
        async with three() as nodes, using(*nodes) as hypervisor:
            for node in nodes:
                node.say["*"] = hang
            started = asyncio.get_running_loop().time()
            with pytest.raises(errors.Unreachable):
                await hypervisor.inventory()
            assert asyncio.get_running_loop().time() - started < 1
            assert [len(node.seen) for node in nodes] == [1, 1, 1]


class TestMembership:
    async def test_a_witness_is_asked_itself_and_nobody_in_its_place(self) -> None:
        async with three() as nodes, using(*nodes, nodes=nodes, probe_seconds=0.2) as hypervisor:
            one, two, three_ = nodes
            two.say["*"] = hang
            with pytest.raises(failures.NoAnswer):
                await hypervisor.membership("pve2")
            assert (len(one.seen), len(two.seen), len(three_.seen)) == (0, 1, 0)
            assert (await hypervisor.membership("pve3")).witness == "pve3"

    async def test_hosts_are_recognised_as_the_nodes_they_are(self) -> None:
        async with three() as nodes, using(*nodes) as hypervisor:
            for node in nodes:
                assert (await hypervisor.membership(node.name)).witness == node.name
            assert [node.asked("/cluster/status") for node in nodes] == [2, 2, 2]

    async def test_another_node_at_that_address_is_no_witness(self) -> None:
        async with three() as (one, _, _), Node("pve2") as impostor:
            impostor.name = "pve1"
            named = {"pve2": impostor.address}
            hypervisor = client.ProxmoxClient([one.address], server.TOKEN, server.trust(), nodes=named)
            with pytest.raises(errors.BadAnswer, match="is not pve2 but pve1"):
                await hypervisor.membership("pve2")
            await hypervisor.close()

    async def test_a_node_the_cluster_does_not_have_is_not_found(self) -> None:
        async with three() as nodes, using(*nodes) as hypervisor:
            with pytest.raises(errors.NotFound, match="pve9"):
                await hypervisor.membership("pve9")

    async def test_a_host_that_was_down_at_first_is_recognised_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(endpoints, "BACKOFF_SECONDS", 0.0)
        port = await dead_port()
        async with Node("pve1") as one:
            hosts = [one.address, endpoints.Address(server.HOST, port)]
            hypervisor = client.ProxmoxClient(hosts, server.TOKEN, server.trust())
            one.say["/cluster/status"] = self._elsewhere
            with pytest.raises(errors.Unreachable):
                await hypervisor.membership("pve2")
            async with Node("pve2", port=port):
                assert (await hypervisor.membership("pve2")).witness == "pve2"
            await hypervisor.close()

    async def _elsewhere(self, _: web.Request, __: str) -> web.StreamResponse:
        return server.data(status("pve1", addresses={"pve1": "127.0.0.1", "pve2": "127.0.0.9"}))

    @pytest.mark.parametrize("name", ["../pve1", "pve1/x", "", "pve1?x"])
    async def test_names_cannot_leave_their_place_in_the_path(self, name: str) -> None:
        async with three() as nodes, using(*nodes) as hypervisor:
            with pytest.raises(errors.InvalidConfiguration):
                await hypervisor.guest_runtime(VM, name)
            assert nodes[0].seen == []


class TestPrivileges:
    async def test_no_privileges_is_not_no_guests(self) -> None:
        async with three() as (one, _, _), using(one) as hypervisor:
            one.held = {}
            for question in (hypervisor.inventory, hypervisor.replication_jobs, hypervisor.ha_config):
                with pytest.raises(errors.Forbidden, match=r"lacks .*pveum role add pveha"):
                    await question()
            assert {path for _, path, _ in one.seen} == {"/access/permissions"}
            assert (await hypervisor.privileges()).vms == frozenset()

    async def test_a_role_that_does_not_reach_the_guests_is_not_enough(self) -> None:
        async with three() as (one, _, _), using(one) as hypervisor:
            one.held = EVERYTHING | {"/vms": {"VM.Audit": 0}}
            with pytest.raises(errors.Forbidden, match=r"VM.Audit on /vms"):
                await hypervisor.inventory()

    async def test_a_guest_hidden_by_its_own_acl_is_named(self) -> None:
        async with three() as (one, _, _), using(one) as hypervisor:
            one.held = EVERYTHING | {"/vms/107": {"VM.Console": 1}}
            with pytest.raises(errors.Forbidden, match=r"VM.Audit on /vms/107"):
                await hypervisor.inventory()

    async def test_they_are_read_once_in_a_while(self) -> None:
        async with three() as (one, _, _), using(one) as hypervisor:
            for _ in range(5):
                await hypervisor.inventory()
                await hypervisor.ha_status()
            assert one.asked("/access/permissions") == 1

    async def test_a_vanished_guest_is_believed_only_while_we_may_still_see_it(self) -> None:
        async with three() as (one, _, _), using(one) as hypervisor:
            one.resources = [guest(100), guest(101)]
            await hypervisor.inventory()
            one.resources = [guest(100)]
            assert set((await hypervisor.inventory()).guests) == {100}
            assert one.asked("/access/permissions") == 2
            one.resources, one.held = [], {}
            with pytest.raises(errors.Forbidden):
                await hypervisor.inventory()

    async def test_a_forbidden_call_has_them_read_again(self) -> None:
        async with three() as (one, _, _), using(one) as hypervisor:
            await hypervisor.inventory()
            one.say["/cluster/ha/resources"] = failing(403, "Permission check failed (/, Sys.Console)")
            with pytest.raises(errors.Forbidden, match=r"\(/, Sys.Console\).*pveum"):
                await hypervisor.create_ha_resource(cluster.HAResource("vm:100"))
            await hypervisor.inventory()
            assert one.asked("/access/permissions") == 2


class TestWrites:
    async def test_a_write_that_may_have_arrived_is_not_repeated(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "WRITE_SECONDS", 0.3)
        async with three() as (one, two, _), using(one, two) as hypervisor:
            one.say["*"] = hang
            with pytest.raises(failures.NoAnswer):
                await hypervisor.delete_ha_resource("vm:100")
            assert (len(one.seen), len(two.seen)) == (1, 0)

    async def test_a_write_that_cannot_have_arrived_goes_to_the_next(self) -> None:
        port = await dead_port()
        async with Node("pve1") as one:
            hosts = [endpoints.Address(server.HOST, port), one.address]
            hypervisor = client.ProxmoxClient(hosts, server.TOKEN, server.trust())
            one.say["*"] = self._null
            await hypervisor.delete_ha_resource("vm:100")
            assert one.seen == [("DELETE", "/cluster/ha/resources/vm:100", {"purge": "0"})]
            await hypervisor.close()

    async def test_a_host_without_its_daemon_is_passed_over_until_its_probe_says_otherwise(self) -> None:
        async with three() as (one, two, _), using(one, two, nodes=(one,)) as hypervisor:
            two.say["*"] = self._null
            for path in ("/cluster/ha/resources", "/cluster/status"):
                one.say[path] = failing(595, "Connection refused")
            for _ in range(2):
                await hypervisor.create_ha_resource(cluster.HAResource("vm:100"))
                with pytest.raises(errors.Unreachable):
                    await hypervisor.membership("pve1")
            assert [each[0] for each in one.seen] == ["POST", "GET", "GET"]
            assert len(two.seen) == 2

    async def test_a_start_on_a_dead_node_is_ordered_once(self) -> None:
        async with three() as (one, two, _):
            named = {"pve2": endpoints.Address(server.HOST, await dead_port())}
            hypervisor = client.ProxmoxClient(
                [one.address, two.address], server.TOKEN, server.trust(), nodes=named
            )
            one.say["*"] = two.say["*"] = failing(595, "No route to host")
            with pytest.raises(errors.Unreachable, match="node pve2 did not answer"):
                await hypervisor.start(VM, "pve2")
            assert len(one.seen) + len(two.seen) == 1
            await hypervisor.close()

    async def _null(self, _: web.Request, __: str) -> web.StreamResponse:
        return server.data(None)

    async def test_an_update_is_a_compare_and_swap_of_everything_we_know(self) -> None:
        async with three() as (one, _, _), using(one) as hypervisor:
            one.say["*"] = self._null
            ignored = cluster.HAResource("ct:101", cluster.HAState.IGNORED, "db [pveha op=x]", False, 2, 3)
            await hypervisor.update_ha_resource(ignored, "d1")
            await hypervisor.update_ha_resource(cluster.HAResource("vm:100"), "d2")
            with pytest.raises(errors.Conflict):
                await hypervisor.update_ha_resource(ignored, "")
            limits = {"max_restart": "2", "max_relocate": "3"}
            text = {"state": "ignored", "comment": "db [pveha op=x]", "failback": "0", "digest": "d1"}
            assert one.seen[0] == ("PUT", "/cluster/ha/resources/ct:101", text | limits)
            assert one.seen[1][2]["delete"] == "comment"
            assert len(one.seen) == 2
            await hypervisor.update_ha_resource(ignored, None)
            assert "digest" not in one.seen[2][2]

    async def test_a_start_is_ordered_from_the_node_itself(self) -> None:
        async with three() as nodes, using(*nodes, nodes=nodes) as hypervisor:
            nodes[1].say["*"] = self._upid
            assert await hypervisor.start(VM, "pve2") == UPID
            assert [len(node.seen) for node in nodes] == [0, 1, 0]

    async def _upid(self, _: web.Request, __: str) -> web.StreamResponse:
        return server.data(UPID)


class TestTasks:
    async def test_a_task_is_followed_through_another_node_when_its_own_does_not_answer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "ATTEMPT_SECONDS", 0.2)
        async with three() as nodes, using(*nodes, nodes=nodes) as hypervisor:
            one, two, _ = nodes
            for node in nodes:
                node.say["*"] = self._running
            assert (await hypervisor.task(UPID)).running
            assert [len(node.seen) for node in nodes] == [0, 1, 0]
            two.say["*"] = hang
            assert (await hypervisor.task(UPID)).running
            assert len(one.seen) == 1

    async def _running(self, _: web.Request, __: str) -> web.StreamResponse:
        return server.data({"upid": UPID, "status": "running"})

    async def test_a_dead_node_is_named_and_not_asked_for_through_everyone(self) -> None:
        async with three() as (one, _, three_):
            named = {"pve2": endpoints.Address(server.HOST, await dead_port())}
            hosts = [one.address, three_.address]
            hypervisor = client.ProxmoxClient(hosts, server.TOKEN, server.trust(), nodes=named)
            one.say["*"] = three_.say["*"] = failing(595, "No route to host")
            with pytest.raises(errors.Unreachable, match="node pve2 did not answer"):
                await hypervisor.task(UPID)
            assert len(one.seen) + len(three_.seen) == 1
            one.say.clear()
            await hypervisor.ha_status()
            assert one.asked("/cluster/ha/status/manager_status") == 1, "the proxy itself is in good health"
            await hypervisor.close()

    @pytest.mark.parametrize(
        "upid", ["garbage", "UPID:../x:00000645:00040550:6B032295:qmstart:100:root@pam:", UPID[:-1]]
    )
    async def test_what_is_no_upid_is_not_asked_for(self, upid: str) -> None:
        async with three() as nodes, using(*nodes) as hypervisor:
            with pytest.raises(errors.BadAnswer, match="is not a UPID"):
                await hypervisor.task(upid)
            assert nodes[0].seen == []


async def test_certificates_are_seen_without_a_request() -> None:
    async with Node("pve1") as one:
        nobody = endpoints.Address(server.HOST, 1)
        asking = one.client(nobody)
        found = await asking.certificates()
        await asking.close()
        assert one.seen == []
    days = {address: round((expires - time.time()) / 86400, 1) for address, expires in found.items()}
    assert days == {str(one.address): 1.0}


async def test_monitors_of_ceph_and_nodes_without_it() -> None:
    async def ceph(_: web.Request, __: str) -> web.StreamResponse:
        return server.data({"quorum_names": ["pve1", "pve3"], "monmap": {"num_mons": 3}, "fsid": "x"})

    async with Node("pve1") as one, using(one) as asking:
        one.say["/cluster/ceph/status"] = ceph
        found = await asking.ceph_monitors()
        assert found is not None
        assert (set(found.quorum), found.count) == ({"pve1", "pve3"}, 3)
        assert (found.last_without("pve1"), found.last_without("pve2")) == (True, False)
        for sentence in ("binary not installed: /usr/bin/ceph-mon", "pveceph configuration not initialized"):
            one.say["/cluster/ceph/status"] = failing(500, sentence)
            assert await asking.ceph_monitors() is None
        one.say["/cluster/ceph/status"] = failing(500, "got timeout")
        with pytest.raises(errors.Refused, match="got timeout"):
            await asking.ceph_monitors()


async def test_every_node_is_asked_for_its_version_and_a_silent_one_keeps_its_last() -> None:
    old, now = server.data({"version": "8.4.1"}), server.data({"version": "9.2.11"})

    def saying(answer: web.Response) -> Answer:
        async def say(_: web.Request, __: str) -> web.StreamResponse:
            return web.Response(text=answer.text, content_type="application/json")

        return say

    async with Node("pve1") as one, Node("pve2") as two:
        two.say["/version"] = saying(old)
        asking = one.client(nodes={"pve1": one.address, "pve2": two.address})
        found = await asking.privileges()
        assert (found.versions, found.version) == ({"pve1": "9.2.11", "pve2": "8.4.1"}, "8.4.1")
        two.say["/version"] = failing(595, "Connection refused")
        assert (await asking.privileges()).versions == found.versions
        two.say["/version"] = saying(now)
        assert (await asking.privileges()).version == "9.2.11"
        await asking.close()
