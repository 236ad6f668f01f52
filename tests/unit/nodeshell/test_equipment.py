"""What a node tells that it has for guests: verb `inventory --about node`."""

from collections.abc import Iterator
from typing import Any

import pytest

from pveha.model import errors, node
from pveha.nodeshell import answers
from unit.nodeshell.tree import Tree, temporary

INTERFACES = """auto lo
iface lo inet loopback

iface eno1 inet manual

auto vmbr0
iface vmbr0 inet static
\taddress 192.0.2.11/24
\tbridge-ports eno1
\tbridge-vlan-aware yes
\tbridge-vids 2-100 200

allow-ovs vmbr2
iface vmbr2 inet manual
\tovs_type OVSBridge
\tovs_ports eno2
"""
PCI = """gpu
\tdescription for rendering
\tmap id=10de:2204,iommugroup=12,node=pve1,path=0000:01:00.0,subsystem-id=10de:1467
\tmap id=10de:2204,node=pve2,path=0000:02:00.0
\tmdev 1

pulled
\tmap id=10de:2204,node=pve1,path=0000:05:00

elsewhere
\tmap id=10de:2204,node=pve2,path=0000:01:00.0
"""
STORAGE = """dir: local
\tpath /var/lib/vz
\tcontent iso,vztmpl,backup

dir: isos
\tpath /srv/isos/
\tcontent-dirs iso=images/cd
\tnodes pve1,pve3

dir: others
\tpath /srv/isos
\tnodes pve2

dir: nas
\tpath /mnt/nas
\tshared 1

dir: off
\tpath /srv/isos
\tdisable

lvmthin: local-lvm
\tthinpool data
\tvgname pve
"""


@pytest.fixture
def tree() -> Iterator[Tree]:
    with temporary() as made:
        yield made


def told(tree: Tree) -> dict[str, Any]:
    equipment: dict[str, Any] = tree.result("inventory --about node")["equipment"]
    return equipment


def link(tree: Tree, name: str, *ports: str, vlan_filtering: int = 0) -> None:
    tree.write(f"/sys/class/net/{name}/bridge/vlan_filtering", f"{vlan_filtering}\n")
    for port in ports:
        tree.write(f"/sys/class/net/{name}/brif/{port}/state", "3\n")


def test_bridges_are_those_that_exist_now(tree: Tree) -> None:
    tree.write("/etc/network/interfaces", INTERFACES)
    tree.write("/etc/network/interfaces.d/sdn", "auto vnet1\niface vnet1\n\tbridge_ports vlan30\n")
    tree.write("/sys/class/net/eno1/device/vendor", "0x8086\n")
    tree.write("/sys/class/net/vlan30/uevent", "DEVTYPE=vlan\nINTERFACE=vlan30\n")
    tree.write("/sys/class/net/tap100i0/uevent", "INTERFACE=tap100i0\n")
    tree.write("/sys/class/net/vmbr2/uevent", "INTERFACE=vmbr2\n")
    link(tree, "vmbr0", "eno1", "tap100i0", vlan_filtering=1)
    link(tree, "vmbr1", "tap100i0")
    link(tree, "vnet1", "vlan30")
    link(tree, "fwbr100i0", "tap100i0")
    bridges = {each.pop("name"): each for each in told(tree)["bridges"]}
    assert bridges == {
        "vmbr0": {"vlan_aware": True, "vlans": "2-100 200", "uplink": True},
        "vmbr1": {"vlan_aware": False, "vlans": "", "uplink": False},
        "vmbr2": {"vlan_aware": True, "vlans": "", "uplink": True},
        "vnet1": {"vlan_aware": False, "vlans": "", "uplink": True},
    }


def test_mappings_are_those_that_lead_to_something_here(tree: Tree) -> None:
    tree.write("/etc/pve/mapping/pci.cfg", PCI)
    tree.write("/etc/pve/mapping/usb.cfg", "dongle\n\tmap id=1234:5678,node=pve1\n")
    tree.write("/etc/pve/mapping/directory.cfg", "share\n\tmap node=pve1,path=/srv\n")
    tree.write("/sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    assert told(tree)["mappings"] == ["dir/share", "pci/gpu", "usb/dongle"]


def test_the_cpu_as_the_kernel_shows_it(tree: Tree) -> None:
    each = "processor\t: {}\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu aes avx2\n\n"
    tree.write("/proc/cpuinfo", "".join(each.format(number) for number in range(4)))
    equipment = told(tree)
    assert (equipment["cpus"], equipment["cpu_flags"]) == (4, ["aes", "avx2", "fpu"])


def test_the_version_of_qemu_is_that_of_its_newest_machine(tree: Tree) -> None:
    tree.write(
        "/usr/share/kvm/machine-versions-x86_64.json",
        '[{"id":"pc-q35-9.2","type":"q35","version":"9.2"},{"id":"pc-q35-10.1","type":"q35","version":"10.1"}]',
    )
    assert told(tree)["qemu"] == "10.1"


def test_iso_files_are_those_of_folders_of_this_node_alone(tree: Tree) -> None:
    tree.write("/etc/pve/storage.cfg", STORAGE)
    tree.write("/var/lib/vz/template/iso/debian.iso", "")
    tree.write("/srv/isos/images/cd/windows.iso", "")
    tree.write("/srv/isos/template/iso/old.iso", "")
    tree.write("/mnt/nas/template/iso/everywhere.iso", "")
    assert told(tree)["media"] == ["local:iso/debian.iso", "isos:iso/windows.iso"]


def test_what_cannot_be_read_is_not_known_and_a_missing_file_says_that_there_is_nothing(tree: Tree) -> None:
    found = answers.equipment({"equipment": told(tree)}, "pve1", 5.0)
    nothing: frozenset[str] = frozenset()
    assert found == node.Equipment("pve1", 5.0, mappings=nothing, media=nothing)
    assert (found.bridges, found.cpus, found.cpu_flags, found.qemu) == (None, None, None, None)


def test_it_needs_no_quorum_and_says_whose_it_is(tree: Tree) -> None:
    tree.members(quorate=0, pve1=1, pve2=0, pve3=0)
    equipment = told(tree)
    assert equipment["node"] == "pve1"
    with pytest.raises(errors.BadAnswer, match="leads to pve1"):
        answers.equipment({"equipment": equipment}, "pve2", 5.0)


def test_the_answer_in_the_models_words() -> None:
    bridge = {"name": "vmbr0", "vlan_aware": True, "vlans": "2-100 200", "uplink": True}
    strange = {"name": "vmbr1", "vlan_aware": False, "vlans": "all", "uplink": False}
    said = {
        "node": "pve1",
        "bridges": [bridge, strange],
        "mappings": ["pci/gpu"],
        "cpus": 4,
        "cpu_flags": ["aes"],
        "qemu": "10.1",
        "media": ["local:iso/a.iso"],
    }
    found = answers.equipment({"equipment": said}, "pve1", 5.0)
    assert found == node.Equipment(
        "pve1",
        5.0,
        {
            "vmbr0": node.Bridge("vmbr0", True, ((2, 100), (200, 200))),
            "vmbr1": node.Bridge("vmbr1", False, (), uplink=False),
        },
        frozenset({"pci/gpu"}),
        4,
        frozenset({"aes"}),
        (10, 1),
        frozenset({"local:iso/a.iso"}),
    )
