"""docs/metrics.md names what /metrics shows: neither more nor less."""

import re
from pathlib import Path

from pveha import api
from pveha.model.kubernetes import ClusterKey
from pveha.report import metrics

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
KEY = ClusterKey("default", "dc1")


def shown(text: str, name: str) -> dict[str, float]:
    """Samples of a metric by their labels as written."""
    found = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def test_the_page_and_the_code_name_the_same_metrics() -> None:
    documented = set(re.findall(r"^\| `(pveha_\w+)`", PAGE.read_text(), re.MULTILINE))
    families = metrics.Metrics().registry.collect()
    assert documented == {family.name + ("_total" if family.type == "counter" else "") for family in families}


def test_nodes_by_state_go_back_to_zero() -> None:
    own = metrics.Metrics()
    down = api.HAClusterStatus(
        nodes=api.NodeCounters(total=3, online=2), not_online=(api.NotOnline(name="pve1", state="Down"),)
    )
    own.cluster_status(KEY, down)
    label = 'cluster="dc1",namespace="default",state='
    assert shown(own.text().decode(), "pveha_nodes") == {f'{label}"Online"': 2, f'{label}"Down"': 1}
    own.cluster_status(KEY, api.HAClusterStatus(nodes=api.NodeCounters(total=3, online=3)))
    assert shown(own.text().decode(), "pveha_nodes") == {f'{label}"Online"': 3, f'{label}"Down"': 0}
    own.forget(KEY)
    assert shown(own.text().decode(), "pveha_nodes") == {}
