"""The command `cumulus`: `main` takes the command line and gives the exit code.

`parser` has what all verbs share, `command` knows them all, and each noun has a module of its own:
`running` (run, submit), `jobs`, `logs`, `results` (result, download), `pool` (workers, info,
doctor), `login`, `completion`.
"""

from cumulus_client.cli.command import main

__all__ = ["main"]
