"""The client that a command line asks for, and the job that it names."""

import argparse
from typing import Any

from cumulus_client._profiles import settings
from cumulus_client.cli.parser import UsageError, meant
from cumulus_client.client import CumulusClient
from cumulus_client.exceptions import NotFound

#: What every job id of this daemon begins with; it may be left out.
_PREFIX = "job_"
#: Among how many of the newest jobs the beginning of an id is looked for.
_LOOKED_AT = 1000
LAST = "last"


def client_of(options: argparse.Namespace) -> CumulusClient:
    """The client, not connected yet. Raises UsageError."""
    try:
        found = settings(options.server, options.api_key, options.profile, ca_file=options.ca_file)
        return CumulusClient(
            found.server_url,
            found.api_key,
            api_key_name=found.api_key_name,
            ca_file=found.ca_file,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def job_view(client: CumulusClient, named: str) -> dict[str, Any]:
    """The view of the job that `named` names: its id, the unique beginning of one, or `last`.

    Raises UsageError for none or several, CumulusError.
    """
    try:
        return client.get_job_status(named)
    except NotFound:
        pass
    views = client.list_jobs(limit=1 if named == LAST else _LOOKED_AT)
    found = pick([str(view["job_id"]) for view in views], named)
    return client.get_job_status(found)


def job_id(client: CumulusClient, named: str) -> str:
    """As `job_view`, the id alone."""
    return str(job_view(client, named)["job_id"])


def pick(ids: list[str], named: str) -> str:
    """The one that `named` names of `ids`, newest first. Raises UsageError."""
    if named == LAST:
        if not ids:
            raise UsageError("there is no last job: no job of yours is kept")
        return ids[0]
    fitting = [each for each in ids if each.startswith(named)]
    fitting += [each for each in ids if each.startswith(_PREFIX + named) and each not in fitting]
    if len(fitting) == 1 and named:
        return fitting[0]
    if fitting and named:
        some = ", ".join(fitting[:5]) + (", ..." if len(fitting) > 5 else "")
        raise UsageError(f"{named!r} is the beginning of {len(fitting)} jobs' ids: {some}")
    raise UsageError(
        f"there is no job {named!r}{meant(named, ids) or '; `cumulus jobs` shows those there are'}"
    )
