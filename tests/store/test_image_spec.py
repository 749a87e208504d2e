"""What we write is held against the image-spec's rules: built, committed, imported and built-in images."""

import io
import subprocess
import tarfile

import pytest
from image_spec import ImageLayout
from peers import peer

from pytest_capsule import Engine

DOCKERFILE = """\
FROM hello-world
MAINTAINER somebody
ARG VERSION=1
ENV A=b C="d e"
LABEL one=1 "two words"="2 \\"quoted\\""
COPY first /dir/first
COPY first second /dir/
ADD --chown=12:34 --chmod=4755 second /owned
EXPOSE 80 53/udp
VOLUME /data ["/more"]
WORKDIR /srv
USER 1000:1000
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD ["/hello"]
SHELL ["/bin/other", "-c"]
ONBUILD COPY third /third
ENTRYPOINT ["/hello"]
CMD ["a", "b"]
"""


@pytest.fixture
def engine(tmp_path):
    with Engine(cache_dir=tmp_path / "cache") as engine:
        yield engine


def built(engine, folder):
    (folder / "Dockerfile").write_text(DOCKERFILE)
    for name in ("first", "second"):
        (folder / name).write_text(name)
    return engine.build(folder, build_args={"VERSION": "2"})


def committed(engine, folder):
    with engine.run(built(engine, folder), command=[], user="0", workdir="/") as container:
        container.write_text("/written", "x")
        container.copy_in(folder / "first", "/dir/third")
        return container.commit(command=["/hello"], env={"D": "e"}, change=["EXPOSE 99"])


def hiding(engine, folder):
    """With whiteouts, an opaque directory and hard links."""
    (folder / "Dockerfile").write_text(
        "FROM capsule/host\n"
        "RUN mkdir -p /new/dir /new/whole; cd /new; echo 1 >dir/gone; echo 1 >whole/old; ln dir/gone dir/again\n"
        "RUN cd /new && rm dir/gone && rm -r whole && mkdir whole && echo 2 >whole/new\n"
    )
    return engine.build(folder)


def imported(engine, folder):
    (folder / "root").mkdir()
    (folder / "root/file").write_text("x")
    return engine.import_rootfs(folder / "root", changes=["CMD run"])


def loaded(engine, folder):
    """A layer of somebody else's, whose bytes go out as they came."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("./empty"))
    (folder / "root.tar").write_bytes(data.getvalue())
    layout = folder / "theirs"
    umoci = peer("umoci")
    subprocess.run([umoci, "init", "--layout", layout], check=True)
    subprocess.run([umoci, "new", "--image", f"{layout}:1"], check=True)
    add = ("raw", "add-layer", "--image", f"{layout}:1", folder / "root.tar")
    subprocess.run([umoci, *add], check=True)
    return engine.image(f"oci:{layout}:1")


@pytest.mark.parametrize("make", [built, committed, hiding, imported, loaded])
def test_what_is_written_follows_the_rules(engine, tmp_path, make):
    image = make(engine, tmp_path)
    engine.save([image, "hello-world"], tmp_path / "layout", format="oci-dir")
    layout = ImageLayout(tmp_path / "layout")
    (found, config), (hello, _) = layout.images
    assert len(found["layers"]) == len(image.layers)
    assert config["rootfs"]["diff_ids"] == list(image.diff_ids)
    assert len(hello["layers"]) == 1
    if make is hiding:
        assert {"new/dir/.wh.gone", "new/dir/again", "new/whole/new"} < layout.names

    engine.save([image, "hello-world"], tmp_path / "layout.tar")
    with tarfile.open(tmp_path / "layout.tar") as archive:
        archive.extractall(tmp_path / "again")
    (tmp_path / "again/manifest.json").unlink()  # Docker's own, beside the layout
    assert [manifest for manifest, _ in ImageLayout(tmp_path / "again").images] == [found, hello]
