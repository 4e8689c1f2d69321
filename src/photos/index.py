"""What the files of an output folder were made from, so that a second run of `deblur.py` does no photo twice and takes
no result of other weights for its own.

The record is `.deblur_index.jsonl` in that folder: one JSON object per line and output, the last one about a file
counts. Lines are only ever appended, each in one write, so a crash or a second run beside this one leaves all others
whole.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.errors import first_few
from src.files import parse_json
from src.formats.weights import sha256_of
from src.photos.files import Job, is_newer, is_whole

NAME = ".deblur_index.jsonl"


def stamp(path: Path) -> dict[str, Any]:
    """Size and time of a file, {} if it is not there: as long as they stay, so does the content."""
    try:
        status = path.stat()
    except OSError:
        return {}
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


class Index:
    """The record of one output folder.

    Args:
        made_by: the weights and all options that shape a result; its values are JSON's. What differs is named to the
            user by its keys.
    """

    def __init__(self, output: Path, made_by: Mapping[str, Any]):
        self.path = output / NAME
        self.made_by = dict(made_by)
        self.problem = ""
        """One line about a damaged record, or ''."""
        self._entries: dict[str, dict[str, Any]] = {}
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except OSError as e:
            self.problem = f"{self.path}: cannot be read ({e.strerror}), so photos are judged by their dates"
            return
        damaged = 0
        for line in filter(None, lines):
            try:
                entry = parse_json(line)
                self._entries[entry["output"]] = {key: dict(entry[key]) for key in ("source", "written", "made_by")}
            except (ValueError, TypeError, KeyError):
                damaged += 1
        if damaged:
            self.problem = (
                f"{self.path}: {damaged} damaged lines are ignored; photos without a record are judged by their dates"
            )

    def add(self, job: Job, before: Mapping[str, Any]) -> str:
        """Record a job that is done; returns a note for the user if that failed.

        Args:
            before: `stamp` of the photo, from before it was read: one that was replaced meanwhile is not done.
        """
        try:
            source = dict(before)
            if stamp(job.source) == before:
                source["sha256"] = sha256_of(job.source)
            text = ""
            for path in job.outputs:
                entry = {"source": source, "written": stamp(path), "made_by": self._made(job)}
                # Each line begins with its own end of line, so that half a line before it spoils nothing.
                text += "\n" + json.dumps({"output": self._key(path), **entry})
            with open(self.path, "ab", buffering=0) as file:
                file.write(text.encode())
        except OSError as e:
            return f"{self.path}: cannot be written ({e.strerror}); a later run judges this photo by its date"
        return ""

    def sort(self, jobs: Sequence[Job]) -> "Sorted":
        """Which jobs are to do, and what is to be said about the others."""
        result = Sorted()
        for job in jobs:
            entries = [self._entry_of(path) for path in job.outputs]
            if not is_whole(job) or any(entry and not _is_of(entry, job.source) for entry in entries):
                result.todo.append(job)
                continue
            if not all(entries):
                if not is_newer(job):
                    result.todo.append(job)
                    continue
                result.by_date.append(job)
            made = self._made(job)
            differing = {
                key for entry in filter(None, entries) for key in made if entry["made_by"].get(key) != made[key]
            }
            if differing:
                result.others.append(job)
                result.differing |= differing
        return result

    def _entry_of(self, path: Path) -> dict[str, Any] | None:
        """What is known about an output, if it is still the file that was written."""
        entry = self._entries.get(self._key(path))
        return entry if entry and entry["written"] == stamp(path) else None

    def _key(self, path: Path) -> str:
        return str(path.relative_to(self.path.parent))

    def _made(self, job: Job) -> dict[str, Any]:
        lossy = job.file_format in ("JPEG", "WEBP")
        return {key: value for key, value in self.made_by.items() if lossy or key != "quality"}


@dataclass
class Sorted:
    """The jobs of a run by what an earlier one has left."""

    todo: list[Job] = field(default_factory=list)
    others: list[Job] = field(default_factory=list)
    """Done, but with other weights or options."""
    differing: set[str] = field(default_factory=set)
    """Which."""
    by_date: list[Job] = field(default_factory=list)
    """Done by their dates; what made them is not recorded."""

    def lines(self) -> list[str]:
        """For the user, about results that may not be what this command would write."""
        lines = []
        if self.others:
            lines.append(
                f"kept, though made with other {', '.join(sorted(self.differing))}: "
                f"{first_few(job.target for job in self.others)} (--overwrite redoes them; another --output keeps both)"
            )
        if self.by_date:
            lines.append(
                f"kept by date, without a record of the weights: {first_few(job.target for job in self.by_date)} "
                "(--overwrite redoes them)"
            )
        return lines


def _is_of(entry: Mapping[str, Any], source: Path) -> bool:
    """Whether an output was made from the photo as it is now; the content is read only if size and time leave doubt."""
    known, now = entry["source"], stamp(source)
    if "sha256" not in known or now.get("size") != known.get("size"):
        return False
    try:
        return now["mtime_ns"] == known.get("mtime_ns") or sha256_of(source) == known["sha256"]
    except OSError:
        return False
