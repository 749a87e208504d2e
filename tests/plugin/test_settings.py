"""Where the value of an option comes from, and what a wrong one is told."""

import subprocess
import sys

import pytest

from pytest_capsule.settings import ENVIRONMENT, INI, LINE, OPTIONS, read_settings

GIVEN = {  # three values of each option: texts as one writes them
    "no_cache": ("true", "yes", "1"),
    "pull": ("missing", "always", "never"),
    "keep": ("never", "failed", "always"),
    "shell": ("true", "yes", "1"),
    "check": ("true", "yes", "1"),
    "durations": ("1", "2", "3"),
    "report": ("one.json", "two.json", "three.json"),
    "cache_dir": ("one", "two", "three"),
    "cache_limit": ("1g", "2g", "3g"),
    "unsupported": ("error", "skip", "error"),
    "registry_mirrors": ("docker.io=one", "docker.io=two", "docker.io=three"),
    "insecure_registries": ("one:5000", "two:5000", "three:5000"),
}
WRONG = {
    "no_cache": "perhaps",
    "pull": "sometimes",
    "keep": "some",
    "durations": "-1",
    "cache_limit": "much",
    "unsupported": "perhaps",
    "registry_mirrors": "docker.io",
    "insecure_registries": "http://here",
}


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    for option in OPTIONS:
        monkeypatch.delenv(option.in_environment, raising=False)


def give(option, place, text, pytester, monkeypatch):
    """Write a value where ``place`` says; returns what goes on the command line."""
    if place == INI:
        pytester.makeini(f"[pytest]\n{option.in_ini} = {text}\n")
    elif place == ENVIRONMENT:
        monkeypatch.setenv(option.in_environment, text)
    else:
        return [option.on_command_line if option.switch else f"{option.on_command_line}={text}"]
    return []


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_each_place_goes_before_those_below_it(option, pytester, monkeypatch):
    def value(*arguments):
        return getattr(read_settings(pytester.parseconfig(*arguments)), option.name)

    assert value() == option.default
    for place in (ENVIRONMENT, INI, LINE):
        if place not in option.places:
            continue
        text = GIVEN[option.name][(ENVIRONMENT, INI, LINE).index(place)]
        arguments = give(option, place, text, pytester, monkeypatch)
        wanted = option.read(text)
        assert value(*arguments) == (pytester.path / wanted if option.name in ("report", "cache_dir") else wanted)


@pytest.mark.parametrize(
    ("option", "place"),
    [
        pytest.param(option, place, id=f"{option.name} in {place}")
        for option in OPTIONS
        for place in option.places
        if option.name in WRONG and not (place == LINE and option.switch)
    ],
)
def test_a_wrong_value_is_told_its_place_and_what_is_right(option, place, pytester, monkeypatch):
    wrong = WRONG[option.name]
    arguments = give(option, place, wrong, pytester, monkeypatch)

    with pytest.raises(pytest.UsageError) as raised:
        read_settings(pytester.parseconfig(*arguments))

    key = {
        LINE: f"{option.on_command_line}={wrong}: ",
        INI: f"{pytester.path / 'tox.ini'}: {option.in_ini} = {wrong}: ",
        ENVIRONMENT: f"{option.in_environment}={wrong}: ",
    }[place]
    assert str(raised.value).startswith(key)
    with pytest.raises(ValueError) as why:
        option.read(wrong)
    assert str(raised.value) == key + str(why.value)


def test_a_wrong_value_ends_pytest_with_one_line(pytester):
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\ncapsule_keep = "some"\n')

    result = pytester.runpytest_inprocess()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *pyproject.toml: capsule_keep = some: it is never, failed or always"])
    assert "Traceback" not in result.stderr.str()


def test_an_override_on_the_command_line_is_named_as_such(pytester):
    pytester.makeini("[pytest]\ncapsule_keep = failed\n")

    with pytest.raises(pytest.UsageError, match=r"^-o capsule_keep = some: "):
        read_settings(pytester.parseconfig("-o", "capsule_keep=some"))


def test_lists_are_arrays_in_pyproject_and_have_commas_in_the_environment(pytester, monkeypatch):
    pytester.makepyprojecttoml(
        "[tool.pytest.ini_options]\n"
        'capsule_registry_mirrors = ["docker.io=one:5000", "docker.io = two", "ghcr.io=three"]\n'
    )
    monkeypatch.setenv("CAPSULE_INSECURE_REGISTRIES", "localhost:5000, [::1]:5001")

    settings = read_settings(pytester.parseconfig())

    assert settings.registry_mirrors == {"docker.io": ("one:5000", "two"), "ghcr.io": ("three",)}
    assert settings.insecure_registries == ("localhost:5000", "[::1]:5001")


def test_a_list_with_a_wrong_value_is_named_on_one_line(pytester):
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\ncapsule_registry_mirrors = ["docker.io=one", "ghcr.io"]\n')

    with pytest.raises(pytest.UsageError) as caught:
        read_settings(pytester.parseconfig())

    assert "pyproject.toml: capsule_registry_mirrors = docker.io=one, ghcr.io: each is" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_in_the_ini_file_starts_at_its_folder(pytester):
    pytester.makeini("[pytest]\ncapsule_cache_dir = layers\n")
    below = pytester.mkdir("below")

    config = pytester.parseconfig("--rootdir", str(pytester.path), str(below))

    assert read_settings(config).cache_dir == pytester.path / "layers"


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        (
            "--help",
            [
                "containers (pytest-capsule):",
                "*--capsule-keep=never|failed|always*",
                "*capsule_cache_limit (*",
                "*CAPSULE_KEEP*",
            ],
        ),
        (
            "--markers",
            ["@pytest.mark.container(image=None, [*], build=None, *): *", "*keywords, as in Docker: name target*"],
        ),
        (
            "--fixtures",
            ["container *", "*The test's container, running*", "containers *", "capsule [[]session scope] *"],
        ),
    ],
)
def test_pytest_explains_what_there_is(question, answers, pytester):
    command = [sys.executable, "-m", "pytest", question]
    said = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True, check=True).stdout
    for answer in answers:
        pytest.LineMatcher(said.splitlines()).fnmatch_lines([answer])
