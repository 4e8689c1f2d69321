"""Which photos are meant, what their outputs are called, which are done."""

import os
from pathlib import Path

import pytest
from PIL import Image

from src.errors import UserError
from src.photos.jobs import NO_FILE, Job, find_photos, is_complete, is_newer, nearest_file, plan
from tests.photos import RGB, files, save

# ---- finding


def names(found):
    return [str(source.name) for source in found.sources]


def test_natural_order_and_no_photo_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("10.png", "2.png", "1.png", "sub/3.png"):
        save(f"in/{name}")
    found = find_photos(["in", "in/2.png", str(tmp_path / "in/10.png"), "in/../in/1.png"], Path("out"))
    assert names(found) == ["1.png", "2.png", "10.png", "sub/3.png"]


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.jpg", "x/c.png", "x/y/d.png", "out/e.png", "odd[1].png"):
        save(f"in/{name}")
    Path("in/notes.txt").touch()
    out = Path("in/out")
    assert names(find_photos(["in/*.png"], out)) == ["a.png", "odd[1].png"]
    assert names(find_photos(["in/**/*.png"], out)) == ["a.png", "odd[1].png", "x/c.png", "x/y/d.png"]
    assert sorted(names(find_photos(["in/**"], out))) == ["a.png", "b.jpg", "odd[1].png", "x/c.png", "x/y/d.png"]
    assert names(find_photos(["in/*"], out)) == ["a.png", "b.jpg", "odd[1].png", "x/c.png", "x/y/d.png"]
    assert names(find_photos(["in/?/*.png"], out)) == ["x/c.png"]
    assert names(find_photos(["in/odd[1].png"], out)) == ["odd[1].png"]  # a file of that very name
    assert names(find_photos([str(tmp_path / "in/[ab].*")], out)) == ["a.png", "b.jpg"]


def test_links_are_followed_but_not_in_circles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("in/a.png")
    save("elsewhere/b.png")
    Path("in/link").symlink_to("../elsewhere")
    Path("in/back").symlink_to("../in")
    Path("elsewhere/up").symlink_to("../in")
    Path("in/self.png").symlink_to("self.png")
    found = find_photos(["in"], Path("out"))
    assert names(found) == ["a.png", "self.png", "link/b.png"]
    (line,) = found.lines()
    assert line.startswith("passed over, a link to a folder") and line.endswith(": in/back, in/link/up")


def test_what_is_left_out_is_counted_by_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("in/a.png")
    save("in/.b.png")
    for name in ("b.gif", "sub/c.GIF", "d.psd", "README", ".hidden.gif", "other/e.raw"):
        Path("in", name).parent.mkdir(exist_ok=True)
        Path("in", name).touch()
    found = find_photos(["in", "in/*", "in/.[bh]*", "in/d.psd"], Path("out"))
    assert names(found) == ["a.png", ".b.png", "d.psd"]  # a file given by its name is taken
    assert found.lines() == ["left out: 2 .gif, 1 .raw, 1 without suffix"]
    assert find_photos(["in/a.png"], Path("out")).lines() == []
    for given, words in (("in/other", "no photo or video in it"), ("in/other/*", "matches no photo or video")):
        with pytest.raises(UserError, match=rf"{words} \(got 1 .raw\); expected files ending in .png"):
            find_photos([given], Path("out"))


def test_pipes_are_named_and_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("in/a.png")
    os.mkfifo("in/pipe.png")
    os.mkfifo("pipe")
    Path("in/link.png").symlink_to("../pipe")
    for given in (["in"], ["in/*"]):
        found = find_photos(given, Path("out"))
        assert names(found) == ["a.png"] and found.failures == []
        assert found.lines() == [f"passed over, {NO_FILE}: in/link.png, in/pipe.png"]
    assert find_photos(["pipe", "in/a.png"], Path("out")).failures == [f"pipe: {NO_FILE}"]


def test_the_nearest_name_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("photos/walk.png")
    assert nearest_file(Path("photos/wlak.png")).strip() == f"Did you mean photos{os.sep}walk.png?"
    assert nearest_file(Path("phoots/sub/walk.png")).strip() == "Did you mean photos?"
    assert nearest_file(Path("photos/xyz")) == ""


# ---- naming


