"""Turn the outside into a Snapshot: read only, and never one call per guest.

`watcher.Watcher` runs one small polling task per source, each with its own cadence: membership of every node
(which is also our probe of it) every probe period, faster while a node is in doubt; guests and HA state every
few seconds; BMCs, node shells and configurations slowly. A source that fails or hangs delays nobody else.
What was seen last is kept with its time.
"""
