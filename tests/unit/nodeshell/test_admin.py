"""What is said of host keys, and of keys that cannot be used."""

from pathlib import Path

import asyncssh
import pytest

from pveha.model import errors
from pveha.nodeshell import admin, operator_key

PUBLIC = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()


def test_an_unknown_host_and_a_changed_one_have_different_remedies() -> None:
    access = admin.Access("root", 22, Path("known"), None)
    known = asyncssh.import_known_hosts(f"pve1 {PUBLIC}")
    assert "ssh-keyscan -t ed25519 pve2 > new" in admin.distrust("pve2", access, known)
    changed = admin.distrust("pve1", access, known)
    assert "ssh-keygen -R 'pve1' -f known" in changed
    assert "ssh-keyscan" not in changed
    assert all(
        "on the node's own console" in admin.distrust(host, access, known) for host in ("pve1", "pve2")
    )


def test_no_known_hosts_at_all(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidConfiguration, match="--known-hosts FILE"):
        admin.read_known_hosts(tmp_path / "known_hosts")


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    (tmp_path / "locked").write_bytes(key.export_private_key(passphrase="secret"))
    with pytest.raises(errors.InvalidConfiguration, match="ssh-add"):
        admin.read_private_key(tmp_path / "locked")
    (tmp_path / "public").write_bytes(key.export_public_key())
    with pytest.raises(errors.InvalidConfiguration, match="cannot be read as a private key"):
        admin.read_private_key(tmp_path / "public")
    with pytest.raises(errors.InvalidConfiguration, match="cannot be read as a private key"):
        admin.read_private_key(tmp_path / "missing")


def test_a_key_is_made_for_its_owner_only_and_never_in_the_place_of_another(tmp_path: Path) -> None:
    fingerprint = operator_key.make(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o7777 == 0o600
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(errors.InvalidConfiguration, match="is there already"):
        operator_key.make(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before
    for name in (str(tmp_path / "key"), str(tmp_path / "key.pub"), fingerprint):
        assert operator_key.fingerprint(name) == fingerprint
    with pytest.raises(errors.InvalidConfiguration, match="SHA256"):
        operator_key.fingerprint(str(tmp_path / "missing"))
