"""Many files at once, and whole files only."""

import os

import pytest

from src.files import appear, escaped, in_threads, same_bytes, unescaped


def test_ctrl_c_leaves_the_rest_undone():
    done = []

    def work(i):
        if i == 3:
            raise KeyboardInterrupt
        done.append(i)

    with pytest.raises(KeyboardInterrupt):
        in_threads(work, range(20_000), "file", progress=False)
    assert len(done) < 20_000


def test_results_come_in_order():
    assert in_threads(lambda i: i * i, range(100), "file", progress=False) == [i * i for i in range(100)]


def test_files_are_compared_by_their_bytes(tmp_path):
    for name, content in (("a", b"12345"), ("b", b"12345"), ("c", b"12354")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for other, same in (("a", True), ("b", True), ("link", True), ("c", False), ("missing", False)):
        assert same_bytes(tmp_path / "a", tmp_path / other) is same
    assert not same_bytes(tmp_path / "missing", tmp_path / "missing")  # nothing is known of it


def test_half_a_file_is_never_seen(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    (tmp_path / ".a.txt.part").write_text("of a run that was killed")

    def fail(part):
        assert not part.exists()
        part.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        appear(path, fail)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    appear(path, lambda part: part.write_text("new"))
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "name", [b"caf\xe9.png", b"\xff\xfe", "caf\u00e9 \u6a21\u7cca".encode(), b"back\\slash\\x", b"plain"]
)
def test_file_names_are_written_as_utf8_and_come_back(name):
    text = os.fsdecode(name)
    assert os.fsencode(unescaped(escaped(text).encode("utf-8").decode("utf-8"))) == name
