"""The plugin's options: one table, and where the value of each comes from.

The command line goes before the ini file, that before the environment, that before the default; what a marker says of
its own goes before all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from pytest_capsule.spec import ContainerSpec

    Read = Callable[[str], object]

LINE, INI, ENVIRONMENT = "command line", "ini", "environment"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is in force, each under the name of its option; paths are absolute, sizes in bytes."""

    no_cache: bool
    pull: Literal["missing", "always", "never"]
    keep: Literal["never", "failed", "always"]
    shell: bool
    check: bool
    durations: int
    report: Path | None
    cache_dir: Path | None
    cache_limit: int | None
    unsupported: Literal["error", "skip"]
    registry_mirrors: Mapping[str, tuple[str, ...]]
    insecure_registries: tuple[str, ...]


SETTINGS = pytest.StashKey[Settings]()
"""Where a pytest run has them."""
SPECS: pytest.StashKey[dict[int, tuple[pytest.Mark, ContainerSpec]]] = pytest.StashKey()
"""What its markers ask for, by their ids."""
LENDER = "capsule_lender"
"""Where a worker of pytest-xdist finds in its ``workerinput`` whom to ask for containers that all of them share."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option, and the ``places`` where it can stand: ``--capsule-x-y``, ``capsule_x_y`` or ``CAPSULE_X_Y``.

    ``read`` makes its value of a text, and says with ``ValueError`` what it takes. A ``switch`` takes no value on the
    command line, a ``listed`` one has several in the ini file, one a line.
    """

    name: str
    read: Read
    default: object
    places: tuple[str, ...]
    help: str
    metavar: str = ""
    switch: bool = False
    listed: bool = False

    @property
    def on_command_line(self) -> str:
        """The option as it is written."""
        return "--capsule-" + self.name.replace("_", "-")

    @property
    def in_ini(self) -> str:
        """The key, in ``pytest.ini``, ``pyproject.toml`` and the like."""
        return f"capsule_{self.name}"

    @property
    def in_environment(self) -> str:
        """The variable."""
        return f"CAPSULE_{self.name.upper()}"

    @property
    def full_help(self) -> str:
        """What ``pytest --help`` says, which has no column for variables."""
        return f"{self.help} [env: {self.in_environment}]" if ENVIRONMENT in self.places else self.help


@dataclass(frozen=True, slots=True)
class _Found:
    """A text that somebody has written, ``where`` they did, and the ``folder`` from which its path starts."""

    text: str
    where: str
    folder: Path = field(compare=False)


def _choice(*words: str) -> Read:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"it is {', '.join(words[:-1])} or {words[-1]}")
        return text

    return read


