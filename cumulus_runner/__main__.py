"""Entry point: `python -u /somewhere/cumulus_runner/__main__.py FOLDER`.

Where this Python is the job's, the code then runs in a copy of this very interpreter. In other ways
of starting, the folder by its path or `-m cumulus_runner`, with `-I` or without, it runs in one of
its own. The folder that holds `cumulus_runner` and `cumulus_wire` is put on `sys.path`, and this
one taken off it, so that no module here is mistaken for a top-level one.
"""

import os
import sys

if __name__ == "__main__":
    before = sys.path[:]
    if not __package__:
        here = os.path.dirname(os.path.realpath(__file__))
        before = [entry for entry in before if entry not in (here, os.path.dirname(__file__))]
        sys.path[:] = [os.path.dirname(here), *before]
    import cumulus_wire

    cumulus_wire.is_light = True
    from cumulus_runner.beginning import Refused, begin

    try:
        # Started by `-m`, or by the folder, `sys.argv` and the path are not as a script's.
        begun = begin(sys.argv[1:], may_divide=__spec__ is None)
        if begun.go is None:
            from cumulus_runner.command import main

            code = main(begun)
    except Refused as refused:
        code = refused.exit_code
    else:
        if begun.go is not None:
            from cumulus_runner.bootstrap import follow

            sys.path[:] = before
            for name in [*sys.modules]:
                if name.partition(".")[0] in ("cumulus_runner", "cumulus_wire"):
                    del sys.modules[name]
            sys.exit(follow(begun.go))
    if sys.stderr is not None:
        sys.stderr.flush()
    # Everything is written and closed: taking the interpreter apart would only keep the lock.
    os._exit(code)
