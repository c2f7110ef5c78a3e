"""ExecuTorch, for networks of PyTorch: XNNPACK runs what it knows of them; see `networks`."""

from bascule.runtimes.networks import runtime_of

EXECUTORCH = runtime_of("model.pte")
