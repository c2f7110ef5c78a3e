"""LiteRT (TensorFlow Lite), for networks of PyTorch: converted by litert-torch; see `networks`."""

from bascule.runtimes.networks import runtime_of

LITERT = runtime_of("model.tflite")
