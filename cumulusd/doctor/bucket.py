"""The configured S3: does it answer to the key?"""

from typing import Any

from cumulusd.config_s3 import S3Section
from cumulusd.doctor.finding import Finding, of_error, ok
from cumulusd.errors import CumulusError
from cumulusd.s3.access import Access
from cumulusd.s3.client import S3Client


async def examine(section: S3Section, reactor: Any) -> Finding:
    """Lists one page; writes nothing."""
    access = Access(
        bucket=section.bucket,
        region=section.region,
        endpoint_url=section.endpoint_url,
        prefix=section.prefix,
        access_key=section.access_key,
        secret_key=section.secret_key,
    )
    client = S3Client(access, reactor)
    try:
        await client.listing(section.prefix)
    except CumulusError as error:
        return of_error("s3", error)
    finally:
        await client.close()
    return ok("s3", f"{client.name} answers, and may be listed; that it may be written isn't tried")
