"""A build that fails says at which step and line, shows its output, and leaves the last good image."""

import pytest

from pytest_capsule import BuildError


def test_the_last_good_image_can_be_run(capsule, request):
    with pytest.raises(BuildError) as failed:
        capsule.build(request.path.parent)
    error = failed.value

    print(error)
    assert error.line == 4
    assert error.exit_code == 1
    assert "about to fail" in error.output
    assert "no-such-file.txt: No such file or directory" in error.output

    with capsule.run(error.image, command=[]) as container:
        assert container.read_text("/srv/progress.txt") == "all is well so far\n"
