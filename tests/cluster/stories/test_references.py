"""What a manifest names may be missing or wrong: a condition says so, and it heals without a restart.

Many HAClusters in mode Observe look at one data centre, each wrong in another way; `dc1` (Enforce) is right.
"""

import asyncio
import base64
import dataclasses
from typing import Any

import asyncssh

from cluster.stories.theatre import Object, Place, Theatre, condition, story, until, until_equal
from pveha.sim import certificates

PICKED_UP_SECONDS = 90.0


@dataclasses.dataclass(frozen=True)
class Case:
    """An HACluster (`name`) that is wrong, how that shows, and what makes it right."""

    name: str
    broken: list[Object]
    condition: str
    reason: str
    healed: list[Object]


def cases(place: Place) -> list[Case]:
    about = place.world.about
    token, ssh, ca = (f"dc1-{each}" for each in ("token", "ssh", "ca"))
    nodes = place.manifest("HACluster")["spec"]["nodes"]
    fingerprints = [node["fingerprint"] for node in about["nodes"]]
    other_key = asyncssh.generate_private_key("ssh-ed25519").export_private_key("openssh").decode()
    stranger = {"tokenID": about["stranger"]["id"], "tokenSecret": about["stranger"]["secret"]}
    swapped = [dict(node) for node in nodes]
    swapped[0]["fencing"], swapped[1]["fencing"] = nodes[1]["fencing"], nodes[0]["fencing"]
    wrong_ca = {"ca.crt": certificates.Authority("another").pem}
    hosts = {"known_hosts": _hosts_swapped(about["known_hosts"])}

    def wrong_secret(name: str, of: str, condition: str, reason: str, **wrong: str | None) -> Case:
        """A Secret of its own whose values are `wrong` (None: not there)."""
        own = f"{name}-{of}"
        spec = _naming(place, of, own)
        return Case(
            name,
            [_secret(place, of, own, **wrong), _observer(place, name, spec)],
            condition,
            reason,
            [_secret(place, of, own)],
        )

    pinned = {"tls": {"fingerprints": fingerprints}}
    return [
        Case(
            "secret-missing",
            [_observer(place, "secret-missing", _naming(place, token, "late"))],
            "Connected",
            "SecretMissing",
            [_secret(place, token, "late")],
        ),
        wrong_secret("key-missing", token, "Connected", "SecretInvalid", tokenSecret=None),
        wrong_secret("wrong-token", token, "Connected", "Unauthorized", tokenSecret="wrong"),
        wrong_secret("stranger", token, "Connected", "PrivilegesMissing", **stranger),
        wrong_secret("wrong-ca", ca, "Connected", "CertificateMismatch", **wrong_ca),
        Case(
            "wrong-fingerprint",
            [_observer(place, "wrong-fingerprint", {"tls": {"fingerprints": [":".join(["AB"] * 32)]}})],
            "Connected",
            "CertificateMismatch",
            [_observer(place, "wrong-fingerprint", pinned)],
        ),
        wrong_secret("shell-key", ssh, "FastReady", "NodeShellDenied", **{"ssh-privatekey": other_key}),
        wrong_secret("host-key", ssh, "FastReady", "NodeShellDenied", **hosts),
        wrong_secret("shell-key-missing", ssh, "FastReady", "SecretInvalid", known_hosts=None),
        wrong_secret("bmc-password", "dc1-bmc-pve1", "FencingReady", "Unauthorized", password="wrong"),
        Case(
            "bmc-identity",
            [_observer(place, "bmc-identity", {"nodes": swapped})],
            "FencingReady",
            "FencingUnverified",
            [_observer(place, "bmc-identity", {})],
        ),
    ]


