"""What comes in from outside is checked: secrets and trust from users, shapes and errors from Proxmox."""

from typing import Any

import pytest

from pveha import tls
from pveha.model import cluster, errors, guests
from pveha.proxmox import access, credentials, endpoints, shapes, tasks
from pveha.proxmox import errors as failures
from unit.proxmox import server

VM = guests.GuestRef(100, guests.GuestKind.VM)
NODE = {"type": "node", "id": "node/pve1", "node": "pve1", "status": "online"}


class TestToken:
    @pytest.mark.parametrize("identity", ["root@pam", "pveha!x", "a@b!c\r\nX: y", "", "a b@pve!c"])
    def test_an_id_of_another_form_is_refused(self, identity: str) -> None:
        with pytest.raises(errors.InvalidConfiguration, match="USER@REALM!NAME"):
            credentials.Token(identity, "s")

    @pytest.mark.parametrize("secret", ["", "hunter2\n", "hunter2 2", "hunter2\r\nHost: x"])
    def test_a_secret_with_blanks_is_refused_without_showing_it(self, secret: str) -> None:
        with pytest.raises(errors.InvalidConfiguration) as info:
            credentials.Token("pveha@pve!x", secret)
        assert "hunter2" not in str(info.value)


class TestTrust:
    @pytest.mark.parametrize(
        "settings",
        [
            {"ca": "not a certificate"},
            {"ca": ""},
            {"fingerprints": ("AA:BB",)},
            {"fingerprints": ("zz" * 32,)},
            {"ca": server.certificates().ca, "fingerprints": ("00" * 32,)},
        ],
    )
    def test_what_cannot_be_verified_against_is_refused(self, settings: dict[str, Any]) -> None:
        with pytest.raises(errors.InvalidConfiguration, match="tls"):
            tls.Trust(**settings)


class TestEndpoints:
    def test_order_is_the_users_and_an_address_counts_once(self) -> None:
        one, two = endpoints.Address("pve1"), endpoints.Address("pve2")
        known = endpoints.Endpoints([two, one, two], {"pve1": one})
        assert [(each.address, each.node) for each in known.ranked()] == [(two, None), (one, "pve1")]

    async def test_what_the_user_named_is_better_than_what_was_discovered(self) -> None:
        named = endpoints.Address("pve1.example.net")
        known = endpoints.Endpoints([], {"pve1": named})
        known.learn({"pve1": "10.0.0.1", "pve2": "10.0.0.2"})
        known.learn({"pve1": "10.0.0.1", "pve2": "10.0.0.22"})
        assert [str(each.address) for each in known.ranked()] == ["pve1.example.net:8006", "10.0.0.22:8006"]
        known.learn({"pve1": "10.0.0.1"})
        assert known.of("pve2") is None

    async def test_pauses_double_up_to_a_limit_and_end_with_an_answer(self) -> None:
        endpoint = endpoints.Endpoint(endpoints.Address("::1"))
        assert str(endpoint.address) == "[::1]:8006"
        for _ in range(10):
            endpoint.failed()
        assert endpoint.aside
        endpoint.succeeded()
        assert not endpoint.aside


