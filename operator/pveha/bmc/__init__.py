"""Power control: the BMCs that prove a node's death (S1, S2).

`redfish` is the one kind of BMC there is. What its answers prove is not decided here.
"""
