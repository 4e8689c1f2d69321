"""The web page as people meet it: in a real browser, by many at once, and with nothing but this machine to talk to."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image
from real_runs import end, start, wait_for

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="bash scripts/setup.sh --app")
httpx = pytest.importorskip("httpx")  # comes with it
ROOT = Path(__file__).parent.parent
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
RNG = np.random.default_rng(0)

# app.py, telling on standard output whom it calls and how many photos are in work at once.
WATCHED = """
import sys, threading, time
import app
from src.web import page

restore_upload, lock, at_work = page.restore_upload, threading.Lock(), 0

def counted(*args):
    global at_work
    with lock:
        at_work += 1
        print("at work:", at_work, flush=True)
    try:
        return restore_upload(*args)
    finally:
        with lock:
            at_work -= 1

def watch(event, args):
    if event in ("socket.connect", "socket.sendto"):
        print("call:", args[-1], flush=True)
    elif event == "socket.getaddrinfo":
        print("call:", args[0], flush=True)

class Inverting:  # slow enough that a page can be closed meanwhile
    description, bytes_per_pixel, multiple = "inverts", 100, 4

    def __call__(self, images):
        time.sleep(0.3)
        return 1 - images

if "--inverting" in sys.argv:
    sys.argv.remove("--inverting")
    app.open_engine = lambda *args: Inverting()
