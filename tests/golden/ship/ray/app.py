"""late on Ray Serve: `serve run app:app`. The replicas run the engine of `bascule serve`.

A replica gets its bundles from the registry: that of BASCULE_SERVER, or the one that the settings of its node
name (BASCULE_REGISTRY__STORE and BASCULE_REGISTRY__OBJECTS). A bundle with another digest is refused.
"""

from bascule.ray import Arm, application

app = application(
    "late",
    [
        Arm(
            "current", "late/3", 90,
            "sha256:3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a",
        ),
        Arm(
            "candidate", "late/4", 10,
            "sha256:4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b",
        ),
    ],
    min_replicas=2,
    max_replicas=10,
    open_calls_per_replica=8,
    num_cpus=0.25,
    memory_mib=384,
)