def edits(place: Place) -> list[Case]:
    """HAClusters that are right at first (`healed`) and made wrong while they are in use."""
    about = place.world.about
    stranger = {"tokenID": about["stranger"]["id"], "tokenSecret": about["stranger"]["secret"]}
    rotated = _naming(place, "dc1-token", "rotated-token")
    password = _naming(place, "dc1-bmc-pve1", "rotated-bmc")
    nowhere = {"endpoints": [{"host": "127.0.0.1", "port": about["api_port"]}], "nodes": []}
    return [
        Case(
            "moved",
            [_observer(place, "moved", nowhere)],
            "Connected",
            "Unreachable",
            [_observer(place, "moved", {})],
        ),
        Case(
            "rotated",
            [_secret(place, "dc1-token", "rotated-token", **stranger)],
            "Connected",
            "PrivilegesMissing",
            [_secret(place, "dc1-token", "rotated-token"), _observer(place, "rotated", rotated)],
        ),
        Case(
            "bmc-rotated",
            [_secret(place, "dc1-bmc-pve1", "rotated-bmc", password="rotated")],
            "FencingReady",
            "Unauthorized",
            [_secret(place, "dc1-bmc-pve1", "rotated-bmc"), _observer(place, "bmc-rotated", password)],
        ),
    ]


@story
async def test_wrong_references_are_told_and_heal(on: Theatre) -> None:
    place = await on.place("--guests", "9")
    wrong = cases(place)
    await place.apply(*(each for case in wrong for each in case.broken))
    await place.apply(_guest(place, "of-stranger", 103, cluster="stranger"))
    operator = await on.operator(place)
    await asyncio.gather(_heal(place, wrong), _edit(place, edits(place)), _guests(place))
    assert operator.is_alive
    log = (on.folder / "operator-pveha.log").read_text()
    assert "Traceback" not in log
    assert "starts anew" not in log
    for secret in (each for each in place.manifests if each["kind"] == "Secret"):
        for name, value in secret["data"].items():
            if name not in ("username", "tokenID", "ca.crt", "known_hosts"):
                assert base64.b64decode(value).decode().strip() not in log


async def _heal(place: Place, wrong: list[Case]) -> None:
    await until_equal(
        lambda: _differing(place, {case.name: (case.condition, "False", case.reason) for case in wrong}),
        {},
        "every wrong reference becomes its condition",
    )
    # What may not be seen is not gone.
    assert (await _reasons(place))["of-stranger"] == "ClusterNotReady"
    await place.apply(*(each for case in wrong for each in case.healed))
    await until_equal(
        lambda: _differing(place, {case.name: (case.condition, "True", "OK") for case in wrong}),
        {},
        "every corrected reference heals",
        PICKED_UP_SECONDS,
    )
    await until_equal(
        lambda: _differing(place, {case.name: ("Ready", "True", "OK") for case in wrong}), {}, "all are ready"
    )
    await until_equal(lambda: _reason(place, "of-stranger"), "Protected", "its guest is seen")


async def _edit(place: Place, right: list[Case]) -> None:
    well = {case.name: (case.condition, "True", "OK") for case in right}
    await place.apply(*(each for case in right for each in case.healed))
    await until_equal(lambda: _differing(place, well), {}, "all is well at first")
    await place.apply(*(each for case in right for each in case.broken))
    await until_equal(
        lambda: _differing(place, {case.name: (case.condition, "False", case.reason) for case in right}),
        {},
        "an edit is picked up",
        PICKED_UP_SECONDS,
    )
    await place.apply(*(each for case in right for each in case.healed))
    await until_equal(lambda: _differing(place, well), {}, "so is the next", PICKED_UP_SECONDS)


