"""The frameworks of `hemofed bench rounds --peer NAME=PYTHON`."""

from simulations.bench.peer_frameworks import PeerFramework

FRAMEWORKS = {
    "pfl": PeerFramework(
        title="pfl-research",
        package="pfl",
        requirement="pfl[pytorch]==0.6.0",
        python="python3.11",
        contestants={"2 processes": ("simulations.bench.peers.on_pfl",)},
    ),
    "blazefl": PeerFramework(
        title="BlazeFL",
        package="blazefl",
        requirement="blazefl[contrib,reproducibility]==3.0.0",
        python="python3.14t",
        contestants={
            "2 threads": ("simulations.bench.peers.on_blazefl", "threads"),
            "2 processes": ("simulations.bench.peers.on_blazefl", "processes"),
        },
    ),
}
