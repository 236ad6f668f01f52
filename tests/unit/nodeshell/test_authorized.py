"""Lines of authorized_keys."""

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pveha.nodeshell import authorized

KEY = asyncssh.generate_private_key("ssh-ed25519", comment="pveha")
PUBLIC = KEY.export_public_key().decode().strip()
LINE = authorized.line(PUBLIC, authorized.COMMAND)


def test_the_line_is_the_one_of_the_docs() -> None:
    assert f'command="/usr/local/sbin/pveha-node serve",restrict {PUBLIC}' == LINE
    (read,) = authorized.read(LINE)
    assert read.fingerprint == KEY.get_fingerprint()
    assert read.confined(authorized.COMMAND)


@pytest.mark.parametrize(
    ("options", "runs", "confined"),
    [
        ("", False, False),
        ("restrict ", False, False),
        ('command="/usr/local/sbin/pveha-node serve" ', True, False),
        ('from="192.0.2.0/24",command="/usr/local/sbin/pveha-node serve",restrict ', True, True),
        ('RESTRICT,Command="/usr/local/sbin/pveha-node serve" ', True, True),
        ('restrict,pty,command="/usr/local/sbin/pveha-node serve" ', True, False),
        ('restrict,command="/usr/local/sbin/pveha-node serve; id" ', False, False),
        ('restrict,command="echo \\"/usr/local/sbin/pveha-node serve\\", ssh-rsa AAAA" ', False, False),
    ],
)
def test_options(options: str, runs: bool, confined: bool) -> None:
    (read,) = authorized.read(f"  {options}{PUBLIC}\n")
    assert (read.runs(authorized.COMMAND), read.confined(authorized.COMMAND)) == (runs, confined)
    assert read.fingerprint == KEY.get_fingerprint()


def test_what_sshd_does_not_read_is_no_key() -> None:
    assert authorized.read(f"# {LINE}\n\ngarbage\nssh-ed25519 A\n") == []


@given(st.lists(st.text(st.characters(exclude_characters="\n"))), st.booleans())
def test_every_other_line_stays_as_it_is(lines: list[str], ended: bool) -> None:
    text = "\n".join(lines) + ("\n" if ended and lines else "")
    added = authorized.add(text, LINE)
    assert added.startswith(text)
    ours = [line for line in authorized.read(added) if line.text == LINE]
    assert len(ours) == 1
    assert authorized.without(added, ours) in (text, f"{text}\n")
