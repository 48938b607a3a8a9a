"""`python -m cumulus_client.cli`."""

import sys

from cumulus_client.cli.command import main

sys.exit(main())