page.restore_upload = counted
sys.addaudithook(watch)
app.run_main(app.main)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """serve(model, *options) starts the page and returns its url, process, log and temporary folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    started = []

    def run(model, *options):
        port, log = free_port(), tmp_path / "log.txt"
        command = [sys.executable, "-c", WATCHED, "--model", str(model), "--port", str(port), *options]
        with monkeypatch.context() as context:
            context.setenv("TMPDIR", str(temporary))
            context.setenv("PYTHONPATH", str(ROOT))
            process = start(command, tmp_path, log)
        started.append(process)
        wait_for(lambda: "page: " in log.read_text() and listens(port), process, log)
        return SimpleNamespace(url=f"http://127.0.0.1:{port}", process=process, log=log, temporary=temporary, port=port)

    yield run
    for process in started:
        end(process)


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium that saves downloads in `tmp_path`/downloads and remembers its requests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="bash scripts/setup.sh --dev")
    driver = shutil.which("chromedriver")
    if not BROWSER or not driver:
        pytest.skip("no chromium or no chromedriver: bash scripts/setup.sh --system")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    # Its own calls home would be taken for the page's. Without a sandbox it runs for the superuser, too.
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "window-size=1200,1400",
        "disable-background-networking",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    (tmp_path / "downloads").mkdir()
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


class Page:
    """What a person does with the page."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.get(url)

    def find(self, selector):
        return self.browser.find_elements("css selector", selector)

    def wait(self, condition, seconds=60):
        limit = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < limit, self.text()
            time.sleep(0.05)
        return value

    def upload(self, path):
        clear = self.find("#photo button[aria-label=Clear]")
        if clear and not self.find("#photo input[type=file]"):
            clear[0].click()
        self.wait(lambda: self.find("#photo input[type=file]"))[0].send_keys(str(path))

    @property
    def result(self):
        """The button for the download."""
        return self.find("#result")[0]

    def line(self):
        return "".join(e.get_attribute("value") for e in self.find("#line textarea"))

    def text(self):
        return self.find("body")[0].text

    def restore(self, path):
        """Upload, and wait for the line."""
        self.upload(path)
        return self.wait(lambda: self.line() if path.name in self.line() else "")

    def requests(self):
        """The addresses that the browser has asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def deblur(model, *inputs, cwd):
    command = [sys.executable, str(ROOT / "deblur.py"), *map(str, inputs), "--model", str(model), "--output", "out"]
    subprocess.run(command, cwd=cwd, check=True, timeout=120, capture_output=True)
    return Path(cwd) / "out"


def export_onnx(checkpoint, folder):
    command = [sys.executable, str(ROOT / "export.py"), "--export_file_format", "ONNX", "--export_file_name", "tiny"]
    subprocess.run([*command, "--ckpt_file", str(checkpoint)], cwd=folder, check=True, timeout=120, capture_output=True)
    return folder / "tiny.onnx"


def save(path, height=96, width=130, **kwargs):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).save(path, **kwargs)
    return path


def calls(page):
    """Whom the server called, other than this machine."""
    called = [line for line in page.log.read_text().splitlines() if line.startswith("call: ")]
    return [line for line in called if not any(own in line for own in ("127.0.0.1", "localhost"))]


def test_a_photo_through_a_browser(serve, browser, tiny_checkpoint, tmp_path):
    model = export_onnx(tiny_checkpoint, tmp_path)
    exif = Image.Exif()
    exif[0x0112], exif[272] = 6, "Camera 1"
    photos = [
        save(tmp_path / "in" / "Zoë 李 (1) #2.jpg", exif=exif, icc_profile=b"profile"),
        save(tmp_path / "in" / "large.tif", 150, 200),
    ]
    expected = deblur(model, *photos, "--tile", "128", cwd=tmp_path)
    server = serve(
        model, "--tile", "128", "--max_megabytes", "1", "--max_pixels", "200000", "--max_total_megabytes", "20"
    )
    page = Page(browser, server.url)
    page.wait(lambda: page.find("#settings button"))[0].click()
    page.wait(lambda: "up to 1 MB and 0.2 megapixels" in page.text())

    for photo, (width, height) in zip(photos, ((96, 130), (200, 150)), strict=True):
        line = page.restore(photo)
        assert line.startswith(f"{photo.name}: {width}x{height} pixels, ") and line.endswith(" s")
        shown = page.wait(lambda: len(page.find("#slider img")) == 2 and page.find("#slider img"))
        for picture in shown:  # both are there, and the browser can show them
            page.wait(lambda p=picture, w=width: p.get_property("naturalWidth") == w)
        page.wait(page.result.is_displayed)
        page.result.click()
        download = tmp_path / "downloads" / photo.name
        page.wait(lambda file=download: file.exists() and file.stat().st_size)
        assert download.read_bytes() == (expected / photo.name).read_bytes()

    (tmp_path / "notes.txt").write_text("not a photo")
    assert page.restore(tmp_path / "notes.txt") == (
        "error: notes.txt: not a photo; expected the content of a PNG, JPEG, TIFF, WebP, BMP, HEIC or AVIF file"
    )
    assert not page.result.is_displayed() and not page.find("#slider img")
    line = page.restore(save(tmp_path / "wide.png", 100, 2001))
    assert line.startswith("error: wide.png: 2001x100 are 0 megapixels") and "--max_pixels" in line

    with open(tmp_path / "huge.tif", "wb") as file:
        file.truncate(200 * 2**20)
    page.upload(tmp_path / "huge.tif")
    page.wait(lambda: 'exceed the maximum allowed size of 1.0 Mb: "huge.tif"' in page.text())
    (uploads,) = server.temporary.glob("*/uploads")
    with open(uploads / "large", "wb") as file:
        file.truncate(20 * 2**20)
    page.upload(photos[0])
    page.wait(lambda: "There is no room for this upload: the page or its disk is full (limit 20 MB)" in page.text())
    (uploads / "large").unlink()
    assert photos[0].name in page.restore(photos[0])  # and the page goes on

    for width, height in ((1280, 800), (390, 844)):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        browser.get(server.url)
        page.wait(lambda: page.find("#sample"))[0].click()
        page.wait(lambda: "sample.jpg: 480x352 pixels, " in page.line() and page.result.is_displayed())
        for part in ("#slider", "#line", "#result"):  # nothing has to be scrolled
            box = page.find(part)[0].rect
            assert 0 <= box["x"] and box["x"] + box["width"] <= width and box["y"] + box["height"] <= height, part

    # blob: and data: are made by the page itself.
    foreign = {url for url in page.requests() if not url.startswith((server.url, "blob:", "data:"))}
    assert not foreign and calls(server) == []


def test_twenty_uploads_at_once_are_restored_one_by_one(serve, tiny_checkpoint, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    photos = [save(tmp_path / "in" / f"{i}.png") for i in range(20)]
    expected = deblur(tiny_checkpoint, "in", cwd=tmp_path)
    server = serve(tiny_checkpoint)
    client = gradio_client.Client(
        server.url, verbose=False, analytics_enabled=False, download_files=str(tmp_path / "got")
    )
    client.predict(gradio_client.handle_file(str(photos[0])), api_name="/restore")
    before = psutil.Process(server.process.pid).memory_info().rss

    with ThreadPoolExecutor(20) as pool:
        results = list(
            pool.map(lambda p: client.predict(gradio_client.handle_file(str(p)), api_name="/restore"), photos)
        )
    for photo, (_, result, line) in zip(photos, results, strict=True):
        assert line.startswith(f"{photo.name}: 130x96 pixels, ")
        assert Path(result).read_bytes() == (expected / photo.name).read_bytes()
    log = server.log.read_text()
    assert log.count("at work: 1\n") == 21 and log.count("at work:") == 21, "never two at a time"
    assert psutil.Process(server.process.pid).memory_info().rss - before < 200e6
    assert calls(server) == []


def test_200_megabytes_are_refused_while_they_come(serve, tiny_checkpoint, tmp_path):
    """By the server itself: not every sender asks the page first."""
    server = serve(tiny_checkpoint, "--max_megabytes", "10")
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    with open(tmp_path / "huge.tif", "wb") as file:
        file.truncate(200 * 2**20)
    with open(tmp_path / "huge.tif", "rb") as file:
        answer = httpx.post(f"{server.url}/gradio_api/upload", files={"files": file}, timeout=60, trust_env=False)
    assert answer.status_code == 413 and "10485760 bytes" in answer.text
    assert process.memory_info().rss - before < 100e6
    assert sum(f.stat().st_size for f in server.temporary.rglob("*") if f.is_file()) == 0


def cut_upload(port):
    """An upload whose sender goes in the middle."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as s:
        s.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(300_000)
        )


