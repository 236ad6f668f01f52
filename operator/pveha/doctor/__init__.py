"""`pveha doctor`: looks at everything that protection rests on and manifests do not hold.

Nothing is changed. `examination` takes one HACluster after the other; `patient` is one of them with what was
asked of it, each question once, whoever asks first; a check is a function from a patient to findings
(`finding`), a file for each part of the body:

- `endpoints`: the API's addresses, their certificates, the token;
- `votes`: quorum, corosync's options, how soon a loss is noticed, clocks;
- `fencing`: BMCs and whatever else proves a death, and whose they are;
- `shell`: `pveha-node` on the nodes, its key, its timer, its register;
- `storages`: where the protected guests' volumes are;
- `ha`: Proxmox's own HA, the net underneath;
- `kubernetes`: where Kubernetes and pveha themselves run.

`report` prints it. docs/doctor.md lists the checks and the form of `--json`.
"""
