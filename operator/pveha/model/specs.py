"""What users want: the resources of one HACluster, as last seen in Kubernetes."""

import dataclasses
from collections.abc import Mapping

from pveha import api


@dataclasses.dataclass(frozen=True, slots=True)
class Specs:
    """One HACluster with the policies of its namespace and the ProtectedVMs that name it, by object name."""

    cluster: api.HACluster
    policies: Mapping[str, api.FailoverPolicy]
    guests: Mapping[str, api.ProtectedVM]
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """ProtectedVMs that the models refuse (stored before a rule was tightened), with the reason."""
    revision: int = 0
    """Grows with each change but for one of status, which is mostly pveha's own."""
