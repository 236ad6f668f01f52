"""Everything that /metrics shows; docs/metrics.md explains it to users, and a test holds the two together."""

import prometheus_client
from prometheus_client import registry

from pveha import api
from pveha.model.kubernetes import ClusterKey

_CLUSTER = ("namespace", "cluster")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        own: registry.CollectorRegistry = self.registry
        self.leader = prometheus_client.Gauge(
            "pveha_leader", "1 while this replica holds the cluster's Lease, else 0.", _CLUSTER, registry=own
        )
        self.rounds = prometheus_client.Counter(
            "pveha_rounds", "Rounds of the cluster's loop.", _CLUSTER, registry=own
        )
        self.round_seconds = prometheus_client.Histogram(
            "pveha_round_duration_seconds", "How long rounds took.", _CLUSTER, buckets=_SECONDS, registry=own
        )
        self.since_round = prometheus_client.Gauge(
            "pveha_seconds_since_last_round",
            "Seconds since the loop's last round; only on the leader.",
            _CLUSTER,
            registry=own,
        )
        self.operations = prometheus_client.Counter(
            "pveha_operations",
            "Operations that ended, by kind and by outcome (Succeeded, Failed, Cancelled).",
            (*_CLUSTER, "kind", "outcome"),
            registry=own,
        )
        self.nodes = prometheus_client.Gauge(
            "pveha_nodes", "Nodes by state; only on the leader.", (*_CLUSTER, "state"), registry=own
        )
        self.guests = prometheus_client.Gauge(
            "pveha_guests",
            "ProtectedVMs by the status of their condition FailoverReady; only on the leader.",
            (*_CLUSTER, "failover_ready"),
            registry=own,
        )
        self.status_writes = prometheus_client.Counter(
            "pveha_status_writes",
            "Statuses written to the API server, by outcome (Written, Outdated, Gone, Failed).",
            (*_CLUSTER, "outcome"),
            registry=own,
        )
        self.since_listed = prometheus_client.Gauge(
            "pveha_seconds_since_listed",
            "Seconds since all objects of a kind were last listed successfully.",
            ("kind",),
            registry=own,
        )
        self._shown: dict[ClusterKey, set[str]] = {}
        """States that nodes of each cluster have been in."""

    def cluster_status(self, key: ClusterKey, status: api.HAClusterStatus) -> None:
        """Show the nodes of a cluster's status."""
        states = {"Online": status.nodes.online if status.nodes else 0}
        for node in status.not_online:
            states[node.state] = states.get(node.state, 0) + 1
        shown = self._shown.setdefault(key, set())
        shown.update(states)
        for state in shown:
            self.nodes.labels(key.namespace, key.name, state).set(states.get(state, 0))

    def guest_conditions(self, key: ClusterKey, counts: dict[str, int]) -> None:
        """Show how many guests have FailoverReady True, False or Unknown."""
        for status in ("True", "False", "Unknown"):
            self.guests.labels(key.namespace, key.name, status).set(counts.get(status, 0))

    def forget(self, key: ClusterKey) -> None:
        """Remove what only the leader shows."""
        self._shown.pop(key, None)
        for metric in (self.since_round, self.nodes, self.guests):
            for labels in _label_values(metric):
                if labels[:2] == (key.namespace, key.name):
                    metric.remove(*labels)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)


def _label_values(metric: prometheus_client.Gauge) -> list[tuple[str, ...]]:
    return [
        tuple(sample.labels[name] for name in metric._labelnames)
        for family in metric.collect()
        for sample in family.samples
    ]