def _switch(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("it is true or false")
    return words[text.lower()]


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("it is a number, 0 or more")
    return int(text)


def _size(text: str) -> int:
    from pytest_capsule.runtime.limits import parse_size  # here: most runs name no size

    size = parse_size(text)
    if not size:
        raise ValueError("it is a number of bytes, or one with a unit, such as 500m or 20g")
    return size


def _hosts(text: str) -> tuple[str, ...]:
    from pytest_capsule.registry.settings import read_insecure  # here: most runs name none

    return read_insecure(text)


def _mirrors(text: str) -> dict[str, tuple[str, ...]]:
    from pytest_capsule.registry.settings import read_mirrors

    return read_mirrors(text)


ALL = (LINE, INI, ENVIRONMENT)
OPTIONS = (
    Option("no_cache", _switch, False, (LINE, ENVIRONMENT), "build every layer anew", switch=True),
    Option(
        "pull",
        _choice("missing", "always", "never"),
        "missing",
        ALL,
        "when to ask a registry for an image (default: missing, if the store has none)",
        "missing|always|never",
    ),
    Option(
        "keep",
        _choice("never", "failed", "always"),
        "never",
        ALL,
        "whose containers to keep as images after the test (default: never); the report says how to open one",
        "never|failed|always",
    ),
    Option(
        "shell",
        _switch,
        False,
        (LINE,),
        "when a test fails, open a shell in its container before it goes",
        switch=True,
    ),
    Option(
        "check", _switch, False, (LINE,), "print what this host can and cannot do, run hello-world, exit", switch=True
    ),
    Option("durations", _count, 0, (LINE, ENVIRONMENT), "show the N slowest builds and starts of containers", "N"),
    Option("report", Path, None, (LINE, ENVIRONMENT), "write what the containers of each test did as JSON", "FILE"),
    Option(
        "cache_dir",
        Path,
        None,
        ALL,
        "where images and layers are kept (default: $XDG_CACHE_HOME/pytest-capsule)",
        "DIR",
    ),
    Option(
        "cache_limit",
        _size,
        None,
        (INI, ENVIRONMENT),
        "the size, such as 20g, over which unused layers go, those least recently used first (default: no limit)",
    ),
    Option(
        "unsupported",
        _choice("error", "skip"),
        "error",
        (INI, ENVIRONMENT),
        "what a container test gets on a host that cannot run one: error or skip (default: error)",
    ),
    Option(
        "registry_mirrors",
        _mirrors,
        {},
        (INI, ENVIRONMENT),
        "where to ask before a registry itself, one REGISTRY=MIRROR a line",
        listed=True,
    ),
    Option(
        "insecure_registries",
        _hosts,
        (),
        (INI, ENVIRONMENT),
        "registries spoken to without TLS, or with a certificate that nobody vouches for, one HOST:PORT a line",
        listed=True,
    ),
)
"""The table: every option that there is."""


def add_options(parser: pytest.Parser) -> None:
    """Tell pytest of them."""
    group = parser.getgroup("capsule", "containers (pytest-capsule)")
    for option in OPTIONS:
        if LINE in option.places:
            how: dict[str, Any] = {"metavar": option.metavar}
            if option.switch:
                how = {"action": "store_const", "const": "true"}
            group.addoption(option.on_command_line, dest=option.in_ini, default=None, help=option.full_help, **how)
        if INI in option.places:
            kind: Any = "linelist" if option.listed else "string"
            parser.addini(option.in_ini, option.full_help, kind, default=None)


def read_settings(config: pytest.Config) -> Settings:
    """The settings of a pytest run; ``pytest.UsageError`` names the place of a value that is wrong."""
    return Settings(**{option.name: _value(option, config) for option in OPTIONS})


def _value(option: Option, config: pytest.Config) -> Any:
    found = _find(option, config)
    if found is None:
        return option.default
    try:
        value = option.read(found.text)
    except ValueError as error:
        raise pytest.UsageError(f"{found.where}: {error}") from None
    return found.folder / value.expanduser() if isinstance(value, Path) else value


def _find(option: Option, config: pytest.Config) -> _Found | None:
    here = config.invocation_params.dir
    if LINE in option.places and (text := config.getoption(option.in_ini)) is not None:
        return _Found(text, f"{option.on_command_line}={text}", here)
    if INI in option.places and (written := config.getini(option.in_ini)):
        values = written if isinstance(written, list) else [written]
        where = f"{_ini_file(option, config)}{option.in_ini} = {', '.join(values)}"
        return _Found("\n".join(values), where, _ini_folder(config))
    if ENVIRONMENT in option.places and (text := os.environ.get(option.in_environment)):
        return _Found(text, f"{option.in_environment}={text}", here)
    return None


def _ini_folder(config: pytest.Config) -> Path:
    return config.inipath.parent if config.inipath else config.rootpath


def _ini_file(option: Option, config: pytest.Config) -> str:
    """The file that the key stands in, unless ``-o`` on the command line has the last word."""
    overridden = any(one.startswith(f"{option.in_ini}=") for one in config.getoption("override_ini") or ())
    if overridden:
        return "-o "
    return f"{config.inipath}: " if config.inipath else ""
