"""The public names are typed as whoever uses them sees it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_capsule

SUITE = Path(__file__).with_name("user_suite.py")
CHECKERS = {
    "mypy": ["mypy", "--strict"],
    "pyright": ["basedpyright", "--pythonpath", sys.executable, "--project", "."],
}


@pytest.fixture(params=CHECKERS)
def check(request, tmp_path):
    """Let a type checker look at a file, in a folder that knows nothing of this project."""
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')

    def run(text):
        (tmp_path / "suite.py").write_text(text)
        command = [sys.executable, "-m", *CHECKERS[request.param]]
        command += ["suite.py"] if request.param == "mypy" else []
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_a_suite_has_no_type_errors(check):
    said = check(SUITE.read_text())
    assert said.returncode == 0, said.stdout + said.stderr


def test_a_type_checker_sees_every_public_name():
    """One that it did not see would come from ``__getattr__``, as anything at all."""
    tree = ast.parse(Path(pytest_capsule.__file__).read_text())
    (checked,) = (one for one in tree.body if isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING")
    seen = {name.asname or name.name for one in checked.body if isinstance(one, ast.ImportFrom) for name in one.names}
    assert set(pytest_capsule.__all__) <= seen


def test_a_mistake_is_found(check):
    said = check(SUITE.read_text() + '\n\ndef wrong(one: Container) -> int:\n    return one.exec("id").stdout\n')
    assert said.returncode == 1
    assert "suite.py:" in said.stdout
