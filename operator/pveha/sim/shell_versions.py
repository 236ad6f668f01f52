"""How other versions of pveha-node answer, as they are met while a cluster is being upgraded."""

from typing import Any

from pveha.nodeshell import pveha_node

OLDER = "0.0.9"
"""Of the same protocol; its `status` told less."""
NEWER = "9.0.0"
"""Of the next protocol."""
_TOLD_LATER = ("timer", "time", "totem")


def spoken(node_shell: str, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer of this version as the one installed gives it: `older`, `newer`, or this one."""
    if node_shell == "older" and "timer" in (answer.get("result") or {}):
        result = {key: value for key, value in answer["result"].items() if key not in _TOLD_LATER}
        return {**answer, "version": OLDER, "result": {**result, "version": OLDER}}
    if node_shell == "newer":
        protocol = pveha_node.PROTOCOL + 1
        message = f"asked for protocol {pveha_node.PROTOCOL}, pveha-node {NEWER} here speaks {protocol}"
        error = {"kind": "WrongProtocol", "message": message}
        return {"version": NEWER, "protocol": protocol, "ok": False, "error": error}
    return answer
