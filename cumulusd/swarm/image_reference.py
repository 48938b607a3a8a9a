"""By which name tasks get an image, so that no task pulls: an id or a digest, never a tag."""

from enum import StrEnum
from typing import Protocol

from cumulusd.errors import NotFound
from cumulusd.swarm.answers import ImageInfo


class ImageBy(StrEnum):
    """How images are named to the workers."""

    #: by digest where a registry gave the image one, else by id. Workers that have the image from
    #: the registry, or can reach it, find it.
    DIGEST = "digest"
    #: by id always: workers have it from an archive, and no registry is asked
    ID = "id"
    #: by digest where the reference is a registry's (`somebody/name`, `host/name`), else by id:
    #: engines that keep images by their digests give one to those that were built here, too
    AUTO = "auto"


class Images(Protocol):
    """The engine, as far as it is needed here."""

    async def image(self, reference: str) -> ImageInfo: ...


def chosen(reference: str, image: ImageInfo, by: ImageBy) -> str:
    """The name for the workers. Pure."""
    repository = _repository(reference)
    if by is ImageBy.AUTO:
        by = ImageBy.DIGEST if "/" in repository else ImageBy.ID
    if by is ImageBy.DIGEST and image.digests:
        same = [digest for digest in image.digests if digest.partition("@")[0] == repository]
        return (same or sorted(image.digests))[0]
    return image.image_id


def is_fixed(reference: str) -> bool:
    """It names an id or a digest already: it can't mean another image tomorrow."""
    return reference.startswith("sha256:") or "@sha256:" in reference


async def resolve_image(images: Images, reference: str, by: ImageBy) -> str:
    """The id or digest that `reference` means on this manager.

    Raises NotFound when the manager doesn't have it, unless it is an id or a digest already.
    """
    try:
        image = await images.image(reference)
    except NotFound as error:
        if is_fixed(reference):
            return reference  # the workers may have what the manager needn't
        raise NotFound(
            f"the Swarm manager doesn't have the image {reference}",
            details={**error.details, "image": reference},
            hint="load or pull the image on the manager and on every worker, "
            "or name it by digest (name@sha256:…)",
        ) from error
    if by is not ImageBy.ID and "@sha256:" in reference:
        return reference
    return chosen(reference, image, by)


def _repository(reference: str) -> str:
    """`host:5000/name:tag` -> `host:5000/name`."""
    name = reference.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name
