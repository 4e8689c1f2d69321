"""The paper's authors' weights, which `convert.py --download` fetches from their Google Drive."""

import hashlib
import shlex
import sys
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from src.config import ROOT
from src.errors import UserError, reason_of
from src.files import whole_file

DRIVE = "https://drive.google.com"


class Published(NamedTuple):
    """A row of the table in weights_pretrained/README.md; a test compares the two.

    Args:
        drive_id: of the file in Google Drive.
        psnr: in dB on the GoPro test set, from the paper.
        blob: the git blob id of a known copy, 40 hexadecimal digits; '' = none is known.
    """

    drive_id: str
    psnr: float
    blob: str = ""

    @property
    def link(self) -> str:
        """The address for a browser."""
        return f"{DRIVE}/file/d/{self.drive_id}/view"


PUBLISHED = {
    "MIMO-UNet": Published("1EQJoQj3YMLFfzrbgzWMD3Xj96RqLdIlx", 31.73, "576346030a9862cdd0a7dfdfc44858880c3d8a76"),
    "MIMO-UNetPlus": Published("166sufeHcdDTgXHNbCRzTC4T6DzuflB5m", 32.45),
}


def default_target(name: str) -> Path:
    """The checkpoint that a download is converted to unless the user gives TARGET."""
    return ROOT / "weights_pretrained" / f"{name}_pytorch_weights.ckpt"


def import_gdown() -> Any:
    """The module `gdown`, or a UserError with the command that installs it."""
    command = 'pip install "gdown>=6.5,<7"'
    try:
        import gdown
    except ImportError as e:
        raise UserError(f"--download needs gdown, which is not installed: {command}") from e
    if "retries" not in signature(gdown.download).parameters:
        raise UserError(f"--download needs gdown 6.5 or later; the installed version is older: {command}")
    return gdown


def fetch(name: str, path: Path, base: str = DRIVE) -> None:
    """Download the authors' PyTorch file of a variant completely or not at all, and print whether it is the known copy.

    Args:
        name: a key of `PUBLISHED`.
        path: the file to write; an existing one is replaced.
        base: the server, which receives a request for /uc?id=...

    Raises:
        UserError: gdown is missing, the server cannot be reached or sends something else, or as `whole_file`.
    """
    gdown = import_gdown()
    from requests import exceptions  # gdown depends on it

    published = PUBLISHED[name]
    by_hand = (
        f"Try again later, or open {published.link} in a browser, save the file and convert it: "
        f"python convert.py {shlex.quote(str(path))} TARGET"
    )
    page = f"{base} sent a page instead of the file, as Google Drive does after too many downloads"
    with whole_file(path) as part:
        try:
            gdown.download(
                f"{base}/uc?id={published.drive_id}",
                str(part),
                quiet=not sys.stderr.isatty(),
                use_cookies=False,  # neither reads nor writes a file in the home folder
                log_messages={"output": f"To: {path}\n"},  # instead of the temporary name
                timeout=30,
                retries=2,  # continue where the connection broke
            )
        except gdown.exceptions.FileURLRetrievalError as e:
            raise UserError(f"--download {name}: {page}. {by_hand}") from e
        except (gdown.exceptions.DownloadError, exceptions.RequestException) as e:
            cause = e.__cause__ or e
            if isinstance(cause, exceptions.ConnectionError | exceptions.Timeout):
                reason = f"no connection to {base} ({type(cause).__name__})"
            else:
                reason = reason_of(Exception(str(e).split("\n")[0])).rstrip(".")  # the rest names the temporary file
            raise UserError(f"--download {name}: {reason}. {by_hand}") from e
        content = part.read_bytes()
        if content[:1000].lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise UserError(f"--download {name}: {page}. {by_hand}")

    print(f"{path}: {len(content) / 1e6:.1f} MB downloaded")
    if published.blob:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        is_known = "is the known copy" if blob == published.blob else f"differs from the known copy, {published.blob}"
        print(f"git blob id of {path.name}: {blob}; the file {is_known}")
