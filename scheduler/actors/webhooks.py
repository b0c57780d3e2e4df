"""A target that is a URL: one signed POST per event, by the Standard Webhooks specification.

What a receiver checks: `webhook-id` (the same over all tries, so that it can tell repetitions), `webhook-timestamp`
(fresh for each try: five minutes old is too old) and `webhook-signature` over exactly the bytes of the body.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import socket
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version

import aiohttp
from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult
from standardwebhooks.webhooks import Webhook

from scheduler.actors.notifier import DeliveryError
from scheduler.policy.delivering import EVENT_TYPES, SECRET_PREFIX, address_refusal
from store.events import EventRecord

ANSWER_SECONDS_MAX = 10.0
ANSWER_SHOWN_BYTES_MAX = 200


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """`secrets` are all in use: a receiver accepts a signature by any of them, which is how a secret is changed.
    `tenant` None: the events of all."""

    name: str
    url: str
    secrets: Sequence[str] = field(repr=False)
    events: Collection[str] = EVENT_TYPES
    tenant: str | None = None
    allow_private: bool = False


class WebhookTarget:
    def __init__(self, settings: WebhookSettings, *, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._signers = [Webhook(_key(secret)) for secret in settings.secrets]
        self._resolver: OwnResolver | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        return self._settings.name

    def wants(self, event: EventRecord) -> bool:
        settings = self._settings
        return event.type in settings.events and settings.tenant in (None, event.tenant)

    async def deliver(self, event: EventRecord) -> None:
        body = payload(event)
        headers = self._headers(event, body)
        try:
            async with self._open().post(
                self._settings.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                if not 200 <= answer.status < 300:
                    raise DeliveryError(await _refusal(answer))
        except TimeoutError as error:
            raise DeliveryError(f"no answer within {ANSWER_SECONDS_MAX:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise DeliveryError(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._resolver is not None:
            await self._resolver.close()

    def _headers(self, event: EventRecord, body: bytes) -> dict[str, str]:
        """Signed anew for each try."""
        at = datetime.fromtimestamp(int(self._now()), UTC)
        name = f"wh_{event.id.removeprefix('evt_')}"
        return {
            "content-type": "application/json",
            "user-agent": f"Nightbatch/{version('nightbatch')}",
            "webhook-id": name,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signer.sign(name, at, body.decode()) for signer in self._signers),
        }

    def _open(self) -> aiohttp.ClientSession:
        """Made on the loop that uses it. No proxy of the environment: it would hide the address."""
        if self._session is None:
            factory = None if self._settings.allow_private else public_socket
            self._resolver = OwnResolver()
            connector = aiohttp.TCPConnector(socket_factory=factory, use_dns_cache=False, resolver=self._resolver)
            timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS_MAX)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)
        return self._session


class OwnResolver(AbstractResolver):
    """Looks names up in a thread of its own. A lookup may hang for half a minute, and the threads that all share are
    those that read and write the files of batches."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="webhook-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._thread, partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(place[0]) if len(place) < 4 or not place[3] else f"{place[0]}%{place[3]}",
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, place in found
        ]

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def payload(event: EventRecord) -> bytes:
    """OpenAI's event object: the receiver gets the batch by its id."""
    shown = {
        "object": "event",
        "id": event.id,
        "type": event.type,
        "created_at": event.created_at,
        "data": {"id": event.batch_id},
    }
    return json.dumps(shown, separators=(",", ":")).encode()


def _key(secret: str) -> str:
    """`whsec_` and base64, or any text: OpenAI's clients take that text's bytes as the key."""
    if secret.startswith(SECRET_PREFIX):
        return secret
    return SECRET_PREFIX + base64.b64encode(secret.encode()).decode()


async def _refusal(answer: aiohttp.ClientResponse) -> str:
    if 300 <= answer.status < 400:
        return f"it answered {answer.status}, a redirect, which is not followed: configure the URL that it leads to"
    shown = (await answer.content.read(ANSWER_SHOWN_BYTES_MAX)).decode("utf-8", "replace")
    return (
        f"it answered {answer.status}: {' '.join(shown.split())}" if shown.strip() else f"it answered {answer.status}"
    )


def public_socket(address: AddrInfoType, what: str = "this webhook") -> socket.socket:
    """A socket for an address that is about to be connected to, if it is a public one. Names were looked up before: one
    that leads elsewhere a moment later gains nothing."""
    family, kind, protocol, _, place = address
    refusal = address_refusal(str(place[0]))
    if refusal is not None:
        raise OSError(errno.EACCES, f"{refusal}: set allow_private = true for {what} if that is meant")
    return socket.socket(family, kind, protocol)
