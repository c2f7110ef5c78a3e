"""Words to calls, errors to exit codes.

| code | means |
|---|---|
| 0 | done |
| 1 | the answer is no: a gate failed, a rule refused, no key |
| 2 | the call or its input is wrong |
| 3 | the named thing does not exist |
| 4 | it is taken, or another caller changed it first |
| 5 | it cannot be trusted: a digest or format said no |
| 6 | not now: full, away or out of time |
| 7 | the model itself failed |
| 130 | interrupted |
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from typing import NoReturn

from bascule.cli.exit_codes import EXIT_CODES as EXIT_CODES, exit_code
from bascule.core import BasculeError, Invalid, Unavailable


def main() -> None:
    """The `bascule` command."""
    _open_standard_streams()
    from bascule.cli.commands import app
    from bascule.cli.screen import show_warnings

    show_warnings()

    try:
        try:
            app()
        finally:
            _say_where_output_went()
            sys.stdout.flush()  # what cannot be written is found now, and not after the end
    except BasculeError as error:
        _end(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output, `head` for example, has had enough.
        _drop_output()
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        _drop_output()
        _end(_of_files(error))


def _say_where_output_went() -> None:
    """A shell reads an unquoted `-c roc_auc>=0.5` as a redirection, into a file called `=0.5`."""
    if not {"-c", "--criterion"}.intersection(sys.argv):
        return
    with suppress(OSError):
        name = os.path.basename(os.readlink("/proc/self/fd/1"))
        if stat.S_ISREG(os.fstat(1).st_mode) and not name.strip("=0123456789."):
            from bascule.cli.screen import note

            note(
                f"warning: the output went into a file called {name!r}, because the shell takes an "
                "unquoted > for a redirection; delete the file and quote the criterion: "
                "-c 'roc_auc >= 0.5'"
            )


def _drop_output() -> None:
    """Give up what is left in the buffer of standard output: Python tries it again at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_files(error: OSError) -> BasculeError:
    """What no command foresees of files; the user's to mend all the same."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "what is written to, the output for example"
        return Unavailable(f"there is no space left for {where}", hint="free some, then try again")
    place = f"{error.filename}: " if error.filename else ""
    return Invalid(
        f"{place}{error.strerror or error}",
        hint="check the path and its permissions; BASCULE_HOME and TMPDIR name other folders",
    )


def _end(error: BasculeError) -> NoReturn:
    from bascule.cli.screen import print_error

    with suppress(OSError):  # there may be no space for this either
        print_error(error, as_json="--json" in sys.argv[1:])
    sys.exit(exit_code(error))


def _open_standard_streams() -> None:
    """Open what was closed before the start, or the next file opened would take what is printed."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))
