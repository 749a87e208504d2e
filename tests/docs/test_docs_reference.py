"""The reference names everything that there is."""

import builtins
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import pytest_capsule
from pytest_capsule import ContainerSpec, errors, plugin
from pytest_capsule.settings import ENVIRONMENT, OPTIONS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def first_columns(page: str, heading: str) -> set[str]:
    """The words in backticks in the tables under a heading, but for the last column."""
    text = (REFERENCE / page).read_text()
    section = re.split(r"^## ", text.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {word.split("=")[0] for row in rows for cell in row[:-1] for word in re.findall(r"`([^`]+)`", cell)}


def test_every_keyword_of_the_marker_is_named():
    assert first_columns("plugin.md", "The marker") == {one.name for one in fields(ContainerSpec)}


def test_every_option_is_named(pytestconfig: pytest.Config):
    names = {name for option in pytestconfig._parser._anonymous.options for name in option.names()}
    names |= {name for group in pytestconfig._parser._groups for option in group.options for name in option.names()}
    settings = set(pytestconfig._parser._inidict)
    ours = {name for name in names | settings if name.startswith(("--capsule-", "capsule_"))}
    ours |= {option.in_environment for option in OPTIONS if ENVIRONMENT in option.places}
    assert first_columns("plugin.md", "Options") == ours


def test_every_public_name_is_in_the_reference():
    text = "".join(page.read_text() for page in REFERENCE.glob("*.md"))
    documented = set(re.findall(r"^\.\. auto(?:class|function):: (\w+)", text, flags=re.MULTILINE))
    from_modules = {"services", "wait", *(name for name in pytest_capsule.__all__ if name in vars(errors))}
    assert documented | from_modules >= set(pytest_capsule.__all__)


def public_functions():
    """Every function and method that the reference shows, by name."""
    named = {name: getattr(pytest_capsule, name) for name in pytest_capsule.__all__}
    named |= {f"wait.{name}": getattr(pytest_capsule.wait, name) for name in pytest_capsule.wait.__all__}
    for name, found in named.items():
        if inspect.isclass(found):
            methods = ((method, getattr(value, "__func__", value)) for method, value in vars(found).items())
            yield from ((f"{name}.{method}", value) for method, value in methods if not method.startswith("_"))
        yield name, found


FUNCTIONS = [(name, function) for name, function in public_functions() if inspect.isfunction(function)]


@pytest.mark.parametrize(("name", "function"), FUNCTIONS, ids=[name for name, _ in FUNCTIONS])
def test_the_reference_says_units_and_errors_that_there_are(name, function):
    said = inspect.getdoc(function) or ""
    assert said, "it is not explained"
    if "timeout" in inspect.signature(function).parameters:
        assert "second" in said
    for error in re.findall(r"``(\w+(?:Error|Exited|Timeout|NotFound|Host))``", said):
        assert hasattr(errors, error) or hasattr(builtins, error), f"there is no {error}"


def test_every_fixture_is_named():
    ours = {name for name in plugin.__all__ if not name.startswith("_")}
    assert first_columns("plugin.md", "Fixtures") == ours
