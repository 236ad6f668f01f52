"""Wiring: what watches Kubernetes, who leads, and what runs while we lead.

`operator.py` is the process: it starts the watch (`watch.py`: kopf, which writes nothing), the `store.py` it
feeds, the `supervisor.py` with one elector (`elector.py`) and one loop (`loop.py`) per HACluster, and
`health.py`.
"""
