"""The node shell: what pveha does on a Proxmox VE node itself, because no REST call does it.

`pveha_node` is the file that is copied to each node and runs there as root, one request a process; it is
Python's standard library only and imports nothing of pveha. `ssh` is the operator's end, one kept connection
per node; `answers` checks what comes back. docs/node-shell.md describes what the two say to each other.

`pveha node` puts it there: `rollout` goes over the nodes, `admin` is a person's login on one, `remote` runs
at the other end of it for that moment, `installation` decides (pure) what is to be done and judges what is
found, `authorized` reads and writes authorized_keys, `operator_key` makes the key and its Secret.
"""
