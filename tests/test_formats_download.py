import contextlib
import functools
import hashlib
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from conftest import DATA, full_disk
from gdown.exceptions import FileURLRetrievalError

import convert
from src.checkpoint import read_checkpoint
from src.config import ROOT
from src.errors import UserError
from src.files import NoRoom
from src.formats.download import PUBLISHED, default_target, fetch
from src.formats.weights import sha256_of

CONTENT = (DATA / "mimo_unet_torch.pkl").read_bytes()  # random weights in the authors' format
BLOB = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """In place of Google Drive: answers with `status` and `content`, of which each connection delivers `sent` bytes."""

    content, status, sent = CONTENT, 200, sys.maxsize

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server_port}"
        self.requests = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        content, total, status = self.server.content, len(self.server.content), self.server.status
        start = int(re.match(r"bytes=(\d+)", self.headers.get("Range", "bytes=0"))[1])
        self.send_response(206 if start else status)
        self.send_header("Content-Length", str(total - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has closed the connection
            self.wfile.write(content[start : start + self.server.sent])

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(convert, "fetch", functools.partial(fetch, base=server.base))
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    """Retries follow at once."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0)


def refusal(*words):
    """The one line of a refused download."""
    with pytest.raises(UserError) as caught:
        convert.main([str(word) for word in words])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def failure(path, base, name="MIMO-UNet"):
    """The one line of a download that fails: it has the link for a browser, and nothing is left."""
    with pytest.raises(UserError) as caught:
        fetch(name, path, base)
    assert "\n" not in str(caught.value) and PUBLISHED[name].link in str(caught.value)
    assert not list(path.parent.iterdir())
    return str(caught.value)


# ---- the table


def test_table_is_that_of_the_readme():
    text = (ROOT / "weights_pretrained/README.md").read_text()
    row = r"\| \[(.*)\.pkl\]\((\S+)\?usp=sharing\) \| `(.*)` \| `(.*)` \| GoPro \| (.*) dB \|"
    rows = [(name, variant, link, target, float(psnr)) for name, link, variant, target, psnr in re.findall(row, text)]
    assert rows == [(name, name, p.link, default_target(name).name, p.psnr) for name, p in PUBLISHED.items()]


@pytest.mark.parametrize("file", ["README.md", "README_CN.md", "weights_pretrained/README.md"])
def test_readmes_have_the_command(file):
    assert "python convert.py --download MIMO-UNet" in (ROOT / file).read_text()


# ---- the download


@pytest.mark.parametrize("known", [True, False])
def test_download_and_conversion(cpu, server, tmp_path, monkeypatch, capsys, known):
    if known:
        monkeypatch.setitem(PUBLISHED, "MIMO-UNet", PUBLISHED["MIMO-UNet"]._replace(blob=BLOB))
    target, saved = tmp_path / "new" / "a.ckpt", tmp_path / "new" / "MIMO-UNet.pkl"
    convert.main(["--download", "MIMO-UNet", str(target)])
    assert server.requests == [(f"/uc?id={PUBLISHED['MIMO-UNet'].drive_id}", None)]
    assert saved.read_bytes() == CONTENT and sorted(target.parent.iterdir()) == sorted([target, saved])
    assert read_checkpoint(target)[1]["source"] == "MIMO-UNet.pkl"
    lines = capsys.readouterr().out.splitlines()
    copy = "is the known copy" if known else f"differs from the known copy, {PUBLISHED['MIMO-UNet'].blob}"
    assert lines[1] == f"git blob id of MIMO-UNet.pkl: {BLOB}; the file {copy}"
    assert f"sha256 of MIMO-UNet.pkl: {sha256_of(saved)}" in lines
    assert lines[-1].startswith("published score: 31.73 dB ")


def test_target_is_optional(server, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("src.formats.download.ROOT", tmp_path)
    monkeypatch.setattr(convert, "convert", lambda *words: done.append(words))
    convert.main(["--download=MIMO-UNetPlus"])
    folder = tmp_path / "weights_pretrained"
    assert done == [(folder / "MIMO-UNetPlus.pkl", folder / "MIMO-UNetPlus_pytorch_weights.ckpt", "ema")]


def test_broken_connection_is_continued(server, tmp_path):
    server.content = CONTENT * 20  # gdown keeps whole parts of 512 KiB
    server.sent = 1_200_000
    fetch("MIMO-UNet", tmp_path / "a.pkl", server.base)
    assert [start for _, start in server.requests] == [None, f"bytes={2**20}-"]
    assert (tmp_path / "a.pkl").read_bytes() == server.content


def test_partial_file_is_removed(server, tmp_path):
    server.sent = 1000
    text = failure(tmp_path / "a.pkl", server.base)
    assert len(server.requests) == 3 and f"the server announced {len(CONTENT)} bytes. Try again later" in text
    assert ".part" not in text  # the temporary file is gone


def test_page_in_place_of_the_file(server, tmp_path):
    server.content = b"\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
    assert "sent a page instead of the file" in failure(tmp_path / "a.pkl", server.base)


def test_page_that_gdown_recognises(server, tmp_path, monkeypatch):
    def no_link(url, output, retries, **options):
        raise FileURLRetrievalError("Failed to retrieve file url:\n\n\tToo many users\n")

    monkeypatch.setattr("gdown.download", no_link)
    assert "sent a page instead of the file" in failure(tmp_path / "a.pkl", server.base)


def test_missing_file(server, tmp_path):
    server.status = 404
    assert "404 Client Error" in failure(tmp_path / "a.pkl", server.base)


def test_no_network(server, tmp_path):
    server.shutdown()
    server.server_close()
    text = failure(tmp_path / "a.pkl", server.base)
    assert text.startswith(f"--download MIMO-UNet: no connection to {server.base} (ConnectionError). ")


def test_disk_that_fills_up(server, tmp_path):
    with full_disk(len(CONTENT) // 2), pytest.raises(NoRoom, match=r"MIMO-UNet\.pkl \(File too large"):
        fetch("MIMO-UNet", tmp_path / "MIMO-UNet.pkl", server.base)
    assert not list(tmp_path.iterdir())


def test_file_that_is_no_network(cpu, server, tmp_path):
    server.content = b"not a pickle"
    assert "is damaged, cut off or not a PyTorch file" in refusal("--download", "MIMO-UNet", tmp_path / "a.ckpt")
    assert [p.name for p in tmp_path.iterdir()] == ["MIMO-UNet.pkl"]


# ---- the command line


@pytest.mark.parametrize(
    "name,nearest",
    [
        ("mimo-unet", "MIMO-UNet"),
        ("MIMO-UNetPlsu", "MIMO-UNetPlus"),
        ("MIMO-UNet+", "MIMO-UNetPlus"),
        ("MIMO-UNet++", "MIMO-UNetPlus"),
        ("x", ""),
    ],
)
def test_unknown_name(name, nearest):
    hint = f" Did you mean {nearest}?" if nearest else ""
    expected = f"--download: got {name!r}, expected MIMO-UNet or MIMO-UNetPlus.{hint}"
    assert refusal("--download", name) == expected


def test_bad_targets(server, tmp_path):
    assert "expected only TARGET" in refusal("a.pkl", "b.ckpt", "--download", "MIMO-UNet")
    assert "expected only TARGET" in refusal("--download", "MIMO-UNet", "a.pkl", "b.ckpt")
    assert "--help" in refusal("a.pkl", "--download", "MIMO-UNet", "b.ckpt")
    assert "expected a file name that ends with .ckpt" in refusal("--download", "MIMO-UNet", tmp_path / "a.onnx")
    (tmp_path / "b.ckpt").mkdir()
    assert "is a folder" in refusal("--download", "MIMO-UNet", tmp_path / "b.ckpt")
    (tmp_path / "a.ckpt").write_bytes(b"precious")
    assert "exists. Add --overwrite" in refusal("--download", "MIMO-UNet", tmp_path / "a.ckpt")
    assert f"cannot write into {tmp_path / 'a.ckpt'}" in refusal("--download", "MIMO-UNet", tmp_path / "a.ckpt/c.ckpt")
    assert "Choose different paths" in refusal("--download", "MIMO-UNet", tmp_path / "MIMO-UNet.pkl")
    assert not server.requests


def test_earlier_download_is_kept(server, tmp_path):
    saved, target = tmp_path / "MIMO-UNet.pkl", tmp_path / "a.ckpt"
    saved.write_bytes(b"precious")
    text = refusal("--download", "MIMO-UNet", target)
    assert text.endswith(
        f"{saved} exists. Add --overwrite to replace it, or convert it: python convert.py {saved} {target}"
    )
    assert saved.read_bytes() == b"precious" and not server.requests


@pytest.mark.parametrize(
    "module,problem",
    [
        (None, ", which is not installed"),
        (SimpleNamespace(download=lambda url, output: None), " 6.5 or later; the installed version is older"),
    ],
)
def test_without_gdown(tmp_path, monkeypatch, module, problem):
    monkeypatch.setitem(sys.modules, "gdown", module)
    expected = f'--download needs gdown{problem}: pip install "gdown>=6.5,<7"'
    assert refusal("--download", "MIMO-UNet", tmp_path / "a.ckpt") == expected
    assert "gdown>=6.5,<7 " in (ROOT / "requirements-torch.txt").read_text()
