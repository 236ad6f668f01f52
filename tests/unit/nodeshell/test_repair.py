"""The timer's command: guests that a pveha that is gone has left out of native HA are given back (S10)."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from typing_extensions import override

from pveha.nodeshell import pveha_node
from unit.nodeshell.tree import Tree

MARK = "[pveha op=t2.0 epoch=2 was=started]"
HA_MANAGER = """#!/bin/sh
printf '%s\\n' "$@" > "$(dirname "$0")/../../called"
"""


class Clock(pveha_node.System):
    """The tree's system with a clock that only moves when it is told to."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(str(tree.root))
        self.now = 5000.0

    @override
    def monotonic(self) -> float:
        return self.now


class Node:
    """pve1, the CRM master's node, where guest 101 lies claimed from pve3 and marked."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.system = Clock(tree)
        self.flush = 1000
        self.master = "pve1"
        self.listed: dict[str, str] = {}
        self.service_state = "started"
        self.disarm: dict[str, str] = {}
        self.lrms = {"pve1": "active", "pve2": "active", "pve3": "active"}
        self.stuck: set[str] = set()
        tree.write("/usr/sbin/ha-manager", HA_MANAGER).chmod(0o755)
        tree.path("/run/pveha").mkdir()
        tree.ha("vm:101", comment=f"db {MARK}")
        tree.guest("pve1", "qemu/101")

    def look(self, seconds: float = 10.0, flushes: int = 1) -> list[str]:
        self.system.now += seconds
        self.flush += 10 * flushes
        services = {sid: {"state": self.service_state, "node": node} for sid, node in self.listed.items()}
        content: dict[str, object] = {
            "master_node": self.master,
            "timestamp": self.flush,
            "service_status": services,
        }
        if self.disarm:
            content["disarm"] = self.disarm
        self.tree.write("/etc/pve/ha/manager_status", json.dumps(content))
        for name, mode in self.lrms.items():
            stamp = 0 if name in self.stuck else self.flush
            status = {"state": "active", "mode": mode, "timestamp": stamp}
            self.tree.write(f"/etc/pve/nodes/{name}/lrm_status", json.dumps(status))
        return pveha_node.repair(self.system)

    def wait(self, seconds: float) -> list[str]:
        """Look every 10 s, and return what the last look said."""
        told: list[str] = []
        for _ in range(int(seconds / 10)):
            told = self.look()
        return told

    @property
    def called(self) -> list[str] | None:
        """Arguments that `ha-manager` was called with."""
        path = self.tree.path("/called")
        return path.read_text().splitlines() if path.exists() else None


@pytest.fixture
def node(tree: Tree) -> Node:
    return Node(tree)


def test_it_is_given_back_240_s_after_it_was_first_seen_with_its_state_and_without_the_mark(
    node: Node,
) -> None:
    digest = hashlib.sha1(node.tree.path("/etc/pve/ha/resources.cfg").read_bytes()).hexdigest()
    assert node.wait(240) == []
    assert node.called is None
    assert node.look() == ["vm:101: given back to Proxmox HA as started"]
    assert node.called == ["set", "vm:101", "--state=started", "--comment=db", f"--digest={digest}"]


def test_the_owner_stays_in_the_comment_and_an_empty_one_is_deleted(node: Node) -> None:
    path = node.tree.path("/etc/pve/ha/resources.cfg")
    path.write_text("")
    node.tree.ha("vm:101", comment=f"[pveha owner=uid.ns.dc1] {MARK}")
    node.wait(250)
    assert node.called is not None
    assert node.called[3] == "--comment=[pveha owner=uid.ns.dc1]"
    path.write_text("")
    node.tree.ha("vm:101", comment=MARK)
    node.wait(250)
    assert node.called[3] == "--delete=comment"


def test_a_guest_that_was_stopped_is_given_back_as_stopped(node: Node) -> None:
    node.tree.path("/etc/pve/ha/resources.cfg").write_text("")
    node.tree.ha("vm:101", comment="[pveha op=t2.0 epoch=2 was=stopped]")
    assert node.wait(250) == ["vm:101: given back to Proxmox HA as stopped"]


def test_only_the_node_of_the_crm_master_acts_and_the_next_one_has_counted_too(node: Node) -> None:
    node.master = "pve2"
    assert node.wait(400) == []
    node.master = "pve1"
    assert node.look() == ["vm:101: given back to Proxmox HA as started"]


def test_nothing_without_quorum_or_while_ha_is_disarmed(node: Node) -> None:
    node.disarm = {"mode": "freeze", "state": "disarmed"}
    assert node.wait(400) == []
    node.disarm = {}
    node.tree.members(0, pve1=1, pve2=0, pve3=0)
    assert node.wait(400) == []
    assert node.called is None


def test_a_hold_and_what_others_wrote_is_left_alone(node: Node) -> None:
    node.tree.path("/etc/pve/ha/resources.cfg").write_text("")
    node.tree.ha("vm:101", comment="[pveha hold=pve3 was=started]")
    node.tree.ha("vm:102", comment="ignored by a person")
    assert node.wait(600) == []
    assert node.called is None


def test_what_its_owner_gave_back_before_the_crm_dropped_it_is_ignored_once_more(node: Node) -> None:
    """The CRM would look for it on the dead node, and HA of the whole cluster would stop (S8)."""
    path = node.tree.path("/etc/pve/ha/resources.cfg")
    node.wait(50)
    node.listed = {"vm:101": "pve3"}
    path.write_text("")
    node.tree.ha("vm:101", state="stopped", comment=f"db {MARK}")
    assert node.wait(30) == []
    assert node.look() == ["vm:101: given back too early: ignored once more"]
    assert node.called is not None
    again = "db [pveha op=t2.0 epoch=2 was=stopped]"
    assert node.called[1:4] == ["vm:101", "--state=ignored", f"--comment={again}"]
    path.write_text("")
    node.tree.ha("vm:101", comment=again)
    node.listed = {}
    assert node.wait(150) == []
    assert node.look() == ["vm:101: given back to Proxmox HA as stopped"]


def test_a_marked_guest_that_the_crm_moves_is_left_to_it(node: Node) -> None:
    node.tree.path("/etc/pve/ha/resources.cfg").write_text("")
    node.tree.ha("vm:101", state="started", comment=MARK)
    node.listed, node.service_state = {"vm:101": "pve3"}, "migrate"
    assert node.wait(200) == []
    assert node.called is None


def test_not_before_two_flushes_without_it(node: Node) -> None:
    node.listed = {"vm:101": "pve3"}
    told = node.wait(400)
    assert told == ["vm:101: left alone: the CRM still has it on pve3, its configuration is on pve1"]
    node.listed = {}
    assert node.look() == ["vm:101: left alone: the CRM has not yet flushed twice without it"]
    assert node.look(flushes=0) == ["vm:101: left alone: the CRM has not yet flushed twice without it"]
    assert node.look() == ["vm:101: given back to Proxmox HA as started"]


def test_a_flush_after_the_clock_was_set_back_is_a_flush(node: Node) -> None:
    node.listed = {"vm:101": "pve3"}
    node.wait(400)
    node.listed, node.flush = {}, node.flush - 600
    node.look()
    assert node.look() == ["vm:101: given back to Proxmox HA as started"]


def test_one_that_was_never_claimed_needs_no_flush(node: Node) -> None:
    node.tree.config("pve1", "qemu/101").rename(node.tree.config("pve3", "qemu/101"))
    node.listed = {"vm:101": "pve3"}
    assert node.wait(250) == ["vm:101: given back to Proxmox HA as started"]


def test_a_new_mark_is_counted_anew(node: Node) -> None:
    node.wait(240)
    node.tree.path("/etc/pve/ha/resources.cfg").write_text("")
    node.tree.ha("vm:101", comment="db [pveha op=t3.0 epoch=3 was=started]")
    assert node.wait(240) == []
    assert node.look() == ["vm:101: given back to Proxmox HA as started"]


def test_sightings_that_cannot_be_read_are_counted_anew(node: Node) -> None:
    node.wait(200)
    node.tree.write("/run/pveha/marks.json", '{"marks": {"vm:101": 3}, "lrms": {}}')
    assert node.wait(240) == []
    assert node.called is None


def test_the_lrm_above_it_must_work(node: Node) -> None:
    node.lrms["pve1"] = "maintenance"
    assert node.wait(300) == ["vm:101: left alone: the LRM of pve1 does not work"]
    node.lrms["pve1"] = "active"
    node.stuck = {"pve1"}
    assert node.wait(60) == ["vm:101: left alone: the LRM of pve1 does not work"]
    node.stuck = set()
    assert node.look() == ["vm:101: given back to Proxmox HA as started"]


def test_a_process_of_it_here_while_its_file_is_elsewhere_keeps_it_out(node: Node) -> None:
    node.tree.config("pve1", "qemu/101").rename(node.tree.config("pve2", "qemu/101"))
    node.tree.process(900, "/usr/bin/kvm", "-id", "101")
    assert node.wait(300) == ["vm:101: left alone: a process of it lives here, its configuration is on pve2"]


def test_a_state_that_is_back_only_loses_its_mark(node: Node) -> None:
    node.tree.path("/etc/pve/ha/resources.cfg").write_text("")
    node.tree.ha("vm:101", state="disabled", comment=f"db {MARK}")
    node.listed = {"vm:101": "pve1"}
    assert node.wait(250) == ["vm:101: given back to Proxmox HA as disabled"]


def test_what_ha_manager_declines_is_told_and_tried_again(node: Node) -> None:
    node.tree.write("/usr/sbin/ha-manager", "#!/bin/sh\necho 'modified configuration' >&2; exit 255\n")
    assert node.wait(250) == ["vm:101: not given back: modified configuration"]
    node.tree.write("/usr/sbin/ha-manager", HA_MANAGER)
    assert node.look() == ["vm:101: given back to Proxmox HA as started"]


def test_nothing_is_kept_where_nothing_is_marked(tree: Tree) -> None:
    tree.ha("vm:101", state="started", comment="db")
    assert pveha_node.repair(pveha_node.System(str(tree.root))) == []
    assert [each.name for each in tree.path("/run/pveha").iterdir()] == ["looked"]


@pytest.mark.parametrize("command", ["repair", "timer --print", "pveha-node/1 repair", "pveha-node/1 timer"])
def test_no_client_reaches_it(tree: Tree, command: str) -> None:
    assert tree.ask(command)["error"]["kind"] == "BadRequest"


def units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[Path]:
    assert pveha_node.local(["timer", "--print"], pveha_node.System()) == 0
    files = []
    for block in capsys.readouterr().out.split("# /etc/systemd/system/")[1:]:
        name, _, text = block.partition("\n")
        text = text.replace("/usr/local/sbin/pveha-node", "/bin/true")
        files.append(tmp_path / name)
        files[-1].write_text(text)
    return files


def test_the_timers_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service, timer = units(tmp_path, capsys)
    assert (service.name, timer.name) == ("pveha-repair.service", "pveha-repair.timer")
    assert "OnUnitInactiveSec=10\n" in timer.read_text()
    try:
        verified = subprocess.run(
            ["systemd-analyze", "verify", *map(str, (service, timer))],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except FileNotFoundError:
        pytest.skip("there is no systemd-analyze here")
    assert [line for line in verified.stderr.splitlines() if "pveha-repair" in line] == []


def test_what_was_seen_is_forgotten_with_the_last_mark(node: Node) -> None:
    node.wait(30)
    assert node.tree.path("/run/pveha/marks.json").exists()
    node.tree.path("/etc/pve/ha/resources.cfg").write_text("")
    node.look()
    assert not node.tree.path("/run/pveha/marks.json").exists()
