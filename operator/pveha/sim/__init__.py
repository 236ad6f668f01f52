"""A simulated data centre: physics, not canned answers.

`config` says what there is; `world.World` runs it. Below it, bottom up: `machine` (power, boot, services,
watchdog), `bmc`, `membership` (corosync), `pmxcfs` and `guestfile` (the replicated `/etc/pve`), `storage`
(which notices two writers), `replicas` (what each copy of a guest holds), `guestops` and `tasks` (processes,
migrations), `ha_lrm`, `ha_crm` and `ha_place` (Proxmox's own HA), `net` (the nodes' own timer of the node
shell). `views` tells what the API of a node shows of all that, with its real delays. `faults` breaks things
by lines of text.

`clock` is virtual time. `ports` are the model's ports played directly on the world, `node_system` the node
shell's system calls on it; the HTTPS, Redfish and SSH faces do the same through sockets.
"""
