"""The gate in front of the web page, and the mistakes of --host and --port."""

import asyncio
import errno
import socket
import tempfile
import time
from types import SimpleNamespace

import pytest

from src.errors import UserError
from src.web import server as web_server
from src.web.folder import WebFolder
from src.web.server import API, ENVELOPE, FILE, UPLOAD, Gate, HostNames, open_socket, serving

BIG = 2**16
LOCAL = HostNames("127.0.0.1")


async def page(scope, receive, send):
    """Writes what comes into a half upload, as Gradio does, and answers its size."""
    size, more = 0, True
    if scope["path"] == UPLOAD:
        (scope["uploads"] / "tmp_half").touch()
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RuntimeError("ClientDisconnect")
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """ask(path, ...) -> status and text of the answer of a gate that takes photos of `BIG` bytes, 10 in all."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with WebFolder(60, 10 * BIG) as folder:

        def run(path, method="GET", host="localhost:7860", chunks=(b"",), names=LOCAL, pause=0, **headers):
            gate = Gate(page, names, folder, BIG)
            parts = iter(
                [
                    *({"type": "http.request", "body": c, "more_body": True} for c in chunks[:-1]),
                    {"type": "http.request", "body": chunks[-1], "more_body": False},
                ]
            )
            sent = []

            async def receive():
                await asyncio.sleep(pause)
                return next(parts, {"type": "http.disconnect"})

            async def send(message):
                sent.append(message)

            pairs = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
            scope = {
                "type": "http",
                "method": method,
                "path": path,
                "uploads": folder.uploads,
                "headers": [(n.encode(), v.encode()) for n, v in pairs.items()],
            }
            asyncio.run(gate(scope, receive if chunks[-1] is not None else cut(chunks), send))
            text = b"".join(m.get("body", b"") for m in sent).decode()
            assert not [p for p in folder.uploads.iterdir() if p.is_file()], "half an upload was left"
            return (sent[0]["status"] if sent else None), text

        run.folder = folder
        yield run


def cut(chunks):
    """`receive` of a sender whose connection breaks after the chunks."""
    parts = iter(chunks[:-1])

    async def receive():
        chunk = next(parts, None)
        return (
            {"type": "http.disconnect"} if chunk is None else {"type": "http.request", "body": chunk, "more_body": True}
        )

    return receive


def test_the_page_is_served_under_its_own_names_only(ask, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Desk")
    everywhere, lan, proxy = (
        HostNames("0.0.0.0"),
        HostNames("192.168.1.5"),
        HostNames("127.0.0.1", ["photos.example.org"]),
    )
    for host in ("localhost", "localhost:7860", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST:7860"):
        assert ask("/", host=host)[0] == 200, host
    for host, names in (
        ("192.168.1.5:7860", lan),
        ("10.0.0.9:7860", everywhere),
        ("[fe80::1]:7860", HostNames("::")),
        ("desk:7860", everywhere),
        ("desk.local", everywhere),
        ("photos.example.org", proxy),
    ):
        assert ask("/", host=host, names=names)[0] == 200, host
    for host, names in (
        ("evil.example", everywhere),
        ("localhost.evil.example:7860", lan),
        ("10.0.0.9:7860", lan),
        ("", everywhere),
        ("[", everywhere),
        ("photos.example.org", lan),
    ):
        status, line = ask("/", host=host, names=names)
        assert status == 403 and line.count("\n") == 1 and repr(host) in line and "--allowed_host" in line, host
    with pytest.raises(UserError, match="--allowed_host: got https://a.org, expected a name"):
        HostNames("127.0.0.1", ["https://a.org"])


def test_requests_from_other_pages_are_refused(ask):
    proxy = HostNames("127.0.0.1", ["photos.example.org"])
    assert ask(UPLOAD, "POST", origin="http://localhost:7860")[0] == 200
    assert ask(UPLOAD, "POST", origin="https://photos.example.org", names=proxy)[0] == 200
    for origin in ("http://evil.example", "http://localhost:3000", "https://photos.example.org", "null", ""):
        status, line = ask(UPLOAD, "POST", origin=origin)
        assert status == 403 and line.count("\n") == 1 and repr(origin) in line


def test_what_the_page_does_not_need_is_switched_off(ask):
    for path in ("/", "/config", "/assets/a.js", "/theme.css", f"{API}queue/data", f"{API}heartbeat/abc"):
        assert ask(path)[0] == 200, path
    for method, path in (
        ("POST", f"{API}process_recording"),
        ("POST", f"{API}component_server"),
        ("GET", "/docs"),
        ("GET", f"{API}proxy=http://a"),
        ("GET", f"{API}file/etc/passwd"),
        ("POST", f"{API}vibe-edit"),
        ("GET", f"{API}openapi.json"),
        ("POST", f"{API}run/restore"),
        ("GET", f"{API}call/a/b"),
        ("GET", "/monitoring"),
        ("OPTIONS", "/"),
        ("DELETE", "/"),
        ("GET", UPLOAD),
        ("POST", "/"),
        ("GET", f"{API}runs"),
        ("POST", "/login"),
        ("POST", f"{API}stream/1"),
    ):
        assert ask(path, method) == (404, "The page has nothing at this address.\n"), path


def test_only_whole_files_of_the_folder_are_handed_out(ask):
    kept = ask.folder.uploads / "abc" / "photo.jpg"
    kept.parent.mkdir()
    kept.touch()
    assert ask(f"{FILE}{kept}")[0] == 200 and ask(f"{FILE}{kept}", "HEAD")[0] == 200
    for path in ("/etc/passwd", "http://127.0.0.1/a", f"{kept.parent}/../../../x", ask.folder.uploads / "tmp_half"):
        assert ask(f"{FILE}{path}")[0] == 404, path


def test_too_large_is_answered_with_413(ask):
    assert ask(UPLOAD, "POST", chunks=[bytes(BIG)], content_length=str(BIG)) == (200, str(BIG))
    line = f"The upload is larger than {BIG} bytes; --max_megabytes of app.py sets that.\n"
    assert ask(UPLOAD, "POST", content_length=str(BIG + ENVELOPE + 1)) == (413, line)
    # Without a length, and for a request that is no upload.
    assert ask(UPLOAD, "POST", chunks=[bytes(BIG)] * 9, transfer_encoding="chunked") == (413, line)
    status, line = ask(f"{API}queue/join", "POST", chunks=[bytes(2**19)] * 3)
    assert status == 413 and line.count("\n") == 1


def test_too_much_is_answered_with_507(ask):
    other = ask.folder.uploads / "abc" / "photo.jpg"
    other.parent.mkdir()
    other.write_bytes(bytes(9 * BIG))
    status, line = ask(UPLOAD, "POST", chunks=[bytes(BIG)], content_length=str(BIG))
    reason = "the page or its disk is full (limit 0.625 MB); try again in 1 minute at the latest"
    assert status == 507 and line == f"There is no room for this upload: {reason}.\n"
    assert ask(UPLOAD, "POST", chunks=[bytes(10)], content_length="10") == (200, "10")
    with ask.folder.receiving(BIG // 2):
        assert ask.folder.room() < BIG // 2  # what is announced counts before it comes


def test_slow_uploads_are_ended(ask, monkeypatch):
    monkeypatch.setattr(web_server, "PATIENCE", 0.2)
    started = time.monotonic()
    status, line = ask(UPLOAD, "POST", chunks=[b"x"] * 20, pause=0.05)
    assert status == 408 and line.count("\n") == 1 and "20000 bytes per second" in line
    assert time.monotonic() - started < 5
    assert ask(UPLOAD, "POST", chunks=[bytes(4000)] * 10, pause=0.05)[0] == 200  # slower than that, but steady


def test_a_broken_connection_is_no_error(ask):
    assert ask(UPLOAD, "POST", chunks=[b"half", None]) == (None, "")


# ---- the server


def test_mistakes_of_host_and_port_are_named(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"^--port: {port} is in use on 127.0.0.1. Give another --port.$"):
            open_socket("127.0.0.1", port)
    with pytest.raises(UserError, match=r"^--host: 192.0.2.1 is no address of this machine."):
        open_socket("192.0.2.1", port)
    with pytest.raises(UserError, match=r"^--host: a..b does not resolve \(no host name\)"):
        open_socket("a..b", port)

    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def forbidden(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as context:
        context.setattr(socket, "getaddrinfo", unknown)
        with pytest.raises(UserError, match=r"^--host: no.where does not resolve \(Name or service not known\)"):
            open_socket("no.where", port)
    monkeypatch.setattr(web_server.socket, "socket", type("Socket", (socket.socket,), {"bind": forbidden}))
    with pytest.raises(UserError, match=r"^--port: 80 needs the superuser's rights. Give a --port of 1024 or more.$"):
        open_socket("127.0.0.1", 80)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "::1", "0.0.0.0"])
def test_hosts_that_can_be_served(host):
    try:
        with open_socket(host, 0) as bound:
            assert bound.getsockname()[1]
    except UserError:
        if ":" not in host or socket.has_dualstack_ipv6():
            raise


def test_connections_that_ask_nothing_are_closed(monkeypatch):
    pytest.importorskip("uvicorn", reason="bash scripts/setup.sh --app")
    monkeypatch.setattr(web_server, "PATIENCE", 0.4)
    with open_socket("127.0.0.1", 0) as bound, serving(bare, bound):
        address = bound.getsockname()
        with socket.create_connection(address) as silent, socket.create_connection(address) as half:
            half.sendall(b"GET / HTTP/1.1\r\nHost: local")
            with socket.create_connection(address) as good:
                good.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                time.sleep(1)  # longer at work than a silent one may be
                good.settimeout(10)
                assert good.recv(1000).startswith(b"HTTP/1.1 200")
            for connection in (silent, half):
                connection.settimeout(10)
                assert connection.recv(1000) == b""


async def bare(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    await asyncio.sleep(0.9)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def test_the_answer_reaches_who_still_sends(tmp_path, monkeypatch):
    pytest.importorskip("uvicorn", reason="bash scripts/setup.sh --app")
    gate = Gate(bare, HostNames("127.0.0.1"), SimpleNamespace(), BIG)
    with open_socket("127.0.0.1", 0) as bound, serving(gate, bound):
        with socket.create_connection(bound.getsockname()) as sender:
            size = 2**24
            sender.sendall(f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
            sender.sendall(bytes(size))
            sender.settimeout(10)
            assert sender.recv(1000).startswith(b"HTTP/1.1 413")
