"""The rooms of src (docs/architecture.md): who may import whom, and who may do what."""

from pathlib import Path

import pytest

from scripts import draw_architecture
from scripts.draw_architecture import (
    PAGE,
    ROOM_OF,
    ROOMS,
    ROOT,
    SCRIPTS,
    direct_arrows,
    imported,
    main,
    modules_of,
)
from src.errors import UserError

ORDER = [room.name for room in ROOMS]
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").glob("*.py"))}
PROGRAMS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in (".", "scripts", "benchmarks", "weights_pretrained")
    for path in sorted((ROOT / folder).glob("*.py"))
}


def upward(module, source):
    """Modules that the source imports from a later room."""
    return [m for m in sorted(modules_of(source)) if ORDER.index(ROOM_OF[m]) > ORDER.index(ROOM_OF[module])]


def cycle(graph):
    """Nodes that import each other in a circle; [] if there are none."""
    left = dict(graph)
    while free := [name for name, ends in left.items() if not ends & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def scripts_in(source):
    """What the source imports that is no part of src: entry scripts, scripts/, benchmarks/, tests/."""
    ours = {*(Path(name).stem for name in PROGRAMS if "/" not in name), "scripts", "benchmarks", "tests"}
    return sorted(module for module, _ in imported(source) if module.split(".")[0] in ours)


def test_every_module_is_in_one_room():
    listed = [module for room in ROOMS for module in room.modules]
    assert sorted(listed) == sorted(SOURCES.keys() - {"__init__"})


@pytest.mark.parametrize("module", ROOM_OF)
def test_every_module_has_its_test_file(module):
    """tests/test_<module>.py, which imports the module. Tests of scripts, benchmarks, whole runs have any name."""
    path = ROOT / "tests" / f"test_{module}.py"
    assert path.is_file() and module in modules_of(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", ROOM_OF)
def test_rooms_import_from_below_only(module):
    assert not upward(module, SOURCES[module])


def test_modules_do_not_import_each_other_in_a_circle():
    assert cycle({module: modules_of(SOURCES[module]) for module in ROOM_OF}) == []


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_in_src_imports_a_script(module):
    assert not scripts_in(SOURCES[module])


def test_every_entry_script_is_in_the_drawing():
    assert sorted(f"{name}.py" for name in SCRIPTS) == sorted(name for name in PROGRAMS if "/" not in name)


def test_the_page_is_up_to_date():
    assert main(["--check"]) == 0, "python scripts/draw_architecture.py draws it again"


# ---- the rules themselves


def test_rules_see_what_they_forbid():
    within = "def f():\n    if True:\n        from src import engine, __version__\n        import src.web\n"
    assert modules_of(within + "from .layers import FAM\n") == {"engine", "web", "layers"}
    assert upward("layers", within) == ["engine", "web"]
    assert upward("web", within) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert scripts_in("from train import main\nimport scripts.demo, os\n") == ["scripts.demo", "train"]


def test_arrows_that_follow_from_others_are_not_drawn():
    assert direct_arrows({"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}) == {
        "a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set(),
    }  # fmt: skip


def test_a_page_out_of_date_is_told_and_drawn_again(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8").replace("photos --> data", "photos --> training"))
    monkeypatch.setattr(draw_architecture, "PAGE", page)
    old = page.read_text()
    assert main(["--check"]) == 1 and page.read_text() == old
    assert "out of date" in capsys.readouterr().out
    assert main([]) == 0 and page.read_text() == PAGE.read_text(encoding="utf-8")
    page.write_text("no marks")
    with pytest.raises(UserError, match="expected the lines"):
        main([])
