"""Services of the process as typed parameters of endpoints.

    Uploads = Annotated[UploadService, Depends(ServiceLookup(UploadService))]

    async def get(upload_id: str, uploads: Uploads) -> Upload: ...

They are in the state of the app's lifespan, by the class in their declaration.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

from fastapi import Depends, Request

from palettery.app.sandbox.document_pool import DocumentPool
from palettery.app.storage.base import Storage

T = TypeVar("T")


def lifespan_state(services: object) -> dict[str, Any]:
    """Return the lifespan state of an app: the fields of a dataclass, by their declared classes."""
    kinds = get_type_hints(type(services))
    return {"services": {kind: getattr(services, name) for name, kind in kinds.items()}}


def find_service(request: Request, kind: type[T]) -> T:
    """Return the service of a class."""
    services: Mapping[type[Any], object] = request.state.services
    service = services[kind]
    assert isinstance(service, kind)  # noqa: S101 - declared so
    return service


@dataclass(frozen=True)
class ServiceLookup(Generic[T]):
    """Dependency of an endpoint on the service of a class."""

    kind: type[T]

    async def __call__(self, request: Request) -> T:
        """Return the service."""
        return find_service(request, self.kind)


Documents = Annotated[DocumentPool, Depends(ServiceLookup(DocumentPool))]
Store = Annotated[Storage, Depends(ServiceLookup(Storage))]
