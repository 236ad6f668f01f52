"""What keeps pveha from acting."""

from pveha import api
from pveha.decide import evidence, guards
from pveha.sim import config, rig


def spec(nodes: int) -> api.HACluster:
    about = config.Config(tuple(config.Node(f"pve{number + 1}") for number in range(nodes)))
    parsed = api.parse(rig.hacluster(about, {}))
    assert isinstance(parsed, api.HACluster)
    return parsed


def test_a_node_in_doubt_counts_towards_the_blast_radius() -> None:
    states = [evidence.State.DOWN, evidence.State.UNCONFIRMED, *[evidence.State.ONLINE] * 3]
    verdicts = {f"pve{n + 1}": evidence.Verdict(f"pve{n + 1}", state, "") for n, state in enumerate(states)}
    assert guards.blast_radius(spec(5).spec, {**verdicts, "pve2": verdicts["pve3"]}) == ""
    assert "pve1, pve2" in guards.blast_radius(spec(5).spec, verdicts)
