"""Who the client is. Its secret is shown nowhere."""

import dataclasses
import re

from pveha.model import errors

_TOKEN_ID = re.compile(r"[^\s:/@!=]+@[A-Za-z][A-Za-z0-9._-]+![A-Za-z][A-Za-z0-9._-]+")
_SECRET = re.compile(r"[!-~]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """An API token: `id` is USER@REALM!NAME. Raises `InvalidConfiguration`, which never shows the secret."""

    id: str
    secret: str = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if not _TOKEN_ID.fullmatch(self.id):
            message = (
                f"tokenID {self.id!r} is not of the form USER@REALM!NAME, for instance pveha@pve!operator"
            )
            raise errors.InvalidConfiguration(message)
        if not _SECRET.fullmatch(self.secret):
            message = f"tokenSecret of {self.id} is empty or holds blanks or line ends: store the bare secret"
            raise errors.InvalidConfiguration(message)

    @property
    def header(self) -> str:
        """Value of the Authorization header."""
        return f"PVEAPIToken={self.id}={self.secret}"
