"""The one place where a request gets its tenant."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from server.context import ApiDep
from server.errors import ApiError

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="An API key of this server. Where none are configured any key, or none, is accepted.",
)


async def authenticate(
    request: Request, api: ApiDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> str:
    """The tenant of the request's key; the access log finds it in the request's state."""
    tenant = api.tenants.tenant_of(credentials.credentials if credentials else None)
    if tenant is None:
        raise ApiError(
            401,
            "Incorrect API key provided."
            if credentials
            else "You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY'.",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
    request.state.tenant = tenant
    return tenant


TenantDep = Annotated[str, Depends(authenticate)]
