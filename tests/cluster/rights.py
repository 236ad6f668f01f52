"""What the operator may do: every test that runs it as somebody runs it with these rights and no others."""

from pveha import api
from pveha.devkube import access

RULES: list[access.Rule] = [
    {
        "apiGroups": [api.GROUP],
        "resources": [resource.plural for resource in api.RESOURCES],
        "verbs": ["list", "watch"],
    },
    {
        "apiGroups": [api.GROUP],
        "resources": [f"{resource.plural}/status" for resource in api.RESOURCES],
        "verbs": ["patch"],
    },
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": ["get"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
]
