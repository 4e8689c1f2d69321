"""The web page's socket and server, and a gate in front of the page that admits only the requests the page needs."""

import asyncio
import contextlib
import errno
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from src.errors import UserError
from src.web.folder import WebFolder

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

API = "/gradio_api/"
UPLOAD, FILE = f"{API}upload", f"{API}file="
# Everything that the page requests. Gradio's other routes (recordings, proxies, streams, logins) are switched off.
ROUTES = {
    "GET": re.compile(
        r"/|/(config/?|theme\.css|favicon\.ico|manifest\.json|(assets|static|svelte)/.+)"
        rf"|{API}(info/?|theme\.css|queue/data|upload_progress|heartbeat/[^/]+|file=.+)"
    ),
    "POST": re.compile(rf"{API}(upload|queue/join|cancel|reset/?)"),
}
ENVELOPE = 2**16  # bytes of an upload that are not the photo: boundaries and headers
LARGEST_MESSAGE = 2**20  # bytes of a request that is not an upload
SLOWEST = 20_000  # bytes per second, below which an upload is ended ...
PATIENCE = 20.0  # ... after these seconds, which also limit the wait for a connection's first request
DRAIN = 3.0  # seconds for which a refused sender may continue, so that it can read the answer
CONNECTIONS = 500  # at most, at the same time


# ---- who may ask, and for what


class HostNames:
    """The host names in the page's address. A request for any other name comes from another site's page (DNS
    rebinding).

    Args:
        host: the address that is served. If it stands for all addresses, requests may name any address.
        others: names under which a reverse proxy serves the page.

    Raises:
        UserError: one of `others` is more than a name.
    """

    def __init__(self, host: str, others: Sequence[str] = ()):
        self.others = [other.lower() for other in others]
        for other in others:
            if _name(other) != other.lower():
                raise UserError(f"--allowed_host: got {other}, expected a name such as photos.example.org alone")
        served = _address(host)
        self.any_address = served is not None and served.is_unspecified
        self.names = {"localhost", "127.0.0.1", "::1", host.strip("[]").lower(), *self.others}
        if self.any_address:
            machine = socket.gethostname().lower()
            self.names |= {machine, f"{machine}.local"}

    def include(self, name: str) -> bool:
        return name in self.names or (self.any_address and _address(name) is not None)


def _name(place: str) -> str:
    """The host's name in 'name:port', in lower case; '' if there is none."""
    with contextlib.suppress(ValueError):
        return urlsplit(f"//{place}").hostname or ""
    return ""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]"))
    return None


class Refusal(NamedTuple):
    status: int
    line: str


