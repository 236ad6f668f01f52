"""What the operator may do: every test that runs it as somebody runs it with these rights and no others.

They are those of the chart's ClusterRole (charts/pveha/templates/rbac.yaml), read from the kustomize base
that is made of it. `test_install_rights` has a use for every one of them: a new right needs one there.
"""

from pathlib import Path

import yaml

from pveha.devkube import access

_FILE = Path(__file__).parents[2] / "manifests" / "base" / "rbac.yaml"

RULES: list[access.Rule] = next(
    each["rules"]
    for each in yaml.safe_load_all(_FILE.read_text(encoding="utf-8"))
    if each["kind"] == "ClusterRole"
)
