"""The command line. ``main`` is the entry point; torch is imported only inside command bodies."""

from __future__ import annotations

import os
import sys

from t2iprobe.core.errors import T2IProbeError


def main() -> None:
    """Run the command line; an error of ours becomes one sentence on stderr and an exit code."""
    from t2iprobe.cli.cost import start_clock

    start_clock()
    from t2iprobe.cli.app import build
    from t2iprobe.cli.console import libraries_quiet, say

    try:
        with libraries_quiet():
            build()()
    except T2IProbeError as error:
        say(str(error), "error")
        sys.exit(error.exit_code)
    except OSError as error:  # what no command foresaw about the machine: permissions, a full disk, a lost mount
        say(f"{error.filename or 'the output'}: {error.strerror or error}", "error")
        if error.filename is None and sys.__stdout__:  # Python would fail again when it flushes stdout at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept, and the same command continues from there")
        sys.exit(130)