class Gate:
    """An ASGI application that passes a request on to the page only after all checks.

    Args:
        app: the page.
        names: the page's host names.
        folder: where uploads go; limits their sum.
        largest: bytes of one photo.
    """

    def __init__(self, app: Any, names: HostNames, folder: WebFolder, largest: int):
        self.app, self.names, self.folder, self.largest = app, names, folder, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        is_upload = scope["path"] == UPLOAD
        largest = self.largest + ENVELOPE if is_upload else LARGEST_MESSAGE
        size = int(headers.get("content-length", largest if is_upload else 0))
        refusal = self._refusal(scope["method"], scope["path"], headers)
        if not refusal and size > largest:
            refusal = too_large(largest)
        if not refusal and is_upload and size > self.folder.room():
            refusal = Refusal(507, f"There is no room for this upload: {self.folder.full()}.")
        if refusal:
            return await answer(refusal, receive, send)
        body = Body(receive, send, largest)
        with self.folder.receiving(size) if is_upload else contextlib.nullcontext():
            try:
                await self.app(scope, body.receive, body.send)
            except Exception:
                if not body.refusal and not body.cut_off:  # otherwise the page only reports that the body is missing
                    raise
        if body.refusal:
            await answer(body.refusal, receive, send)

    def _refusal(self, method: str, path: str, headers: dict[str, str]) -> Refusal | None:
        """403 for another site's requests, by the name that they use for this one or by their origin; 404 for what the
        page does not need, and for files that are neither uploads nor results."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.names.include(_name(host)):
            return Refusal(403, f"Host {host!r} is not served here; the option --allowed_host of app.py adds a name.")
        if origin is not None:
            place = origin.partition("://")[2].lower()
            if place != host.lower() and _name(place) not in self.names.others:
                return Refusal(403, f"Requests from {origin!r} are refused; --allowed_host of app.py adds a name.")
        route = ROUTES.get("GET" if method == "HEAD" else method)
        file = path.removeprefix(FILE)
        if not route or not route.fullmatch(path) or (file != path and not self.folder.holds(Path(file))):
            return Refusal(404, "The page has nothing at this address.")
        return None


def too_large(largest: int) -> Refusal:
    return Refusal(413, f"The upload is larger than {largest - ENVELOPE} bytes; --max_megabytes of app.py sets that.")


class Refused(Exception):
    """The page gets no more of this body."""


class Body:
    """The messages of one request. Ends a body that arrives too slowly or grows larger than `largest` bytes."""

    def __init__(self, receive: Receive, send: Send, largest: int):
        self.receive_next, self.send_next, self.largest = receive, send, largest
        self.started, self.arrived = time.monotonic(), 0
        self.complete = self.cut_off = False
        self.refusal: Refusal | None = None

    async def receive(self) -> Message:
        if self.complete:
            return await self.receive_next()
        try:
            patience = self.started + PATIENCE + self.arrived / SLOWEST - time.monotonic()
            message = await asyncio.wait_for(self.receive_next(), max(patience, 0))
        except asyncio.TimeoutError:
            self.refusal = Refusal(408, f"The upload came at less than {SLOWEST} bytes per second and was ended.")
            raise Refused from None
        self.arrived += len(message.get("body", b""))
        if self.arrived > self.largest:
            self.refusal = too_large(self.largest)
            raise Refused
        self.cut_off = message["type"] == "http.disconnect"
        self.complete = self.cut_off or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if not self.refusal:  # otherwise it answers half a body
            await self.send_next(message)


async def answer(refusal: Refusal, receive: Receive, send: Send) -> None:
    """Send a refusal, and continue to read for a while: on a closed connection a sender would not see the answer."""
    line = refusal.line.encode("utf-8", "replace") + b"\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    headers.append((b"content-length", str(len(line)).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": line, "more_body": True})
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_drain(receive), DRAIN)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass


# ---- the server


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket on one address of this machine.

    Raises:
        UserError: naming the option at fault.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "no host name"
        raise UserError(f"--host: {host} does not resolve ({reason}). Give an address of this machine.") from e
    family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(address, family=family, dualstack_ipv6=dual)
    except OSError as e:
        advice = {
            errno.EADDRINUSE: f"--port: {port} is in use on {host}. Give another --port.",
            errno.EACCES: f"--port: {port} needs the superuser's rights. Give a --port of 1024 or more.",
            errno.EADDRNOTAVAIL: f"--host: {host} is no address of this machine. Give one, 127.0.0.1 or 0.0.0.0.",
        }
        other = f"--host {host} --port {port}: cannot be served ({e.strerror})."
        raise UserError(advice.get(e.errno or 0, other)) from e


@contextlib.contextmanager
def serving(app: Any, bound: socket.socket) -> Iterator[threading.Thread]:
    """Serve an ASGI application in a thread that lives as long as the server."""
    import uvicorn

    limits: dict[str, Any] = {"limit_concurrency": CONNECTIONS, "timeout_graceful_shutdown": 1}
    config = uvicorn.Config(app, http=_impatient(), ws="none", lifespan="on", log_level="error", **limits)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.01)
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join(10)


def _impatient() -> type:
    """uvicorn's protocol, except that a new connection is closed that does not send the head of a request within
    `PATIENCE` seconds. Between requests, uvicorn's limit applies."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(PATIENCE, lambda: self.cycle or transport.close())

    return Impatient
