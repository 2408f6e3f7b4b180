"""The frameworks of `hemofed bench masking --peer NAME=PYTHON`."""

from simulations.bench.peer_frameworks import PeerFramework

FRAMEWORKS = {
    "fedbiomed": PeerFramework(
        title="Fed-BioMed",
        package="fedbiomed",
        requirement="fedbiomed==6.4.1",
        python="python3.11",
        contestants={"LOM": ("simulations.bench.peers.on_fedbiomed",)},
    ),
}