def upload_file(url, path):
    with open(path, "rb") as file:
        answer = httpx.post(f"{url}/gradio_api/upload", files={"files": file}, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def join(url, path, session):
    """Start a restore as the page does; of the sample if `path` is None."""
    photo = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    data, function = ([photo, 95], 0) if path else ([95], 1)
    body = {"data": data, "fn_index": function, "session_hash": session}
    httpx.post(f"{url}/gradio_api/queue/join", json=body, timeout=60, trust_env=False).raise_for_status()
    return httpx.stream("GET", f"{url}/gradio_api/queue/data?session_hash={session}", timeout=60, trust_env=False)


def messages_of(url, path, session):
    with join(url, path, session) as stream:
        return [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]


def answer_of(url, path, session):
    messages = messages_of(url, path, session)
    return next(m["output"] for m in messages if m["msg"] == "process_completed")


def test_aborted_uploads_closed_pages_and_a_killed_server_leave_nothing(serve, tmp_path):
    model = tmp_path / "model.onnx"
    model.touch()
    server = serve(model, "--inverting", "--keep_seconds", "4", "--tile", "256")
    assert "deleted 4 seconds after their last change, within 1 second more" in server.log.read_text()

    def kept():
        return [f for f in server.temporary.glob("*/uploads/*")]

    photo = save(tmp_path / "a.png")
    uploaded = upload_file(server.url, photo)
    assert kept()
    for i in range(20):
        with join(server.url, uploaded, f"closed{i}"):
            pass  # the page is closed
    for _ in range(50):
        cut_upload(server.port)
    started = time.monotonic()
    wait_for(lambda: not kept(), server.process, server.log, timeout=60)
    assert time.monotonic() - started < 30
    assert "at work: 1" in server.log.read_text(), "a page was closed while its photo was restored"

    assert "Traceback" not in server.log.read_text()

    # The page goes on, and takes nothing but what was uploaded to it.
    for path in ("/etc/hostname", f"{server.url}/theme.css", "http://192.0.2.1/a.png"):
        assert "data" not in answer_of(server.url, path, "curious"), path
    assert answer_of(server.url, uploaded, "late")["data"] == [
        None, None, "error: the photo is no longer here, after 4 seconds it is deleted; upload it again"
    ]  # fmt: skip
    _, result, line = answer_of(server.url, upload_file(server.url, photo), "good")["data"]
    assert line.startswith("a.png: 130x96 pixels, ") and Path(result["path"]).is_file()
    messages = messages_of(server.url, None, "sample")
    bars = [bar for m in messages for bar in m.get("progress_data") or [] if bar["length"] == 4]
    assert bars and all(bar["unit"] == "tiles" and 0 < bar["index"] <= 4 for bar in bars)
    assert any(bar["desc"] == "about 1 second left" for bar in bars), "the page tells how long it takes"
    assert calls(server) == []

    end(server.process)  # kill -9
    assert len(os.listdir(server.temporary)) == 1 and kept()
    left = os.listdir(server.temporary)
    second = serve(model, "--inverting")
    assert left != os.listdir(server.temporary) and len(os.listdir(server.temporary)) == 1
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(30) == 143 and os.listdir(server.temporary) == []


@pytest.mark.parametrize("number, status", [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_the_end_leaves_nothing_behind(serve, tiny_checkpoint, tmp_path, number, status):
    gradio_client = pytest.importorskip("gradio_client")
    server = serve(tiny_checkpoint)
    client = gradio_client.Client(server.url, verbose=False, analytics_enabled=False, download_files=False)
    client.predict(gradio_client.handle_file(str(save(tmp_path / "a.png"))), api_name="/restore")
    assert any(server.temporary.rglob("a.png"))
    server.process.send_signal(number)
    assert server.process.wait(30) == status
    assert os.listdir(server.temporary) == [] and "Traceback" not in server.log.read_text()


def test_only_this_machine_is_served_and_a_taken_port_is_reported(serve, tiny_checkpoint):
    server = serve(tiny_checkpoint)
    listening = [c.laddr for c in psutil.Process(server.process.pid).net_connections() if c.status == "LISTEN"]
    assert listening == [("127.0.0.1", server.port)]
    command = [sys.executable, str(ROOT / "app.py"), "--model", str(tiny_checkpoint), "--port", str(server.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr == f"error: --port: {server.port} is in use on 127.0.0.1. Give another --port.\n"
