"""The floor of HTTP: nginx reads the request and returns a constant. It predicts nothing."""

from __future__ import annotations

import shutil

from bench.systems.system import System

_CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 256; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_buffer_size 256k;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ default_type application/json; return 200 '{{"outputs":[]}}'; }}
  }}
}}
"""


class Nginx(System):
    name = "nginx"
    about = "nginx `return 200`, one worker; predicts nothing"
    predicts = False
    tools = frozenset({"wrk", "nginx"})
    codings = ("json", "binary")

    def command(self) -> list[str]:
        written = self.folder / "nginx.conf"
        written.write_text(_CONFIGURATION.format(folder=self.folder, port=self.port))
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
        return [program or "nginx", "-p", str(self.folder), "-e", "stderr", "-c", str(written)]
