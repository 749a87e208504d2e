"""Which directories of an image's layers lie over a directory that is shown from the host."""

from pathlib import Path

import pytest

from pytest_capsule.store.image import Layer, Tree
from pytest_capsule.store.rootfs import lower_directories


def stacked(layers: list[Path], directory: str, bottom: Path) -> tuple[str, ...]:
    tree = Tree(tuple(Layer(path.name, str(path)) for path in layers), (directory,))
    return lower_directories(tree, bottom)[directory]


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    path = tmp_path / "layer"
    path.mkdir()
    return path


def test_a_layers_own_directory_lies_over_the_hosts(tmp_path: Path, layer: Path) -> None:
    (layer / "usr/share").mkdir(parents=True)
    upper = tmp_path / "upper"
    (upper / "usr/share").mkdir(parents=True)
    assert stacked([layer, upper], "/usr/share", tmp_path) == (f"{upper}/usr/share", f"{layer}/usr/share", "/usr/share")


def test_a_layer_behind_a_link_is_as_good(tmp_path: Path, layer: Path) -> None:
    (layer / "usr").mkdir()
    link = tmp_path / "link"
    link.symlink_to(layer)
    assert stacked([link], "/usr", tmp_path) == (f"{link}/usr", "/usr")


@pytest.mark.parametrize("name", ["usr", "usr/share"])
def test_a_link_in_a_layer_leads_nowhere(tmp_path: Path, layer: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "share").mkdir(parents=True)
    place = layer / name
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(elsewhere if name == "usr" else elsewhere / "share")
    assert stacked([layer], "/usr/share", tmp_path) == ("/usr/share",)


def test_neither_what_is_no_directory_nor_what_is_not_there_counts(tmp_path: Path, layer: Path) -> None:
    assert stacked([layer], "/usr", tmp_path) == ("/usr",)
    (layer / "usr").write_text("")
    assert stacked([layer], "/usr", tmp_path) == ("/usr",)
    assert stacked([layer], "/usr/share", tmp_path) == ("/usr/share",)


def test_a_layer_that_is_gone_is_none_either(tmp_path: Path) -> None:
    assert stacked([tmp_path / "gone"], "/usr", tmp_path) == ("/usr",)
