"""What users are told: statuses, Events, metrics.

`status.py` turns a `model.decision.Report` into statuses and hands those that differ from what is stored to
`applier.py`, which writes them in the background; `events.py` folds repetitions into series; `metrics.py`
names everything that /metrics shows. Nothing here ever delays a round.
"""
