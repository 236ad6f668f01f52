"""The client over HTTPS and the simulated port beside it: one `Hypervisor` on the same world."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pveha import tls
from pveha.model import cluster, errors, guests, ports, replication
from pveha.proxmox import client, credentials, endpoints
from pveha.sim import config, datacenter
from pveha.sim import ports as sim_ports
from pveha.sim import world as worlds

VM = guests.GuestRef(100, guests.GuestKind.VM)
CONTAINER = guests.GuestRef(101, guests.GuestKind.CONTAINER)
MANAGED = guests.GuestRef(102, guests.GuestKind.VM)
RULE = cluster.HARule("near", "node-affinity", frozenset({"vm:102"}), {"pve1": 2, "pve2": 0}, strict=True)
WORLD = config.three_nodes(
    (
        config.Guest(100, "pve1", running=False, tags=("gold",), name="web"),
        config.Guest(101, "pve1", kind=guests.GuestKind.CONTAINER, running=False),
        config.managed(102, "pve2"),
        config.Guest(103, "pve3", storages=("zfs",), replicas=(config.Replica("pve1", synced_ago=100),)),
        config.Guest(104, "pve3", kind=guests.GuestKind.CONTAINER, cores=0, running=False),
    ),
    storages=(*config.Config(()).storages, config.Storage("zfs", shared=False, type="zfspool")),
    rules=(RULE,),
    corosync=config.Corosync(token=500, token_coefficient=0),
)


def through_https(
    center: datacenter.DataCenter, token: datacenter.Token | None = None
) -> client.ProxmoxClient:
    about = center.connection
    chosen = token or about.token
    return client.ProxmoxClient(
        [endpoints.Address(node.address, about.api_port) for node in about.nodes],
        credentials.Token(chosen.id, chosen.secret),
        tls.Trust(ca=about.ca),
    )


@pytest.fixture
async def center() -> AsyncIterator[datacenter.DataCenter]:
    async with datacenter.DataCenter(WORLD) as running:
        yield running


@pytest.fixture
def world(center: datacenter.DataCenter) -> worlds.World:
    return center.world


@pytest.fixture(params=["over HTTPS", "simulated port"])
async def hypervisor(
    request: pytest.FixtureRequest, center: datacenter.DataCenter
) -> AsyncIterator[ports.Hypervisor]:
    if request.param == "simulated port":
        yield sim_ports.SimHypervisor(center.world)
    else:
        async with contextlib.aclosing(_Closing(through_https(center))) as closing:
            yield closing.client


class _Closing:
    def __init__(self, wrapped: client.ProxmoxClient) -> None:
        self.client = wrapped

    async def aclose(self) -> None:
        await self.client.close()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - asked over the port, which has no events
            await asyncio.sleep(0.05)


async def ended(hypervisor: ports.Hypervisor, upid: str) -> cluster.TaskStatus:
    async def over() -> bool:
        return not (await hypervisor.task(upid)).running

    await until(over)
    return await hypervisor.task(upid)


class TestBoth:
    async def test_every_node_is_a_witness(self, hypervisor: ports.Hypervisor) -> None:
        for name in ("pve1", "pve2", "pve3"):
            view = await hypervisor.membership(name)
            assert (view.witness, view.quorate) == (name, True)
            assert view.members == {"pve1", "pve2", "pve3"} == set(view.addresses)
        with pytest.raises(errors.NotFound):
            await hypervisor.membership("pve9")

    async def test_inventory(self, hypervisor: ports.Hypervisor) -> None:
        found = await hypervisor.inventory()
        web = found.guests[100]
        assert (web.ref, web.node, web.status, web.name) == (VM, "pve1", "stopped", "web")
        assert web.tags == {"gold"}
        assert (web.template, web.lock, web.ha_state) == (False, None, None)
        assert (web.max_memory, web.max_cpu) == (2 * config.GIB, 2)
        assert found.guests[104].max_cpu == 16, "a container that nothing limits may use all of its node"
        assert found.guests[101].ref.kind is guests.GuestKind.CONTAINER
        assert (found.guests[102].status, found.guests[102].ha_state) == ("running", "started")
        assert {name: node.online for name, node in found.nodes.items()} == dict.fromkeys(
            ("pve1", "pve2", "pve3"), True
        )
        assert {(node.max_memory, node.max_cpu) for node in found.nodes.values()} == {(64 * config.GIB, 16)}
        assert {(each.storage, each.shared, each.available) for each in found.storages} == {
            ("shared", True, True),
            ("local", False, True),
            ("zfs", False, True),
        }

    async def test_replication_jobs_and_their_syncs(
        self, hypervisor: ports.Hypervisor, world: worlds.World
    ) -> None:
        job = replication.Job("103-0", 103, "pve1", "pve3")
        assert await hypervisor.replication_jobs() == (job,)
        assert (await hypervisor.replication_job("103-0"))[0] == job
        last = int(world.config.start_timestamp - 100)
        assert await hypervisor.replication_syncs("pve3") == (
            replication.Sync("103-0", "pve3", "pve1", last),
        )
        assert await hypervisor.replication_syncs("pve2") == ()
        with pytest.raises(errors.NotFound):
            await hypervisor.replication_job("103-1")

    async def test_a_job_is_disabled_and_enabled_by_compare_and_swap(
        self, hypervisor: ports.Hypervisor
    ) -> None:
        job, digest = await hypervisor.replication_job("103-0")
        held = job.held(replication.Hold("pve3-1"))
        await hypervisor.update_replication_job(held, digest)
        assert await hypervisor.replication_jobs() == (held,)
        with pytest.raises(errors.Conflict):
            await hypervisor.update_replication_job(job, digest)
        _, digest = await hypervisor.replication_job("103-0")
        await hypervisor.update_replication_job(held.released(), digest)
        assert await hypervisor.replication_jobs() == (job,)

    async def test_ha_as_it_is(self, hypervisor: ports.Hypervisor) -> None:
        ha = await hypervisor.ha_config()
        assert ha.resources == {"vm:102": cluster.HAResource("vm:102")}
        assert ha.digest
        assert (await hypervisor.ha_rules()).enabled == (RULE,)
        status = await hypervisor.ha_status()
        assert status.master == "pve1"
        assert status.armed
        assert status.services["vm:102"].node == "pve2"
        assert status.lrms["pve2"].state == "active"
        assert status.node_status == dict.fromkeys(("pve1", "pve2", "pve3"), "online")

    async def test_a_resource_from_creation_to_deletion(self, hypervisor: ports.Hypervisor) -> None:
        mine = cluster.HAResource(
            "vm:100", cluster.HAState.STOPPED, "web [pveha owner=a.b.c]", failback=False
        )
        await hypervisor.create_ha_resource(mine)
        with pytest.raises(errors.AlreadyExists):
            await hypervisor.create_ha_resource(mine)
        before = await hypervisor.ha_config()
        assert before.resources["vm:100"] == mine

        ignored = cluster.HAResource("vm:100", cluster.HAState.IGNORED, "", failback=True, max_restart=3)
        await hypervisor.update_ha_resource(ignored, before.digest)
        with pytest.raises(errors.Conflict):
            await hypervisor.update_ha_resource(mine, before.digest)
        assert (await hypervisor.ha_config()).resources["vm:100"] == ignored
        await hypervisor.update_ha_resource(mine, None)
        after = await hypervisor.ha_config()
        assert after.resources["vm:100"] == mine

        await hypervisor.delete_ha_resource("vm:100")
        assert "vm:100" not in (await hypervisor.ha_config()).resources
        with pytest.raises(errors.NotFound):
            await hypervisor.delete_ha_resource("vm:100")
        with pytest.raises(errors.NotFound):
            await hypervisor.update_ha_resource(mine, (await hypervisor.ha_config()).digest)

    async def test_a_deleted_resource_stays_in_its_rules(self, hypervisor: ports.Hypervisor) -> None:
        await hypervisor.delete_ha_resource("vm:102")
        assert (await hypervisor.ha_rules()).enabled == (RULE,)

    async def test_a_rule_from_creation_to_deletion(self, hypervisor: ports.Hypervisor) -> None:
        for sid in ("vm:100", "ct:101"):
            await hypervisor.create_ha_resource(cluster.HAResource(sid, cluster.HAState.STOPPED))
        mine = cluster.HARule(
            "pveha-apart",
            cluster.RESOURCE_AFFINITY,
            frozenset({"vm:100", "ct:101"}),
            positive=False,
            comment="apart [pveha owner=a.b.c]",
        )
        await hypervisor.create_ha_rule(mine)
        with pytest.raises(errors.AlreadyExists):
            await hypervisor.create_ha_rule(mine)
        before = await hypervisor.ha_rules()
        assert before.rules[mine.name] == mine

        off = dataclasses.replace(mine, disabled=True, comment="")
        await hypervisor.update_ha_rule(off, before.digest)
        with pytest.raises(errors.Conflict):
            await hypervisor.update_ha_rule(mine, before.digest)
        after = await hypervisor.ha_rules()
        assert (after.rules[mine.name], mine.name in {each.name for each in after.enabled}) == (off, False)
        await hypervisor.update_ha_rule(mine, after.digest)
        assert (await hypervisor.ha_rules()).rules[mine.name] == mine

        await hypervisor.delete_ha_rule(mine.name)
        assert (await hypervisor.ha_rules()).enabled == (RULE,)
        await hypervisor.delete_ha_rule(mine.name)
        with pytest.raises(errors.NotFound):
            await hypervisor.update_ha_rule(mine, (await hypervisor.ha_rules()).digest)

    async def test_a_node_affinity_keeps_priorities_and_strictness(
        self, hypervisor: ports.Hypervisor
    ) -> None:
        await hypervisor.create_ha_resource(cluster.HAResource("vm:100", cluster.HAState.STOPPED))
        strict = cluster.HARule(
            "pveha-nodes", cluster.NODE_AFFINITY, frozenset({"vm:100"}), {"pve1": 30, "pve2": 0}, strict=True
        )
        await hypervisor.create_ha_rule(strict)
        soft = dataclasses.replace(strict, nodes={"pve3": 7}, strict=False)
        found = await hypervisor.ha_rules()
        assert found.rules["pveha-nodes"] == strict
        await hypervisor.update_ha_rule(soft, found.digest)
        assert (await hypervisor.ha_rules()).rules["pveha-nodes"] == soft

    @pytest.mark.parametrize(
        ("rule", "said"),
        [
            (cluster.HARule("rr", cluster.NODE_AFFINITY, frozenset({"vm:100"}), {"pve1": 0}), "unmanaged"),
            (cluster.HARule("rr", cluster.NODE_AFFINITY, frozenset({"vm:102"}), {"pve9": 0}), "node"),
            (cluster.HARule("rr", cluster.NODE_AFFINITY, frozenset({"vm:102"}), {"pve1": 0}), "already used"),
            (cluster.HARule("rr", cluster.RESOURCE_AFFINITY, frozenset({"vm:102"})), "less than two"),
        ],
        ids=["unmanaged", "no such node", "second node affinity", "one resource"],
    )
    async def test_rules_that_proxmox_declines(
        self, hypervisor: ports.Hypervisor, rule: cluster.HARule, said: str
    ) -> None:
        with pytest.raises(errors.Refused, match=said):
            await hypervisor.create_ha_rule(rule)
        assert (await hypervisor.ha_rules()).enabled == (RULE,)

    @pytest.mark.parametrize("ref", [VM, CONTAINER], ids=str)
    async def test_a_start_is_followed_to_its_end(
        self, hypervisor: ports.Hypervisor, ref: guests.GuestRef
    ) -> None:
        assert (await hypervisor.guest_runtime(ref, "pve1")).status == "stopped"
        upid = await hypervisor.start(ref, "pve1")
        assert upid.startswith("UPID:pve1:")
        assert (await hypervisor.task(upid)).running
        task = await ended(hypervisor, upid)
        assert task.succeeded, task
        runtime = await hypervisor.guest_runtime(ref, "pve1")
        assert (runtime.status, runtime.lock) == ("running", None)
        assert (runtime.qmp_status == "running") == (ref is VM)
        assert (runtime.qmp_status is None) == (ref is CONTAINER)
        assert 0 <= runtime.uptime < 10

    async def test_an_agent_answers_when_its_guest_has_booted(self, hypervisor: ports.Hypervisor) -> None:
        with pytest.raises(errors.Refused, match=f"VM {VM.vmid} is not running"):
            await hypervisor.ping_agent(VM, "pve1")
        await ended(hypervisor, await hypervisor.start(VM, "pve1"))
        with pytest.raises(errors.Refused, match="QEMU guest agent is not running"):
            await hypervisor.ping_agent(VM, "pve1")

        async def answers() -> bool:
            try:
                await hypervisor.ping_agent(VM, "pve1")
            except errors.Refused:
                return False
            return True

        await until(answers, 20)
        with pytest.raises(errors.OutsideError, match="does not exist"):
            await hypervisor.ping_agent(VM, "pve3")

    async def test_a_start_that_cannot_work_is_accepted_and_fails_as_a_task(
        self, hypervisor: ports.Hypervisor
    ) -> None:
        task = await ended(hypervisor, await hypervisor.start(VM, "pve3"))
        assert not task.succeeded
        assert "does not exist" in (task.exit_status or "")

    async def test_the_start_of_a_managed_guest_only_asks_the_crm(self, hypervisor: ports.Hypervisor) -> None:
        upid = await hypervisor.start(MANAGED, "pve2")
        assert ":hastart:102:" in upid
        assert (await ended(hypervisor, upid)).succeeded

    @pytest.mark.parametrize(("ref", "seconds"), [(VM, 1.0), (CONTAINER, 15.0)], ids=str)
    async def test_a_guest_is_moved_by_a_task(
        self, hypervisor: ports.Hypervisor, world: worlds.World, ref: guests.GuestRef, seconds: float
    ) -> None:
        assert (await ended(hypervisor, await hypervisor.start(ref, "pve1"))).succeeded
        began = world.now()
        task = await ended(hypervisor, await hypervisor.migrate(ref, "pve1", "pve3"))
        assert task.succeeded, task
        assert (await hypervisor.inventory()).guests[ref.vmid].node == "pve3"

        async def runs() -> bool:
            return (await hypervisor.guest_runtime(ref, "pve3")).status == "running"

        await until(runs, 20)
        assert world.downtime(ref.vmid, began) < seconds

    async def test_a_migration_that_fails_leaves_the_guest_where_it_runs(
        self, hypervisor: ports.Hypervisor, world: worlds.World
    ) -> None:
        assert (await ended(hypervisor, await hypervisor.start(VM, "pve1"))).succeeded
        world.guests.refusing.add("pve3")
        task = await ended(hypervisor, await hypervisor.migrate(VM, "pve1", "pve3"))
        assert not task.succeeded
        runtime = await hypervisor.guest_runtime(VM, "pve1")
        assert (runtime.status, runtime.lock) == ("running", None)

    async def test_the_move_of_a_managed_guest_is_the_crms(
        self, hypervisor: ports.Hypervisor, world: worlds.World
    ) -> None:
        await hypervisor.migrate_service(MANAGED, "pve1")
        commands = [words for tree in world.fs.trees.values() for words in tree.commands]
        status = await hypervisor.ha_status()
        assert ("migrate", "vm:102", "pve1") in commands or status.services["vm:102"].state == "migrate"
        with pytest.raises(errors.OutsideError):
            await hypervisor.migrate_service(VM, "pve1")

    async def test_what_is_not_there_is_not_found(self, hypervisor: ports.Hypervisor) -> None:
        with pytest.raises(errors.NotFound):
            await hypervisor.guest_runtime(VM, "pve3")
        with pytest.raises(errors.NotFound):
            await hypervisor.task("UPID:pve1:00000645:00040550:6B032295:qmstart:101:pveha@pve!operator:")

    async def test_a_node_without_power(self, hypervisor: ports.Hypervisor, world: worlds.World) -> None:
        for name in ("pve1", "pve2", "pve3"):
            await hypervisor.membership(name)
        world.power_off("pve2")
        started = time.monotonic()
        with pytest.raises(errors.Unreachable):
            await hypervisor.membership("pve2")
        assert time.monotonic() - started < client.PROBE_SECONDS + 0.5
        with pytest.raises(errors.Unreachable):
            await hypervisor.guest_runtime(MANAGED, "pve2")

        async def lost() -> bool:
            return "pve2" not in (await hypervisor.membership("pve1")).members

        await until(lost)
        found = await hypervisor.inventory()
        assert not found.nodes["pve2"].online
        assert found.nodes["pve2"].used_memory is None
        stale = found.guests[102]
        assert (stale.node, stale.status) == ("pve2", "running"), "stale: its node is not online"
        assert (await hypervisor.membership("pve3")).quorate

    async def test_without_quorum_reads_answer_and_writes_say_why(
        self, hypervisor: ports.Hypervisor, world: worlds.World
    ) -> None:
        for name in ("pve1", "pve2", "pve3"):
            await hypervisor.membership(name)
        world.power_off("pve2")
        world.power_off("pve3")

        async def alone() -> bool:
            return not (await hypervisor.membership("pve1")).quorate

        await until(alone)
        for name in ("pve2", "pve3"):
            with pytest.raises(errors.Unreachable):
                await hypervisor.membership(name)
        assert (await hypervisor.inventory()).guests
        with pytest.raises(errors.NoQuorum):
            await hypervisor.start(VM, "pve1")
        with pytest.raises(errors.NoQuorum):
            await hypervisor.create_ha_resource(cluster.HAResource("vm:100"))

    async def test_a_node_whose_services_are_down(
        self, hypervisor: ports.Hypervisor, world: worlds.World
    ) -> None:
        world.stop_pveproxy("pve1")
        with pytest.raises(errors.Unreachable):
            await hypervisor.membership("pve1")
        world.stop_pmxcfs("pve3")
        with pytest.raises(errors.Unreachable):
            await hypervisor.membership("pve3")
        assert set((await hypervisor.inventory()).guests) == {100, 101, 102, 103, 104}
        world.stop_pvedaemon("pve2")
        with pytest.raises(errors.Unreachable):
            await hypervisor.guest_runtime(MANAGED, "pve2")

    async def test_a_hung_api_costs_one_deadline(
        self, hypervisor: ports.Hypervisor, world: worlds.World
    ) -> None:
        for name in ("pve1", "pve2", "pve3"):
            await hypervisor.membership(name)
        world.hang_api("pve1")
        await hypervisor.ha_status()
        started = time.monotonic()
        for _ in range(10):
            await hypervisor.ha_status()
        assert time.monotonic() - started < 2

    async def test_privileges(self, hypervisor: ports.Hypervisor) -> None:
        held = await hypervisor.privileges()
        assert held.root >= {"Sys.Audit", "Sys.Console"}
        assert held.vms >= {"VM.Audit", "VM.PowerMgmt"}
        assert held.storage >= {"Datastore.Audit"}
        assert held.version.startswith("9.")


class TestCredentials:
    async def test_a_token_that_sees_nothing_is_told_so(self, center: datacenter.DataCenter) -> None:
        stranger = through_https(center, center.connection.stranger)
        with pytest.raises(errors.Forbidden, match=r"VM\.Audit on /vms"):
            await stranger.inventory()
        with pytest.raises(errors.Forbidden, match=r"\(/, Sys\.Audit\).*pveum acl modify"):
            await stranger.membership("pve1")
        assert (await stranger.privileges()).root == frozenset()
        await stranger.close()

    async def test_an_auditor_may_look_but_not_write(self, center: datacenter.DataCenter) -> None:
        auditor = through_https(center, center.connection.auditor)
        assert (await auditor.inventory()).guests
        with pytest.raises(errors.Forbidden, match=r"Sys\.Console"):
            await auditor.create_ha_resource(cluster.HAResource("vm:100"))
        with pytest.raises(errors.Forbidden, match=r"VM\.PowerMgmt"):
            await auditor.start(VM, "pve1")
        await auditor.close()

    async def test_a_wrong_secret_is_told_apart_from_a_dead_node(self, center: datacenter.DataCenter) -> None:
        wrong = through_https(center, datacenter.Token(center.connection.token.id, "wrong"))
        with pytest.raises(errors.Unauthorized):
            await wrong.ha_status()
        await wrong.close()

    async def test_pinned_nodes_need_no_ca(self, center: datacenter.DataCenter) -> None:
        about = center.connection
        pinned = client.ProxmoxClient(
            [endpoints.Address(node.address, about.api_port) for node in about.nodes],
            credentials.Token(about.token.id, about.token.secret),
            tls.Trust(fingerprints=tuple(node.fingerprint for node in about.nodes[:2])),
        )
        assert (await pinned.membership("pve2")).quorate
        with pytest.raises(errors.Untrusted):
            await pinned.membership("pve3")
        await pinned.close()
