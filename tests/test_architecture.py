"""The floors of the house: a module imports only from floors below its own (see ``docs/architecture.md``)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_capsule
from pytest_capsule import Engine

PACKAGE = Path(pytest_capsule.__file__).parent

FLOORS = {
    "errors": set(),
    "aio": {"errors"},
    "_linux": {"errors"},
    "archive": {"errors", "_linux"},
    "oci": {"errors"},
    "dockerfile": {"errors"},
    "registry": {"errors", "oci"},
    "network": {"errors", "_linux"},
    "store": {"errors", "_linux", "archive", "oci"},
    "runtime": {"aio", "errors", "_linux", "archive", "oci", "network"},
    "build": {"errors", "archive", "dockerfile", "oci", "store"},
    "spec": {"errors"},
    "wait": {"aio", "errors"},
    "networks": {"errors", "_linux", "network", "runtime"},
    "locations": {"errors", "network", "networks", "runtime"},
    "outbound": {"errors", "_linux", "locations", "network", "runtime", "spec"},
    "launch": {"errors", "_linux", "oci", "runtime", "spec", "store"},
    "volumes": {"errors", "runtime", "spec"},
    "archives": {"errors", "archive", "build", "images", "oci", "store"},
    "commits": {"build", "oci", "runtime", "stacking", "store"},
    "images": {"errors", "archive", "oci", "store"},
    "distribution": {"errors", "oci", "registry", "store"},
    "shared_cache": {"errors", "build", "distribution", "oci", "store"},
    "stacking": {"errors", "runtime", "store"},
    "mounts": {"errors", "_linux", "build", "network", "runtime", "store"},
    "workshop": {
        "errors",
        "_linux",
        "archive",
        "build",
        "locations",
        "mounts",
        "network",
        "runtime",
        "stacking",
        "store",
    },
    "progress": {"errors", "build", "distribution"},
}
BELOW_ENGINE = set(FLOORS)
FLOORS |= {
    "engine": BELOW_ENGINE | {"check"},
    "check": BELOW_ENGINE | {"engine"},
    "settings": {"registry", "runtime", "spec"},
    "summary": set(),
    "termination": set(),
    "marks": {"errors", "settings", "spec"},
    "hookspecs": {"__init__"},
    "lending": {"_linux", "errors", "loans", "runtime", "session", "spec"},
    "loans": {"_linux", "engine", "errors", "runtime", "spec", "store"},
    "session": BELOW_ENGINE | {"engine", "loans", "marks", "settings"},
    "prefetch_view": {"build", "progress"},
    "prefetch": {"build", "errors", "factories", "marks", "prefetch_view", "session", "spec", "volumes"},
    "assertions": {"runtime"},
    "evidence": {"errors", "network", "runtime", "session"},
    "keeping": {"cli", "engine", "errors", "runtime"},
    "testimony": {"errors", "evidence", "keeping", "runtime", "session", "settings", "summary"},
    "fixtures": {"errors", "prefetch", "engine", "marks", "session", "runtime", "spec"},
    "services": {"engine", "errors", "network", "runtime", "spec", "wait"},
    "factories": {"services", "volumes", "errors", "marks", "networks", "runtime", "session", "spec", "store"},
    "plugin": {
        "assertions",
        "errors",
        "check",
        "engine",
        "fixtures",
        "hookspecs",
        "lending",
        "session",
        "settings",
        "summary",
        "termination",
        "testimony",
    },
    "cli": BELOW_ENGINE | {"engine", "check", "__init__"},
    "__main__": {"cli"},
    "__init__": BELOW_ENGINE | {"engine", "factories", "services"},
}


def floor_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.AST) -> set[str]:
    """The modules of ours that an import names, wherever in the tree."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (PACKAGE.parent / inner.replace(".", "/")).with_suffix(".py").exists()
                is_package = (PACKAGE.parent / inner.replace(".", "/") / "__init__.py").exists()
                found.add(inner if is_module or is_package else node.module)
    return {name for name in found if name.split(".")[0] == "pytest_capsule"}


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_below(path):
    own = floor_of(name_of(path))
    assert own in FLOORS, f"{path.name} is on no floor: give it one in FLOORS"
    foreign = {name for name in imports_of(ast.parse(path.read_bytes())) if floor_of(name) not in FLOORS[own] | {own}}
    assert not foreign, f"{name_of(path)} reaches up or aside to {sorted(foreign)}"


