"""High availability for the guests of Proxmox VE clusters, driven from Kubernetes.

One loop per HACluster, data flowing one way: `observe` turns the outside into a Snapshot, `decide` (pure)
turns that into a Decision, `act` carries it out as operations, `report` tells. The outside is reached through
the ports `proxmox`, `bmc`, `nodeshell` and `kube`; `control` wires everything; `cli` starts it. `sim` is a
simulated data centre behind the same ports, `devkube` a real Kubernetes API server for the demo and the
tests.
"""

__version__ = "0.1.0"
