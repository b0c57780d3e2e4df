"""`[[webhooks]]` and `[events]`: who hears of batches that end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from scheduler.policy.delivering import COMMAND, secret_problem

EventType = Literal["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]
ALL: tuple[EventType, ...] = ("batch.completed", "batch.failed", "batch.expired", "batch.cancelled")


class WebhookConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64, description="what logs and metrics call it")
    url: str = Field(description="where events are sent, `https://...`")
    secrets: tuple[str, ...] = Field(
        (), max_length=8, repr=False, description="signing secrets (`whsec_...` or any text); all are used at once"
    )
    secret_env: str | None = Field(None, min_length=1, description="name of the variable that holds a signing secret")
    events: tuple[EventType, ...] = Field(ALL, min_length=1, description="which events it gets")
    tenant: str | None = Field(None, description="only the batches of this tenant; of all if not given")
    allow_private: bool = Field(False, description="may be on a private or loopback address, and plain `http`")

    @field_validator("secrets")
    @classmethod
    def _can_sign(cls, secrets: tuple[str, ...]) -> tuple[str, ...]:
        for number, secret in enumerate(secrets, 1):
            problem = secret_problem(secret)
            if problem is not None:
                raise ValueError(f"secret {number} cannot be used: {problem}")
        return secrets

    @model_validator(mode="after")
    def _is_whole(self) -> WebhookConfig:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"url {self.url!r} is no URL: write it as https://example.com/hook")
        if parts.scheme == "http" and not self.allow_private:
            raise ValueError("url is http: use https, or set allow_private = true for a target on your own network")
        if not self.secrets and self.secret_env is None:
            raise ValueError('a secret is missing: set secrets = ["..."] or secret_env, so that receivers can verify')
        return self


def check_webhooks(webhooks: Sequence[WebhookConfig], tenants: Sequence[str]) -> None:
    """ValueError when names are not clear, or one waits for events that never come."""
    names = [webhook.name for webhook in webhooks]
    if len(set(names)) != len(names):
        raise ValueError("webhooks: two have the same name")
    if COMMAND in names:
        raise ValueError(f"webhooks: {COMMAND} is the name of the local command: choose another one")
    for webhook in webhooks:
        if webhook.tenant is not None and webhook.tenant not in tenants:
            known = ", ".join(sorted(tenants)) or "none"
            raise ValueError(
                f"webhooks: {webhook.name} is for the tenant {webhook.tenant}, which is none of [[tenants]]: {known}"
            )


class EventsSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    on_event: tuple[str, ...] = Field(
        (), description="a command and its arguments, run without a shell for each batch that ends"
    )
    on_event_seconds_max: float = Field(60.0, gt=0, le=3600, description="a command that takes longer is ended")
