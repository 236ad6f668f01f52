"""How other versions of pveha-node answer, as they are met while a cluster is being upgraded."""

from typing import Any

from pveha.nodeshell import pveha_node

OLDER = "0.0.9"
"""Of the same protocol; its `status` told less."""
NEWER = "9.0.0"
"""Of the next protocol."""
_TOLD_LATER = ("timer", "time", "totem")
_OF_GUESTS_LATER = frozenset(
    (
        *("networks", "mappings", "media", "cloudinit", "cpu", "cpu_flags", "cores", "machine"),
        *("onboot", "agent"),
    )
)


def spoken(node_shell: str, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer of this version as the one installed gives it: `older`, `newer`, or this one."""
    if node_shell == "older":
        return _older(answer)
    if node_shell == "newer":
        protocol = pveha_node.PROTOCOL + 1
        message = f"asked for protocol {pveha_node.PROTOCOL}, pveha-node {NEWER} here speaks {protocol}"
        error = {"kind": "WrongProtocol", "message": message}
        return {"version": NEWER, "protocol": protocol, "ok": False, "error": error}
    return answer


def _older(answer: dict[str, Any]) -> dict[str, Any]:
    """Less of everything, and of `inventory --about` nothing: it does not know the option."""
    result = answer.get("result") or {}
    if "equipment" in result:
        error = {"kind": "BadRequest", "message": "no such option: '--about'"}
        return {"version": OLDER, "protocol": answer["protocol"], "ok": False, "error": error}
    if "timer" in result:
        kept = {key: value for key, value in result.items() if key not in _TOLD_LATER}
        return {**answer, "version": OLDER, "result": {**kept, "version": OLDER}}
    if "guests" in result:
        kept_guests = [
            {key: value for key, value in each.items() if key not in _OF_GUESTS_LATER}
            for each in result["guests"]
        ]
        return {**answer, "version": OLDER, "result": {**result, "guests": kept_guests}}
    return answer