async def _guests(place: Place) -> None:
    """ProtectedVMs that name no policy, no guest, a guest that is taken, or one that is another now."""
    await place.apply(_guest(place, "vm100", 100, policy="late"), _guest(place, "nobody", 999))
    told = {f"vm{vmid}": "Protected" for vmid in range(101, 109)}
    await until_equal(
        lambda: _reasons(place, "dc1"),
        {**told, "vm100": "PolicyNotFound", "nobody": "GuestNotFound"},
        "the others are protected",
    )
    first = (await place.status("vm102", "ProtectedVM"))["guest"]["identity"]

    await place.apply(
        _guest(place, "a-second", 101),
        {**place.manifest("FailoverPolicy"), "metadata": {"name": "late", "namespace": place.name}},
    )
    await place.world.ask("create guest 102 pve1")
    await place.world.ask("create guest 999 pve2")
    told |= {"vm100": "Protected", "nobody": "Protected"}
    await until_equal(
        lambda: _reasons(place, "dc1"),
        {**told, "a-second": "DuplicateClaim", "vm102": "GuestReplaced"},
        "the older one wins, and another guest is not taken for the one that was meant",
        PICKED_UP_SECONDS,
    )
    assert "vm:102" not in (await place.state())["ha"]
    assert first in (await place.condition("Ready", "vm102", "ProtectedVM"))[2]

    registered = (await place.state())["ha"]["vm:101"]
    await place.delete("protectedvms", "vm101", "vm102")
    await place.apply(_guest(place, "vm102", 102))
    del told["vm101"]
    await until_equal(
        lambda: _reasons(place, "dc1"), {**told, "a-second": "Protected"}, "both heal", PICKED_UP_SECONDS
    )
    second = (await place.status("vm102", "ProtectedVM"))["guest"]["identity"]
    assert second not in ("", first)
    await until(lambda: _registered(place, "vm:102"), "the new guest is registered")
    assert (await place.state())["ha"]["vm:101"]["comment"] == registered["comment"]


def _observer(place: Place, name: str, spec: dict[str, Any]) -> Object:
    found = place.manifest("HACluster")
    found["metadata"]["name"] = name
    calm = {"mode": "Observe", "detection": {"probePeriodSeconds": 3, "suspectAfterSeconds": 6}}
    found["spec"] |= calm | spec
    return found


def _naming(place: Place, old: str, new: str) -> dict[str, Any]:
    """The spec with another Secret in the place of one."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [renamed(each) for each in value]
        return new if value == old else value

    spec: dict[str, Any] = renamed(place.manifest("HACluster")["spec"])
    return {key: spec[key] for key in ("credentialsSecretRef", "tls", "recovery", "nodes")}


def _secret(place: Place, of: str, name: str, **changed: str | None) -> Object:
    found = place.manifest("Secret", of)
    found["metadata"]["name"] = name
    for key, text in changed.items():
        if text is None:
            del found["data"][key]
        else:
            found["data"][key] = base64.b64encode(text.encode()).decode()
    return found


def _hosts_swapped(known_hosts: str) -> str:
    """Every node has another one's key."""
    lines = [line.partition(" ") for line in known_hosts.splitlines()]
    keys = [key for _, _, key in lines]
    return "".join(f"{names} {key}\n" for (names, _, _), key in zip(lines, keys[1:] + keys[:1], strict=True))


def _guest(place: Place, name: str, vmid: int, cluster: str = "dc1", policy: str = "") -> Object:
    found = place.manifest("ProtectedVM")
    found["metadata"]["name"] = name
    found["spec"] = {"clusterRef": {"name": cluster}, "vmid": vmid}
    if policy:
        found["spec"]["policyRef"] = {"name": policy}
    return found


async def _differing(place: Place, wanted: dict[str, tuple[str, str, str]]) -> dict[str, object]:
    """HAClusters whose condition of the type wanted has not the status and reason wanted."""
    clusters = await place.objects("HACluster")
    found = {
        name: condition(clusters.get(name, {}).get("status", {}), type_)
        for name, (type_, _, _) in wanted.items()
    }
    return {name: told for name, told in found.items() if told[:2] != wanted[name][1:]}


async def _reasons(place: Place, cluster: str = "") -> dict[str, str]:
    return {
        name: condition(guest.get("status", {}), "Ready")[1]
        for name, guest in (await place.objects("ProtectedVM")).items()
        if cluster in ("", guest["spec"]["clusterRef"]["name"])
    }


async def _reason(place: Place, name: str) -> str:
    return (await _reasons(place))[name]


async def _registered(place: Place, sid: str) -> bool:
    return sid in (await place.state())["ha"]