def planned(inputs, file_format="", output="out"):
    Path(output).mkdir(exist_ok=True)
    jobs, lines = plan(find_photos(inputs, Path(output)).sources, Path(output), file_format)
    return {str(job.source): str(job.target.relative_to(output)) for job in jobs}, "; ".join(lines)


def test_one_name_in_another_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "a.jpg", "a.bmp", "b.jpg", "a_2.png"):
        save(f"in/{name}")
    assert planned(["in"])[1] == ""
    targets, line = planned(["in"], "PNG")
    expected = {"in/a.png": "a.png", "in/a.bmp": "a_3.png", "in/a.jpg": "a_4.png", "in/b.jpg": "b.png"}
    assert targets == expected | {"in/a_2.png": "a_2.png"}
    assert line == "outputs of one name, numbered: in/a.bmp -> a_3.png, in/a.jpg -> a_4.png"


def test_one_name_in_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("A/x.png", "B/x.png", "q/B/x.png", "B/y.png"):
        save(name)
    targets, line = planned(["A", "B", "q/B"])
    assert len(set(targets.values())) == 4 and targets["B/y.png"] == "y.png"
    assert set(targets.values()) == {"x.png", "x_2.png", "x_3.png", "y.png"}
    assert "numbered" in line
    assert planned(["A", "B", "q/B"])[0] == targets  # the same names in a second run


def test_videos_keep_their_names_except_avi(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.MP4", "c.avi", "c.mkv", "sub/d.webm", "e.mov", "f.m4v"):
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        Path("in", name).touch()
    sources = find_photos(["in"], Path("out")).sources
    Path("out").mkdir()
    jobs, (line,) = plan(sources, Path("out"), "PNG", compare=True)
    outputs = {str(job.source): [str(path.relative_to("out")) for path in job.outputs] for job in jobs}
    assert outputs == {
        "in/a.jpg": ["a.png", "a_compare.png"],
        "in/b.MP4": ["b.MP4"],
        "in/c.avi": ["c_2.mkv"],
        "in/c.mkv": ["c.mkv"],
        "in/sub/d.webm": ["sub/d.webm"],
        "in/e.mov": ["e.mov"],
        "in/f.m4v": ["f.m4v"],
    }
    assert line == "outputs of one name, numbered: in/c.avi -> c_2.mkv"
    assert [job.is_video for job in jobs] == [False] + 6 * [True]


def test_names_that_differ_in_case_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("in/a.png")
    save("in/A.png")
    if len(os.listdir("in")) == 2:
        assert set(planned(["in"])[0].values()) == {"a.png", "A.png"}
        exists = Path.exists
        monkeypatch.setattr(Path, "exists", lambda p: p.name.startswith(".CASE_") or exists(p))
        assert len({name.lower() for name in planned(["in"])[0].values()}) == 2
    assert files("out") == []


def test_long_names_are_cut_at_a_character(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x" * 246 + ".png", "李" * 83 + ".png", "y" * 250 + "1.bmp", "y" * 250 + "2.bmp", "s." + "x" * 253):
        save("a.png").rename(name)
    Path("out").mkdir()
    sources = find_photos([str(p) for p in sorted(Path().glob("*")) if p.is_file()], Path("out")).sources
    jobs, (apart, line) = plan(sources, Path("out"), "WEBP", compare=True)
    names = [path.name for job in jobs for path in (job.target, job.strip)]
    assert "x" * 246 + ".webp" in names and "x" * 243 + "_compare.png" in names and "李" * 81 + "_compare.png" in names
    assert len(set(names)) == 10 and max(len(os.fsencode(name)) for name in names) <= 255
    for name in names:
        name.encode()  # a character that is cut in two would fail
    assert apart.startswith("outputs of one name, numbered: ")
    assert line.startswith("names shortened to 255 bytes: ") and "\n" not in line


# ---- what is done


def test_done_needs_size_and_format(tmp_path):
    job = Job(save(tmp_path / "a.png"), tmp_path / "out.png", "PNG")
    assert not is_complete(job) and not is_newer(job)
    save(job.target)
    assert is_complete(job) and is_newer(job)
    job.target.write_bytes(job.target.read_bytes()[:20])
    assert not is_complete(job)
    Image.fromarray(RGB).save(job.target, "JPEG")
    assert not is_complete(job)
    os.utime(job.target, (1, 1))
    assert not is_newer(job)
