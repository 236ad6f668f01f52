"""What can go wrong before there is an API server to talk to."""


class DevkubeError(Exception):
    """The sentence says what was tried and what the user can do."""
