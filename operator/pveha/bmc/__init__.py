"""Power control: the devices that prove a node's death (S1, S2).

`redfish` and `ipmi` speak to BMCs, which name the machine they speak of; `agent` runs fence agents, for
outlets and whatever else there is.

`ipmi` and `agent` do each call in a process of its own (`process`), which is killed when its time is over.
`switches` puts all together as one `PowerControl`. What their answers prove is not decided here. A person's
confirmation (method `manual`) is no device: it comes with the HACluster.
"""
