"""What `pveha-node` reads on a node: status, inventory, processes."""

import contextlib
import sys
import time

import pytest

from pveha.nodeshell import pveha_node
from unit.nodeshell.tree import COROSYNC, Tree

linux = pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERCRED is Linux's")


def test_status(tree: Tree) -> None:
    tree.epochs(3, 12)
    tree.write("/etc/pve/priv/pveha/owner", "1234.ns.dc1\n")
    status = tree.result("status")
    assert abs(status.pop("time") - time.time()) < 10
    assert status == {
        "version": "0.1.0",
        "node": "pve1",
        "quorate": True,
        "members": {"pve1": True, "pve2": True, "pve3": False},
        "votes": {
            "configured": {"pve1": 1, "pve2": 1, "pve3": 2},
            "qdevice": 0,
            "expected": 4,
            "total": 3,
            "unsafe_options": [],
        },
        "identities": ["4c4c4544-0042-3510-8051-b7c04f4d3232", "7b5qm22"],
        "newest_epoch": 12,
        "owner": "1234.ns.dc1",
        "totem": {"token": 3000, "token_coefficient": 650, "consensus": 0},
        "timer": {"enabled": False, "looked_seconds_ago": None},
    }


def test_how_corosync_notices_a_loss(tree: Tree) -> None:
    told = "totem {\n  token: 10000\n  token_coefficient: 125\n  consensus: 13000"
    tree.write("/etc/pve/corosync.conf", COROSYNC.replace("totem {", told))
    assert tree.result("status")["totem"] == {"token": 10000, "token_coefficient": 125, "consensus": 13000}


def test_the_timer_that_has_looked(tree: Tree) -> None:
    tree.write("/etc/systemd/system/timers.target.wants/pveha-repair.timer", "")
    pveha_node.repair(pveha_node.System(str(tree.root)))
    timer = tree.result("status")["timer"]
    assert timer["enabled"] is True
    assert 0 <= timer["looked_seconds_ago"] < 10


def test_a_node_without_cluster_is_not_quorate(tree: Tree) -> None:
    tree.write("/etc/pve/.members", '{"nodename": "pve1", "version": 1}')
    assert tree.result("status")["quorate"] is False


@pytest.mark.parametrize("content", ["", "[]", '{"nodelist": 3}', '{"cluster": [], "nodelist": {}}'])
def test_members_of_an_unknown_form_are_an_error(tree: Tree, content: str) -> None:
    tree.write("/etc/pve/.members", content)
    assert tree.error("status") == "Failed"


def test_pmxcfs_not_running_is_an_error(tree: Tree) -> None:
    tree.path("/etc/pve/.members").unlink()
    assert tree.error("processes") == "Failed"


@pytest.mark.parametrize(
    ("line", "unsafe"),
    [
        ("two_node: 1", ["two_node"]),
        ("two_node: 0", []),
        ("last_man_standing: 1", ["last_man_standing"]),
        ("auto_tie_breaker: yes", ["auto_tie_breaker"]),
        ("allow_downscale: 1", ["allow_downscale"]),
        ("expected_votes: 2", ["expected_votes"]),
        ("wait_for_all: 1", []),
    ],
)
def test_options_that_make_quorum_worth_less(tree: Tree, line: str, unsafe: list[str]) -> None:
    provider = "provider: corosync_votequorum"
    tree.write("/etc/pve/corosync.conf", COROSYNC.replace(provider, f"{provider}\n  {line}"))
    assert tree.result("status")["votes"]["unsafe_options"] == unsafe


def test_votes_of_a_qdevice(tree: Tree) -> None:
    device = "quorum {\n  device {\n    model: net\n    net {\n      host: q\n    }\n    votes: 2\n  }\n"
    tree.write("/etc/pve/corosync.conf", COROSYNC.replace("quorum {\n", device))
    assert tree.result("status")["votes"]["qdevice"] == 2
    tree.write("/etc/pve/corosync.conf", COROSYNC.replace("quorum {\n", device.replace("    votes: 2\n", "")))
    assert tree.result("status")["votes"]["qdevice"] == 3, "one less than the nodes have"


@pytest.mark.parametrize(("algorithm", "unsafe"), [("ffsplit", []), ("test", ["device.net.algorithm=test"])])
def test_a_qdevice_that_votes_for_everybody(tree: Tree, algorithm: str, unsafe: list[str]) -> None:
    device = f"quorum {{\n  device {{\n    net {{\n      algorithm: {algorithm}\n    }}\n    votes: 1\n  }}\n"
    tree.write("/etc/pve/corosync.conf", COROSYNC.replace("quorum {\n", device))
    assert tree.result("status")["votes"]["unsafe_options"] == unsafe


def test_live_votes_that_cannot_be_read_are_zero(tree: Tree) -> None:
    tree.path("/usr/sbin/corosync-quorumtool").unlink()
    votes = tree.result("status")["votes"]
    assert (votes["expected"], votes["total"]) == (0, 0)


