"""What stands between the network and the web page: the socket, and a gate that lets in only what the page needs."""

import asyncio
import contextlib
import errno
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from src.errors import UserError
from src.web.folder import Incoming, WebFolder

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

API = "/gradio_api/"
UPLOAD, FILE = f"{API}upload", f"{API}file="
# All that the page asks for; whatever else Gradio answers to (recordings, proxies, streams, logins) is switched off.
ROUTES = {
    "GET": re.compile(
        r"/|/(config/?|theme\.css|favicon\.ico|manifest\.json|(assets|static|svelte)/.+)"
        rf"|{API}(info/?|theme\.css|queue/data|upload_progress|heartbeat/[^/]+|file=.+)"
    ),
    "POST": re.compile(rf"{API}(upload|queue/join|cancel|reset/?)"),
}
ENVELOPE = 2**16  # bytes of an upload that are not the photo: boundaries and headers
LARGEST_MESSAGE = 2**20  # bytes of a request that is no upload
SLOWEST = 20_000  # bytes per second, below which an upload is ended ...
PATIENCE = 20.0  # ... after these seconds, which a request's head may take, too
DRAIN = 3.0  # seconds that a refused sender may go on, to read the answer
CONNECTIONS = 500  # at most, at the same time


# ---- who may ask, and for what


@dataclass(frozen=True)
class Names:
    """The host names by which the page may be addressed; any other is a page of somebody else's (DNS rebinding).

    Args:
        host: what is served. With all addresses, every address is accepted: only names can be made to lie.
        others: names behind which a reverse proxy serves the page.

    Raises:
        UserError: one of `others` is more than a name.
    """

    host: str
    others: Sequence[str] = ()

    def __post_init__(self) -> None:
        for other in self.others:
            if _name(other) != other.lower():
                raise UserError(f"--allowed_host: got {other}, expected a name such as photos.example.org alone")

    def own(self, name: str) -> bool:
        """Whether a request's Host may be `name`."""
        if name in ("localhost", "127.0.0.1", "::1", self.host.strip("[]").lower()) or self.other(name):
            return True
        served = _address(self.host)
        if not served or not served.is_unspecified:
            return False
        machine = socket.gethostname().lower()
        return _address(name) is not None or name in (machine, f"{machine}.local")

    def other(self, name: str) -> bool:
        return name in [n.lower() for n in self.others]


def _name(place: str) -> str:
    """The host's name in 'name:port', in small letters; '' if there is none."""
    with contextlib.suppress(ValueError):
        return urlsplit(f"//{place}").hostname or ""
    return ""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]"))
    return None


@dataclass(frozen=True)
class Refusal:
    """An answer of one line."""

    status: int
    line: str


class Gate:
    """An ASGI application in front of the page's; only what passes all checks reaches that.

    Args:
        app: the page.
        names: see `Names`.
        folder: where uploads go; limits their sum.
        largest: bytes of one photo.
    """

    def __init__(self, app: Any, names: Names, folder: WebFolder, largest: int):
        self.app, self.names, self.folder, self.largest = app, names, folder, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, upload = scope["path"], scope["path"] == UPLOAD
        largest = self.largest + ENVELOPE if upload else LARGEST_MESSAGE
        size = int(headers.get("content-length", largest if upload else 0))
        refusal = (
            self._refuse_sender(headers.get("host", ""), headers.get("origin"))
            or self._refuse_path(scope["method"], path)
            or self._refuse_size(size, largest, upload)
        )
        if refusal:
            return await answer(refusal, receive, send)
        with self.folder.receiving(size) if upload else contextlib.nullcontext(Incoming(0)) as incoming:
            body = Body(receive, send, largest, incoming)
            try:
                await self.app(scope, body.receive, body.send)
            except Exception:
                if not body.refusal and not body.cut_off:  # else the page only says that the body is missing
                    raise
        if body.refusal:
            await answer(body.refusal, receive, send)

    def _refuse_sender(self, host: str, origin: str | None) -> Refusal | None:
        """403 for another site's requests: by the name they use for this one, or by where they come from."""
        if not self.names.own(_name(host)):
            return Refusal(403, f"Host {host!r} is not served here; the option --allowed_host of app.py adds a name.")
        if origin is not None:
            place = origin.partition("://")[2].lower()
            if place != host.lower() and not self.names.other(_name(place)):
                return Refusal(403, f"Requests from {origin!r} are refused; --allowed_host of app.py adds a name.")
        return None

    def _refuse_path(self, method: str, path: str) -> Refusal | None:
        """404 for what the page does not need, and for files that are no uploads or results."""
        route = ROUTES.get("GET" if method == "HEAD" else method)
        file = path.removeprefix(FILE)
        if not route or not route.fullmatch(path) or (file != path and not self.folder.holds(Path(file))):
            return Refusal(404, "The page has nothing at this address.")
        return None

    def _refuse_size(self, size: int, largest: int, upload: bool) -> Refusal | None:
        """413 for a body that is too large, 507 for an upload for which there is no room."""
        if size > largest:
            return too_large(largest)
        if upload and size > self.folder.room():
            return Refusal(507, f"There is no room for this upload: {self.folder.full()}.")
        return None


