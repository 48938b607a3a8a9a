"""Entry point: `python -I -m cumulus_runner FOLDER`.

With `-I` the package must be importable by the interpreter. Where it isn't installed, start the
folder itself, `python -I /somewhere/cumulus_runner FOLDER` (or the path of this file): the folder
that holds `cumulus_runner` and `cumulus_wire` is then put on `sys.path`, and this one taken off it,
so that no module here is mistaken for a top-level one.
"""

import os
import sys

if __name__ == "__main__":
    if not __package__:
        here, _, _ = __file__.rpartition("/")
        here = here or "."
        sys.path[:] = [entry for entry in sys.path if entry != here]
        sys.path.insert(0, here.rpartition("/")[0] or ("/" if here.startswith("/") else "."))
    from cumulus_runner.command import main

    code = main(sys.argv[1:])
    sys.stderr.flush()
    # Everything is written and closed: taking the interpreter apart would only keep the lock.
    os._exit(code)
