"""A record of what the files in an output folder were made from, so that a second run of `deblur.py` restores no photo
twice and notices results of other weights.

The record is `.deblur_index.jsonl` in that folder, with one JSON object per line and output; the last line about a file
counts. Lines are only appended, each in one write, so that neither a crash nor a simultaneous run damages the others.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.errors import first_few
from src.files import parse_json
from src.formats.weights import sha256_of
from src.photos.jobs import Job, is_complete, is_newer

NAME = ".deblur_index.jsonl"


def stamp(path: Path) -> dict[str, Any]:
    """Size and time of a file, {} if it does not exist. If they are unchanged, so is the content."""
    try:
        status = path.stat()
    except OSError:
        return {}
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


class Index:
    """The record of one output folder.

    Args:
        made_by: the weights and all options that affect a result, as JSON values. Messages name differences by key.
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
        """Record a finished job; returns a note for the user if that failed.

        Args:
            before: `stamp` of the photo from before it was read: a photo that was replaced meanwhile is not finished.
        """
        try:
            source = dict(before)
            if stamp(job.source) == before:
                source["sha256"] = sha256_of(job.source)
            text = ""
            for path in job.outputs:
                entry = {"source": source, "written": stamp(path), "made_by": self._made(job)}
                # Each line begins with an end of line, so that an incomplete line before it does no harm.
                text += "\n" + json.dumps({"output": self._key(path), **entry})
            with open(self.path, "ab", buffering=0) as file:
                file.write(text.encode())
        except OSError as e:
            return f"{self.path}: cannot be written ({e.strerror}); a later run judges this photo by its date"
        return ""

    def sort(self, jobs: Sequence[Job]) -> "EarlierResults":
        """Split jobs by what an earlier run left."""
        result = EarlierResults()
        for job in jobs:
            entries = [self._entry_of(path) for path in job.outputs]
            changed = any(entry and not _is_of(entry, job.source) for entry in entries)
            if changed or not is_complete(job) or not (all(entries) or is_newer(job)):
                result.todo.append(job)
                continue
            if not all(entries):
                result.by_date.append(job)
            made = self._made(job)
            known = [entry["made_by"] for entry in entries if entry]
            if differing := {key for key in made for other in known if other.get(key) != made[key]}:
                result.others.append(job)
                result.differing |= differing
        return result

    def _entry_of(self, path: Path) -> dict[str, Any] | None:
        """The record of an output, if the file is still the one that was written."""
        entry = self._entries.get(self._key(path))
        return entry if entry and entry["written"] == stamp(path) else None

    def _key(self, path: Path) -> str:
        return str(path.relative_to(self.path.parent))

    def _made(self, job: Job) -> dict[str, Any]:
        unused = {"quality"} if job.is_video else {"video_quality"}
        if job.file_format not in ("JPEG", "WEBP"):
            unused.add("quality")
        return {key: value for key, value in self.made_by.items() if key not in unused}


@dataclass
class EarlierResults:
    """The jobs of a run by what an earlier one left."""

    todo: list[Job] = field(default_factory=list)
    others: list[Job] = field(default_factory=list)
    """Finished, but with other weights or options."""
    differing: set[str] = field(default_factory=set)
    """Those options."""
    by_date: list[Job] = field(default_factory=list)
    """Finished according to their dates, without a record."""

    def lines(self) -> list[str]:
        """Messages about results that may differ from what this command would write."""
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
    """Whether an output was made from the photo as it is now. The content is read only if size and time leave doubt."""
    known, now = entry["source"], stamp(source)
    if "sha256" not in known or now.get("size") != known.get("size"):
        return False
    try:
        return now["mtime_ns"] == known.get("mtime_ns") or sha256_of(source) == known["sha256"]
    except OSError:
        return False
