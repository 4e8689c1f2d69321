"""What outputs were made from: which photos a second run does."""

import json
import os

import pytest

from src.photos.index import NAME, Index, stamp
from src.photos.jobs import Job
from tests.photos import RGB, save

MADE_BY = {"weights": "a", "quality": 95}


@pytest.fixture
def job(tmp_path):
    """A photo, its output and its strip, recorded."""
    job = Job(save(tmp_path / "a.png"), tmp_path / "out/a.png", "PNG", tmp_path / "out/a_compare.png")
    for path in job.outputs:
        save(path)
    assert Index(job.target.parent, MADE_BY).add(job, stamp(job.source)) == ""
    return job


def sort(job, made_by=MADE_BY):
    return Index(job.target.parent, made_by).sort([job])


def test_done_and_recorded(job):
    done = sort(job)
    assert (done.todo, done.lines()) == ([], [])
    lines = [json.loads(line) for line in (job.target.parent / NAME).read_text().split("\n") if line]
    assert [line["output"] for line in lines] == ["a.png", "a_compare.png"]


def test_a_strip_of_other_weights_is_named(job):
    """The photo is made again without its strip, by other weights."""
    other = {"weights": "b", "quality": 95}
    Index(job.target.parent, other).add(Job(job.source, job.target, "PNG"), stamp(job.source))
    assert "other weights: " in sort(job, other).lines()[0] and "other weights: " in sort(job).lines()[0]


def test_a_photo_that_changes_while_it_is_restored_is_not_done(job):
    before = stamp(job.source)
    save(job.source, 255 - RGB)
    Index(job.target.parent, MADE_BY).add(job, before)
    assert sort(job).todo == [job]


def test_half_a_line_spoils_no_other(job):
    index = job.target.parent / NAME
    index.write_bytes(index.read_bytes()[:-9])  # the strip's record is cut off
    damaged = Index(job.target.parent, MADE_BY)
    assert "1 damaged lines" in damaged.problem and damaged.sort([job]).by_date == [job]
    damaged.add(job, stamp(job.source))
    assert sort(job).lines() == []


def test_an_output_that_was_edited_is_kept(job):
    save(job.target, 255 - RGB)
    assert sort(job).todo == [] and sort(job).by_date == [job]


def test_content_decides_where_dates_differ(job, monkeypatch):
    """A photo that was replaced by an older one of its size is redone; unchanged photos are not even read."""
    data = job.source.read_bytes()
    job.source.write_bytes(data[:-1] + b"x")
    os.utime(job.source, (1, 1))
    assert sort(job).todo == [job]
    job.source.write_bytes(data)
    assert sort(job).todo == []  # the same photo, copied again
    Index(job.target.parent, MADE_BY).add(job, stamp(job.source))
    monkeypatch.setattr("src.photos.index.sha256_of", None)
    assert sort(job).todo == []