def too_large(largest: int) -> Refusal:
    return Refusal(413, f"The upload is larger than {largest - ENVELOPE} bytes; --max_megabytes of app.py sets that.")


class Refused(Exception):
    """The page gets no more of this body."""


@dataclass
class Body:
    """What is exchanged about one request: ends a body that comes too slowly or grows too large."""

    receive_next: Receive
    send_next: Send
    largest: int
    incoming: Incoming
    arrived: int = 0
    whole: bool = False
    cut_off: bool = False
    refusal: Refusal | None = None
    started: float = field(default_factory=time.monotonic)

    async def receive(self) -> Message:
        if self.whole:
            return await self.receive_next()
        try:
            patience = self.started + PATIENCE + self.arrived / SLOWEST - time.monotonic()
            message = await asyncio.wait_for(self.receive_next(), max(patience, 0))
        except asyncio.TimeoutError:
            self.refusal = Refusal(408, f"The upload came at less than {SLOWEST} bytes per second and was ended.")
            raise Refused from None
        size = len(message.get("body", b""))
        self.arrived += size
        self.incoming.left = max(self.incoming.left - size, 0)
        if self.arrived > self.largest:
            self.refusal = too_large(self.largest)
            raise Refused
        self.cut_off = message["type"] == "http.disconnect"
        self.whole = self.cut_off or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if not self.refusal:  # else it is an answer to half a body
            await self.send_next(message)


async def answer(refusal: Refusal, receive: Receive, send: Send) -> None:
    """Send a refusal, and read on for a while: who still sends would not see an answer on a closed connection."""
    line = refusal.line.encode("utf-8", "replace") + b"\n"
    headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(line)), "connection": "close"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": line, "more_body": True})
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_drain(receive), DRAIN)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass


# ---- the server


def open_socket(host: str, port: int) -> socket.socket:
    """A socket bound to one address of this machine.

    Raises:
        UserError: naming the option at fault.
    """
    if port > 65535:  # the system would take the rest of the division by 65536
        raise UserError(f"--port: got {port}, expected 65535 or less")
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "no host name"
        raise UserError(f"--host: {host} does not resolve ({reason}). Give an address of this machine.") from e
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()  # now, since a busy port may show only here
        return bound
    except OSError as e:
        bound.close()
        raise UserError(_bind_mistake(host, port, e)) from e


def _bind_mistake(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port: {port} is in use on {host}. Give another --port."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"--port: {port} needs the superuser's rights. Give a --port of 1024 or more."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host: {host} is no address of this machine. Give one, 127.0.0.1 or 0.0.0.0."
    return f"--host {host} --port {port}: cannot be served ({error.strerror})."


@contextlib.contextmanager
def serving(app: Any, bound: socket.socket) -> Iterator[threading.Thread]:
    """Serve an ASGI application in a thread, which lives as long as the server does."""
    import uvicorn

    config = uvicorn.Config(
        app, http=_impatient(), ws="none", lifespan="on", log_level="error", limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
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
    """uvicorn's protocol, but closing connections that stay for `PATIENCE` without a whole head of a request."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        waiting: object = "no look yet"  # the last request, if there was none since

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.look()

        def look(self) -> None:
            idle = self.cycle is None or self.cycle.response_complete
            if idle and self.waiting is self.cycle:
                self.transport.close()
            if not self.transport.is_closing():
                self.waiting = self.cycle if idle else "at work"
                self.loop.call_later(PATIENCE / 2, self.look)

    return Impatient