def test_no_cycle_of_imports_at_run_time():
    """What runs at import time has no cycle; a name that is only for type checkers does not count."""

    def at_import_time(path):
        tree = ast.parse(path.read_bytes())
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))]
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                node.body = [ast.Pass()]
        return tree

    graph = {name_of(path): imports_of(at_import_time(path)) for path in MODULES}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in graph.get(name, set()) - {"pytest_capsule"}:
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(said.splitlines()[-1].split())


def test_the_package_never_imports_pytest():
    loaded = loaded_by(
        "import pytest_capsule; pytest_capsule.Engine, pytest_capsule.wait, pytest_capsule.container_fixture"
    )
    assert "pytest_capsule.engine" in loaded
    assert "pytest" not in loaded


def test_the_plugin_imports_nothing_of_the_engine():
    """A run without containers pays for none of it."""
    loaded = loaded_by("import pytest_capsule.plugin")
    ours = {name for name in loaded if name.startswith("pytest_capsule")}
    assert ours == {
        "pytest_capsule",
        "pytest_capsule.fixtures",
        "pytest_capsule.hookspecs",
        "pytest_capsule.plugin",
        "pytest_capsule.settings",
        "pytest_capsule.summary",
    }


def test_the_supervisor_is_small():
    """A fork copies the tables of all that it has: so it has not what makes classes, nor what reads packed archives."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    code += "from pytest_capsule.runtime import supervisor_process\nprint(*sys.modules)"
    said = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(said.split())
    assert "pytest_capsule.runtime.init" in loaded
    assert not loaded & {"ast", "bz2", "dataclasses", "inspect", "lzma", "zlib", "pytest_capsule.archive.unpack"}


# What only builds, registries, archives, pruning and the check need, of ours and of Python's library.
NOT_FOR_A_LOCAL_IMAGE = (
    "archive.compression archives build check commits distribution dockerfile mounts progress registry.client "
    "shared_cache store.collection store.packing store.verification workshop"
).split()
DEAR_OF_THE_LIBRARY = {"asyncio", "concurrent.futures", "difflib", "email", "http.client", "ssl", "urllib.request"}


@pytest.mark.parametrize(
    "statement",
    [
        """
from pytest_capsule import Engine
with Engine(cache_dir={cache!r}) as engine, engine.run("hello-world") as container:
    container.wait(timeout=60)
""",
        """
from pytest_capsule.cli import main
main(["--cache-dir", {cache!r}, "images", "--quiet"])
""",
        """
from pytest_capsule.cli import main
main(["--cache-dir", {cache!r}, "run", "--rm", "hello-world"])
""",
    ],
    ids=["Engine.run", "capsule images", "capsule run"],
)
def test_a_local_image_is_started_without_what_builds_and_fetches_images(tmp_path, statement):
    """What a process pays before it does anything: see docs/architecture.md."""
    with Engine(cache_dir=tmp_path) as engine:
        assert engine.image("hello-world").id  # which is worked out once in a store, and by what is not needed later
    loaded = loaded_by(statement.format(cache=str(tmp_path)))
    ours = tuple(f"pytest_capsule.{name}" for name in NOT_FOR_A_LOCAL_IMAGE)
    assert "pytest_capsule.engine" in loaded
    assert not {name for name in loaded if name in ours or name.startswith(tuple(f"{name}." for name in ours))}
    assert not loaded & DEAR_OF_THE_LIBRARY


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_it_imports_where_containers_cannot_run(system):
    code = f"""
import builtins, sys
sys.platform = {system!r}
real = builtins.__import__
def refuse(name, *args, **kwargs):
    if name.split(".")[0] in ("fcntl", "pwd", "grp", "termios", "resource"):
        raise ImportError(name)
    return real(name, *args, **kwargs)
builtins.__import__ = refuse
import pytest_capsule, pytest_capsule.errors, pytest_capsule.spec, pytest_capsule.wait
pytest_capsule.ContainerSpec.of("hello-world", wait=pytest_capsule.wait.port(80))
try:
    pytest_capsule.Engine
except pytest_capsule.UnsupportedHost as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.startswith(f"containers need Linux, and this is {system}")
