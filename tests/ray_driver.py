"""Runs the file of `bascule ship ray` on a Ray of its own until SIGTERM. Arguments: FILE PORT."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import ray
import yaml
from ray import serve
from ray.serve.scripts import run

if __name__ == "__main__":
    rendered, port = Path(sys.argv[1]), int(sys.argv[2])
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    config = yaml.safe_load(rendered.read_text()) | {"http_options": {"port": port}}
    here = rendered.with_name("here.yaml")
    here.write_text(yaml.safe_dump(config))
    run.main([str(here), "--non-blocking"], standalone_mode=False)
    signal.sigwait({signal.SIGTERM})
    serve.shutdown()
    ray.shutdown()
