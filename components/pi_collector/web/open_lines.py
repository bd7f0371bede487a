"""What is not sent to an address that begins with http:, where others could read it. Pure: the check knows it too."""

from __future__ import annotations

from pi_collector.config import Connection
from pi_collector.web.errors import CredentialsError


def unencrypted(settings: Connection, address: str) -> CredentialsError | None:
    """Why nothing is sent to this address: others could read who we are."""
    secret = (
        settings.user is not None
        or settings.bearer is not None
        or any(header.secret is not None for header in settings.headers.values())
    )
    if address.startswith("https:") or settings.allow_unencrypted or not secret:
        return None
    return CredentialsError(
        "allowUnencrypted",
        f"is not set, and on the way to {address} others could read the password or token",
        "write https: in the address, or allowUnencrypted: true if that is wanted; this holds for localhost as well",
    )


def token_unencrypted(settings: Connection) -> CredentialsError | None:
    """Why no token is asked for: others could read the client's secret."""
    url = settings.bearer.token_url if settings.bearer is not None else None
    if url is None or not url.startswith("http:") or settings.allow_unencrypted:
        return None
    return CredentialsError(
        "bearer.tokenUrl",
        "begins with http:, and others could read the client's secret",
        "write https:, or set allowUnencrypted: true if that is wanted; this holds for localhost as well",
    )