@pytest.mark.parametrize(
    "said",
    [
        "To be filled by O.E.M.",
        "Default string",
        "0000000000",
        "Not Specified",
        "03000200-0400-0500-0006-000700080009",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "",
    ],
)
def test_an_identity_that_many_machines_share_is_none(tree: Tree, said: str) -> None:
    tree.write("/sys/class/dmi/id/product_uuid", f"{said}\n")
    tree.write("/sys/class/dmi/id/product_serial", f"{said}\n")
    assert tree.result("status")["identities"] == []


NOTHING = {
    "unreplicated": [],
    "networks": [],
    "mappings": [],
    "media": [],
    "cloudinit": [],
    "cpu": "",
    "cpu_flags": [],
    "cores": 0,
    "machine": "",
    "onboot": False,
    "agent": False,
}


def test_inventory_reads_the_present_of_every_guest_of_the_cluster(tree: Tree) -> None:
    snapshot = "\n[before]\nmemory: 9999\nlock: backup\nscsi9: elsewhere:1/x.raw\n"
    tree.guest("pve3", "qemu/100", f"lock: migrate\nunused0: old:100/vm-100-disk-9.raw\n{snapshot}")
    web = "\n".join(
        (
            "name: web1",
            "memory: current=2048",
            "smbios1: base64=1,uuid=9940C7E6-fb4e-4317-bb65-5802dbd6a513",
            "scsi0: shared:101/vm-101-disk-0.qcow2,replicate=0,size=1G",
            "scsi1: local-lvm:vm-101-cloudinit,media=cdrom",
            "sockets: 2",
            "cores: 4",
            "cpu: cputype=x86-64-v3,flags=+aes;-pcid;+nested-virt",
            "machine: type=pc-q35-9.2+pve1,viommu=intel",
            "net0: virtio=BC:24:11:D6:00:7C,bridge=vmbr0,tag=20,firewall=1",
            "net1: e1000=BC:24:11:D6:00:7D,bridge=vmbr1,trunks=2;5",
            "net2: virtio=BC:24:11:D6:00:7E,bridge=vmbr0,tag=20",
            "net3: virtio=BC:24:11:D6:00:7F",
            "hostpci1: mapping=gpu,pcie=1",
            "usb2: mapping=dongle",
            "virtiofs0: share,cache=auto",
            "onboot: 1",
            "agent: enabled=1,fstrim_cloned_disks=1",
            "scsihw: virtio-scsi-single",
            "efidisk0: efi:vm-101-disk-1,size=4M",
            "ide2: local:iso/debian.iso,media=cdrom",
            "ide3: none,media=cdrom",
            "sata0: /dev/disk/by-id/ata-x,size=1G",
            "ide0: cdrom,media=cdrom",
            "hostpci0: 0000:01:00.0",
            "usb0: host=1234:5678",
            "usb1: spice",
            "serial0: socket",
            "serial1: /dev/ttyS0",
            "template: 1",
            "#hostpci9: a comment",
        )
    )
    tree.guest("pve1", "qemu/101", web)
    container = "\n".join(
        (
            "hostname: db",
            "net0: name=eth0,bridge=vnet1,hwaddr=BC:24:11:D6:00:7F,type=veth",
            "memory: 512",
            "rootfs: zfs:subvol-102-disk-0,size=8G",
            "mp1: volume=nfs:102/vm-102-disk-1.raw,mp=/data,replicate=0",
            "mp2: /srv,mp=/srv",
            "mp3: /mnt/all,mp=/all,shared=1",
            "dev0: /dev/ttyUSB0",
            "lxc.mount.entry: /x y none bind",
        )
    )
    tree.guest("pve2", "lxc/102", container)
    guests = {each.pop("guest"): each for each in tree.result("inventory")["guests"]}
    assert guests == {
        "qemu/100": {
            "node": "pve3",
            "name": "VM100",
            "identity": "",
            "memory_bytes": 512 * 1024**2,
            "storages": [],
            "lock": "migrate",
            "template": False,
            "local_devices": [],
            **NOTHING,
            "cpu": "kvm64",
            "cores": 1,
        },
        "qemu/101": {
            "node": "pve1",
            "name": "web1",
            "identity": "9940c7e6-fb4e-4317-bb65-5802dbd6a513",
            "memory_bytes": 2048 * 1024**2,
            "storages": ["efi", "shared"],
            "unreplicated": ["shared"],
            "lock": None,
            "template": True,
            "local_devices": ["hostpci0", "ide0", "sata0", "serial1", "usb0"],
            "networks": [
                {"bridge": "vmbr0", "tag": 20, "trunks": False},
                {"bridge": "vmbr1", "tag": 0, "trunks": True},
            ],
            "mappings": ["dir/share", "pci/gpu", "usb/dongle"],
            "media": ["local:iso/debian.iso"],
            "cloudinit": ["local-lvm"],
            "cpu": "x86-64-v3",
            "cpu_flags": ["aes", "nested-virt"],
            "cores": 8,
            "machine": "pc-q35-9.2+pve1",
            "onboot": True,
            "agent": True,
        },
        "lxc/102": {
            "node": "pve2",
            "name": "db",
            "identity": "nfs:102/vm-102-disk-1.raw,zfs:subvol-102-disk-0",
            "memory_bytes": 512 * 1024**2,
            "storages": ["nfs", "zfs"],
            "lock": None,
            "template": False,
            "local_devices": ["dev0", "lxc.mount.entry", "mp2"],
            **NOTHING,
            "unreplicated": ["nfs"],
            "networks": [{"bridge": "vnet1", "tag": 0, "trunks": False}],
        },
    }


