"""What the stages of the loop hand each other: frozen values, no behaviour with side effects.

Read in this order: `guests` and `cluster` (what Proxmox VE shows), `node` and `power` (what the node shell
and a BMC show), `mark` (the journal kept in the comment of an HA resource), `operations` (what pveha may do),
`snapshot` (one moment of all of it), `decision` (what follows from a snapshot), `kubernetes` (what is kept
there), `errors` (what can go wrong outside) and `ports` (the Protocols through which the outside is reached).

Times: `*_at` is the event loop's clock in seconds (monotonic); `*_timestamp` is Unix time of the machine that
wrote it.
"""
