"""The real `Hypervisor`: one Proxmox VE cluster through its HTTPS API.

`client` is what the rest of pveha uses; the story of one call, from the outside in:

- `client`: which API call answers which question, with which deadline, and what the answer means;
- `access`: what the token must be allowed, because Proxmox answers some questions it may not ask with an
  empty list;
- `endpoints`: which node is asked, what is remembered of its health, and how nodes join the list;
- `transport`: proxmoxer's resource tree over aiohttp: one HTTPS request with a total deadline, sent once;
- `credentials`: the token, which is who we are (whom we trust is `pveha.tls`);
- `errors`: every way a call can fail, turned into the tree of `model.errors`;
- `shapes`: every answer checked for its shape and turned into the dataclasses of `model.cluster`;
- `tasks`: what a UPID says.

Containers are treated like virtual machines throughout. Their answers follow the published schema of the API;
unlike those of virtual machines they have not been recorded on a real cluster.
"""
