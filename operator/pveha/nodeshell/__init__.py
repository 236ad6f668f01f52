"""The node shell: what pveha does on a Proxmox VE node itself, because no REST call does it.

`pveha_node` is the file that is copied to each node and runs there as root, one request a process; it is
Python's standard library only and imports nothing of pveha. `ssh` is the operator's end, one kept connection
per node; `answers` checks what comes back. docs/node-shell.md describes what the two say to each other.
"""
