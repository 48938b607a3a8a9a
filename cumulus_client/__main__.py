"""`python -m cumulus_client` is the command `cumulus`."""

import sys

from cumulus_client.cli.command import main

sys.exit(main())
