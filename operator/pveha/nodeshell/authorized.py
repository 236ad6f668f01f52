"""Lines of an authorized_keys file that let a key run `pveha-node serve` and nothing else.

All functions are pure and keep every other line byte for byte; text that is not UTF-8 comes and goes with
surrogate escapes.
"""

import base64
import binascii
import dataclasses
import hashlib
import re

COMMAND = "/usr/local/sbin/pveha-node serve"
_OPTION = r'(?:[^\s,"]|"(?:\\.|[^"\\])*")+'
_LINE = re.compile(
    rf"\s*(?:(?P<options>{_OPTION}(?:,{_OPTION})*)\s+)??"
    r"(?P<type>(?:sk-)?(?:ssh|ecdsa)-[A-Za-z0-9@.-]+)\s+(?P<blob>[A-Za-z0-9+/=]+)(?:\s|$)"
)
_HARMLESS = frozenset(("command", "restrict", "from", "expiry-time"))
"""Options that give nothing: a person may have added addresses or a date to our line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """An authorized key. `number` counts from 1; `fingerprint` is OpenSSH's, SHA256:..."""

    number: int
    fingerprint: str
    options: dict[str, str]
    text: str

    def runs(self, command: str) -> bool:
        """Whether this is a line of pveha: its command, whatever else it says."""
        return self.options.get("command") == command

    def confined(self, command: str) -> bool:
        """Whether it is a line of pveha as it must be."""
        return self.runs(command) and "restrict" in self.options and self.options.keys() <= _HARMLESS


def read(text: str) -> list[Line]:
    """The authorized keys; comments and what sshd would not understand are left out."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        match = _LINE.match(line)
        if match is None or line.lstrip().startswith("#"):
            continue
        try:
            blob = base64.b64decode(match["blob"], validate=True)
        except binascii.Error:
            continue
        found.append(Line(number, fingerprint(blob), _options(match["options"] or ""), line))
    return found


def fingerprint(blob: bytes) -> str:
    """Fingerprint of a public key in SSH's wire form."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def line(public_key: str, command: str) -> str:
    """The line for a public key, `ssh-ed25519 AAAA... comment`."""
    return f'command="{command}",restrict {public_key}'


def add(text: str, new: str) -> str:
    """The file with one more line at its end."""
    return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{new}\n"


def without(text: str, lines: list[Line]) -> str:
    """The file without these lines."""
    gone = {each.number for each in lines}
    kept = [each for number, each in enumerate(text.split("\n"), 1) if number not in gone]
    return "\n".join(kept)


def _options(text: str) -> dict[str, str]:
    """Options by name in lower case; quotes of values are taken off."""
    options = {}
    for option in re.findall(_OPTION, text):
        name, _, value = option.partition("=")
        if value.startswith('"') and value.endswith('"'):
            value = value[1:-1].replace('\\"', '"')
        options[name.lower()] = value
    return options
