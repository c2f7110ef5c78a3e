from __future__ import annotations

import subprocess
import sys

from alembic.config import Config
from alembic.script import ScriptDirectory

from bascule.catalogue import Catalogue, SqliteDatabase, migrations, schema

IMPORTS = """
import sys
from pathlib import Path
from bascule.registry import open_registry
open_registry(Path(sys.argv[1])).models()
print(*(name for name in ("alembic", "mako", "onnxruntime", "pydantic") if name in sys.modules))
"""


def test_the_head_that_is_written_down_is_that_of_the_migrations():
    config = Config()
    config.set_main_option("script_location", str(migrations.FOLDER))
    config.set_main_option("path_separator", "os")

    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_opening_a_current_home_imports_neither_migrations_nor_a_runtime(tmp_path):
    Catalogue(SqliteDatabase(tmp_path / "catalogue.db")).create()

    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