class TestShapes:
    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ({"type": "qemu", "vmid": 100, "status": "running"}, "0.qemu.node: Field required"),
            ({"type": "lxc", "vmid": "many", "node": "pve1", "status": "running"}, "0.lxc.vmid"),
            ({"id": "qemu/100"}, "entry without `type`"),
            ({"type": "storage", "node": "pve1", "storage": "local"}, "0.storage.status"),
            ("qemu/100", "0"),
        ],
    )
    def test_a_missing_field_is_named_with_its_path(self, entry: Any, said: str) -> None:
        with pytest.raises(errors.BadAnswer, match=f"/cluster/resources: .*{said}"):
            shapes.inventory([entry], 0)

    @pytest.mark.parametrize("data", [None, {}, "x", 1])
    def test_no_list_is_not_an_empty_list(self, data: Any) -> None:
        for read in (shapes.inventory, shapes.ha_config, shapes.ha_rules, shapes.membership):
            with pytest.raises(errors.BadAnswer):
                read(data, 0)

    def test_numbers_may_be_strings_and_unknown_things_are_ignored(self) -> None:
        entry = {"type": "lxc", "vmid": "101", "node": "pve1", "status": "running", "name": 7, "maxmem": "5"}
        future = {"type": "hologram", "id": "x"}
        found = shapes.inventory([NODE, entry | {"template": "1", "new": []}, future], 3)
        assert found.nodes == {
            "pve1": cluster.NodeResource("pve1", online=True, max_memory=None, used_memory=None)
        }
        container = found.guests[101]
        assert container.ref.kind is guests.GuestKind.CONTAINER
        assert (container.name, container.max_memory, container.template) == ("7", 5, True)

    def test_an_unknown_state_of_an_ha_resource_is_not_guessed(self) -> None:
        entry = {"sid": "vm:100", "digest": "d", "state": "enabled"}
        assert shapes.ha_config([entry], 0).resources["vm:100"].state is cluster.HAState.STARTED
        with pytest.raises(errors.BadAnswer, match=r"0\.state"):
            shapes.ha_config([entry | {"state": "levitating"}], 0)

    def test_only_guests_are_kept_of_ha_resources(self) -> None:
        entries = [{"sid": sid, "digest": "d", "failback": 0} for sid in ("vm:1", "ct:2", "fa:3")]
        config = shapes.ha_config(entries, 0)
        assert set(config.resources) == {"vm:1", "ct:2"}
        assert not config.resources["ct:2"].failback

    def test_a_node_whose_lrm_never_reported_has_no_lrm(self) -> None:
        lrm = {"state": "active", "mode": "active", "timestamp": "7"}
        answer = {"manager_status": {}, "lrm_status": {"pve1": lrm, "pve2": {}}}
        assert shapes.ha_status(answer, 0).lrms == {"pve1": cluster.LRMStatus("active", "active", 7)}
        answer["lrm_status"]["pve2"] = {"state": "active"}
        with pytest.raises(errors.BadAnswer, match=r"lrm_status\.pve2"):
            shapes.ha_status(answer, 0)

    def test_a_services_target_is_kept(self) -> None:
        moving = {"state": "migrate", "node": "pve1", "target": "pve2", "uid": "u"}
        status = shapes.ha_status({"manager_status": {"service_status": {"vm:100": moving}}}, 0)
        assert status.services["vm:100"] == cluster.ServiceStatus("migrate", "pve1", "pve2", "u")

    def test_membership_needs_one_witness(self) -> None:
        member = {"type": "node", "name": "pve1", "online": 1, "local": 0}
        with pytest.raises(errors.BadAnswer, match="0 nodes say they are local"):
            shapes.membership([member], 0)
        other = member | {"name": "pve2"}
        with pytest.raises(errors.BadAnswer, match="no `cluster` entry"):
            shapes.membership([member | {"local": 1}, other], 0)

    def test_a_vm_without_qmp_state_is_a_bad_answer_a_container_has_none(self) -> None:
        with pytest.raises(errors.BadAnswer, match="qmpstatus"):
            shapes.guest_runtime({"status": "running"}, VM)
        container = guests.GuestRef(101, guests.GuestKind.CONTAINER)
        runtime = shapes.guest_runtime({"status": "running", "uptime": 4}, container)
        assert runtime == cluster.GuestRuntime("running", None, 4, None)

    def test_a_task_that_ended_without_saying_how_did_not_succeed(self) -> None:
        ended = shapes.task({"upid": "U", "status": "stopped"}, "U")
        assert not ended.running
        assert not ended.succeeded
        with pytest.raises(errors.BadAnswer, match="told of V"):
            shapes.task({"upid": "V", "status": "running"}, "U")

    def test_a_priority_must_be_a_number(self) -> None:
        rule = {"rule": "r", "type": "node-affinity", "resources": "vm:1", "nodes": "pve1:x", "digest": ""}
        with pytest.raises(errors.BadAnswer, match="priority 'x'"):
            shapes.ha_rules([rule], 0)


def test_a_upid_is_taken_apart() -> None:
    upid = "UPID:pve1:00000645:00040550:6B032295:qmstart:101:op@pve!full:"
    assert tasks.parse(upid) == tasks.Upid(upid, "pve1", 0x6B032295, "qmstart", "101", "op@pve!full")


def test_privileges_throughout_a_path() -> None:
    held = {
        "/vms": {"VM.Audit": True, "VM.PowerMgmt": False, "VM.Migrate": True},
        "/vms/7": {"VM.Audit": True},
    }
    assert access.throughout(held, "/vms") == {"VM.Audit"}
    assert access.throughout(held, "/storage") == frozenset()


@pytest.mark.parametrize(
    ("status", "reason", "body", "kind"),
    [
        (500, "got lock request timeout", "", errors.Locked),
        (500, "VM is locked (backup)", "not json", errors.Locked),
        (500, "cannot frobnicate", '{"message": "no quorum"}', errors.NoQuorum),
        (599, "garbled", "", errors.Unreachable),
        (502, "Bad Gateway", "<html>", errors.Unreachable),
        (404, "Not Found", "<html>", errors.BadAnswer),
        (418, "I'm a teapot", "", errors.BadAnswer),
        (500, "", "[1]", errors.Refused),
    ],
)
def test_errors_that_were_not_recorded(
    status: int, reason: str, body: str, kind: type[errors.OutsideError]
) -> None:
    assert type(failures.from_answer(failures.Call("GET", "/x", "pve1:8006"), status, reason, body)) is kind
