"""One IPMI call, as a process: `python -m pveha.bmc.ipmi_call`, with a line of JSON in and one out.

In: `host`, `port`, `username`, `password` and `command` (read, off, on). Out: for read `on` and `guid` (hex),
else nothing; or `error` (name of an error class of ours) and `message`.
"""

import json
import struct
import sys
from typing import Any

from pyghmi import exceptions
from pyghmi.ipmi import command

_CHASSIS, _APPLICATION = 0, 6
_CHASSIS_STATUS, _CHASSIS_CONTROL, _SYSTEM_GUID = 1, 2, 0x37
_CONTROL = {"off": 0, "on": 1}
_OPERATOR = 3
"""Privilege level: the least that may switch the chassis."""
_COMPLAINTS = {0xC0: "Busy", 0xC3: "Busy", 0xD4: "Forbidden", 0xD5: "Refused"}
"""Completion codes (table 5-2): node busy, timeout, insufficient privilege, not in this state."""


class _Declined(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.kind = _COMPLAINTS.get(code, "Refused")


def main() -> int:
    """Do the call."""
    asked = json.load(sys.stdin)
    try:
        answer = _call(asked)
    except _Declined as problem:
        answer = {"error": problem.kind, "message": str(problem)}
    except exceptions.IpmiException as problem:
        answer = {"error": _kind(str(problem)), "message": str(problem) or type(problem).__name__}
    except struct.error as problem:
        answer = {"error": "BadAnswer", "message": f"the BMC's answer has another length: {problem}"}
    except OSError as problem:
        answer = {"error": "Unreachable", "message": str(problem)}
    print(json.dumps(answer))
    return 0


def _call(asked: dict[str, Any]) -> dict[str, Any]:
    bmc = command.Command(
        bmc=asked["host"],
        userid=asked["username"],
        password=asked["password"],
        port=asked["port"],
        privlevel=_OPERATOR,
        keepalive=False,
    )
    if asked["command"] in _CONTROL:
        _send(bmc, _CHASSIS, _CHASSIS_CONTROL, (_CONTROL[asked["command"]],))
        return {}
    status = _send(bmc, _CHASSIS, _CHASSIS_STATUS)
    guid = _send(bmc, _APPLICATION, _SYSTEM_GUID)
    return {"on": bool(status[0] & 1), "guid": guid.hex()}


def _send(bmc: command.Command, netfn: int, number: int, data: tuple[int, ...] = ()) -> bytes:
    answer = bmc.raw_command(netfn=netfn, command=number, data=data)
    if "error" in answer:
        raise _Declined(int(answer.get("code", 0)), str(answer["error"]))
    return bytes(answer["data"])


def _kind(message: str) -> str:
    """pyghmi tells a wrong password and silence apart by words only."""
    text = message.lower()
    if any(word in text for word in ("password", "unauthorized", "privilege", "incorrect", "rakp")):
        return "Unauthorized"
    return "Unreachable"


if __name__ == "__main__":
    sys.exit(main())