EMULATED = ["kvm: 0\ncpu: Haswell\n", "arch: aarch64\ncpu: cortex-a57\n"]


@pytest.mark.parametrize("text", EMULATED)
def test_an_emulated_cpu_asks_nothing_of_the_nodes(tree: Tree, text: str) -> None:
    tree.guest("pve1", "qemu/100", text)
    [guest] = tree.result("inventory")["guests"]
    assert (guest["cpu"], guest["cpu_flags"]) == ("", [])


def test_inventory_without_quorum_is_refused(tree: Tree) -> None:
    tree.members(quorate=0, pve1=1, pve2=0, pve3=0)
    assert tree.error("inventory") == "NotQuorate"


def found(tree: Tree) -> list[tuple[str, int, str]]:
    return [(each["guest"], each["pid"], each["state"]) for each in tree.result("processes")["processes"]]


@linux
def test_processes_of_vms_with_their_run_state(tree: Tree) -> None:
    tree.process(700, "/usr/bin/kvm", "-id", "101", "-name", "web1", start_time=77)
    tree.write("/run/qemu-server/101.pid", "700\n")
    with tree.qmp(101, "inmigrate"):
        result = tree.result("processes")
    assert result["processes"] == [{"guest": "qemu/101", "pid": 700, "start_time": 77, "state": "inmigrate"}]
    assert (result["node"], result["quorate"], result["newest_epoch"]) == ("pve1", True, 0)


def test_a_vm_without_pid_file_and_qmp_counts(tree: Tree) -> None:
    tree.process(700, "/usr/bin/kvm", "-id", "101")
    assert found(tree) == [("qemu/101", 700, "unknown")]


def test_a_stale_pid_file_does_not_count(tree: Tree) -> None:
    tree.process(700, "/usr/sbin/sshd", "-D", name="sshd")
    tree.process(701, "/usr/bin/kvm", "-id", "102")
    for vmid, pid in ((101, 700), (103, 701), (104, 999)):
        tree.write(f"/run/qemu-server/{vmid}.pid", f"{pid}\n")
    assert found(tree) == [("qemu/102", 701, "unknown")]


def test_a_process_that_lost_its_memory_but_not_its_threads_counts(tree: Tree) -> None:
    """SIGKILL while a thread waits for storage: the leader is a zombie without command line."""
    tree.process(700, state="Z", threads=3)
    tree.process(701, state="Z", threads=1)
    tree.write("/run/qemu-server/101.pid", "700\n")
    tree.write("/run/qemu-server/102.pid", "701\n")
    assert found(tree) == [("qemu/101", 700, "unknown")]


@linux
def test_of_two_processes_of_a_guest_neither_gets_the_other_ones_state(tree: Tree) -> None:
    tree.process(700, "/usr/bin/kvm", "-id", "101")
    tree.process(701, "/usr/bin/kvm", "-id", "101")
    with tree.qmp(101, "running"):
        assert found(tree) == [("qemu/101", 700, "unknown"), ("qemu/101", 701, "unknown")]


@linux
def test_qmp_sockets_that_hang_cost_less_than_the_deadline_together(tree: Tree) -> None:
    with contextlib.ExitStack() as stack:
        for vmid in range(101, 141):
            tree.process(vmid + 1000, "/usr/bin/kvm", "-id", str(vmid))
            stack.enter_context(tree.qmp(vmid, "running", silent=True))
        before = time.monotonic()
        states = {state for _, _, state in found(tree)}
        assert time.monotonic() - before < 1.8
    assert states == {"unknown"}


def test_containers_by_cgroup(tree: Tree) -> None:
    monitor = "0::/lxc.monitor/105"
    tree.process(900, "/usr/bin/lxc-start", "-F", "-n", "105", name="lxc-start", cgroup=monitor)
    tree.process(901, "/sbin/init", name="systemd", cgroup="0::/lxc/105/ns/init.scope", start_time=10)
    tree.process(902, "nginx", name="nginx", cgroup="0::/lxc/105/ns/system.slice", start_time=20)
    tree.process(903, "/usr/bin/lxc-start", "-F", "-n", "106", name="lxc-start", cgroup="0::/system.slice")
    assert found(tree) == [("lxc/105", 901, "running"), ("lxc/106", 903, "unknown")]
