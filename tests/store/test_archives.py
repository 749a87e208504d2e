"""Images into files and out of them: the archives of ``docker save``, old and new, OCI layouts, root filesystems."""

import gzip
import io
import json
import os
import stat
import subprocess
import sys
import tarfile

import pytest

from pytest_capsule import Engine
from pytest_capsule.errors import ContentMismatch, ImageNotFound, MalformedImage, StoreError, UsageError
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.platform import Platform

HOST = Platform.host(os.uname().machine)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def engine(tmp_path):
    with Engine(cache_dir=tmp_path / "cache") as engine:
        yield engine


@pytest.fixture
def another(tmp_path):
    with Engine(cache_dir=tmp_path / "another") as engine:
        yield engine


def tar(files):
    """A tar of files by name; a value that is text is the target of a symlink."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def config(*layers, architecture=HOST.architecture):
    value = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/run"]},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in layers]},
        "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
    }
    return json.dumps(value).encode()


class Layout:
    """An OCI layout in the making: its files by path."""

    def __init__(self):
        self.files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        self.entries = []

    def blob(self, data, media_type="", **fields):
        digest = Digest.of(data)
        self.files[f"blobs/sha256/{digest.hex}"] = data
        return {"mediaType": media_type, "digest": str(digest), "size": len(data), **fields}

    def image(self, *layers, docker=False, **fields):
        """The descriptor of an image of these layers' tars."""
        oci_layer = "application/vnd.oci.image.layer.v1.tar+gzip"
        kinds = {
            False: (MANIFEST, "application/vnd.oci.image.config.v1+json", oci_layer),
            True: (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
        }  # fmt: skip
        manifest, config_type, layer_type = kinds[docker]
        platform = fields.get("platform", {"architecture": HOST.architecture})
        value = {
            "schemaVersion": 2,
            "mediaType": manifest,
            "config": self.blob(config(*layers, architecture=platform["architecture"]), config_type),
            "layers": [self.blob(gzip.compress(layer, mtime=0), layer_type) for layer in layers],
        }
        return self.blob(json.dumps(value).encode(), manifest, **fields)

    def index(self, *entries, **fields):
        value = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}
        return self.blob(json.dumps(value).encode(), INDEX, **fields)

    def add(self, entry, name=None, full=None):
        names = {"org.opencontainers.image.ref.name": name, "io.containerd.image.name": full}
        annotations = {key: value for key, value in names.items() if value}
        self.entries.append({**entry, "annotations": annotations} if annotations else entry)
        return self

    def finish(self):
        self.files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": self.entries}).encode()
        return self.files

    def folder(self, path):
        for name, data in self.finish().items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path


def content(engine, image, path="/file"):
    with engine.run(image, command=[]) as container:
        return container.read_text(path)


def on(architecture, variant=None):
    return {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}


# -- docker save -----------------------------------------------------------------------------------------------------


def old_archive():
    """As Docker before 25 writes it: a folder a layer, a shared layer as a symlink, files for Docker before 1.10."""
    base, top = tar({"file": b"base"}), tar({"file": b"top"})
    first, second = config(base, top), config(base)
    one, two = Digest.of(first).hex, Digest.of(second).hex
    listed = [
        {"Config": f"{one}.json", "RepoTags": ["app:1", "team/app:2"], "Layers": ["aa/layer.tar", "bb/layer.tar"]},
        {"Config": f"{two}.json", "RepoTags": None, "Layers": ["cc/layer.tar"]},
    ]
    files = {
        "aa/VERSION": b"1.0", "aa/json": b"{}", "aa/layer.tar": base,
        "bb/VERSION": b"1.0", "bb/json": b"{}", "bb/layer.tar": top,
        "cc/VERSION": b"1.0", "cc/json": b"{}", "cc/layer.tar": "../aa/layer.tar",
        f"{one}.json": first, f"{two}.json": second,
        "manifest.json": json.dumps(listed).encode(), "repositories": b"{}",
    }  # fmt: skip
    return tar(files), f"sha256:{one}", f"sha256:{two}"


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_an_archive_of_an_old_docker(engine, tmp_path, compress):
    data, one, two = old_archive()
    (tmp_path / "old.tar").write_bytes(compress(data))
    loaded = engine.load(tmp_path / "old.tar")
    assert [image.id for image in loaded] == [one, two], "the digests of their configs, as in Docker"
    assert loaded[0].tags == ("app:1", "team/app:2")
    assert loaded[1].tags == ()
    assert content(engine, "team/app:2") == "top"
    assert content(engine, two) == "base"
    assert loaded[0].layers[0] == loaded[1].layers[0]


def test_a_docker_archive_by_reference(engine, tmp_path):
    path = tmp_path / "with:colon.tar"
    path.write_bytes(old_archive()[0])
    for reference in (f"docker-archive:{path}:app:1", f"docker-archive:{path}:docker.io/library/app:1"):
        assert content(engine, reference) == "top"
    assert engine.image(f"docker-archive:{path}:team/app:2").tags == (), "looked at, not named"
    with pytest.raises(ImageNotFound, match="no image 'app:3' in there") as caught:
        engine.image(f"docker-archive:{path}:app:3")
    assert "app:1, team/app:2" in caught.value.hint
    with pytest.raises(ImageNotFound, match="has 2 images"):
        engine.image(f"docker-archive:{path}")
    with pytest.raises(ImageNotFound, match="no such file"):
        engine.image("docker-archive:/nowhere.tar:x")


def test_an_archive_is_read_again_only_when_it_has_changed(engine, tmp_path, monkeypatch):
    path = tmp_path / "image.tar"
    engine.save("hello-world", path)
    first = engine.image(f"docker-archive:{path}")
    with monkeypatch.context() as patch:
        patch.setattr("pytest_capsule.store.loading.load", None)
        assert engine.image(f"docker-archive:{path}") == first
    path.write_bytes(old_archive()[0])
    assert engine.image(f"docker-archive:{path}:app:1") != first


# -- OCI layouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_a_layout(engine, tmp_path, form, docker):
    layout = Layout()
    image = layout.image(tar({"file": b"x"}), docker=docker)
    layout.add(image, name="1.0").add(image, full="docker.io/team/app:3")
    path = layout.folder(tmp_path / "layout")
    if form == "tar":
        path = tmp_path / "layout.tar"
        path.write_bytes(tar({f"./{name}": data for name, data in layout.finish().items()}))
    (loaded,) = engine.load(path)
    assert loaded.digest == image["digest"], "the bytes of its manifest"
    assert loaded.tags == ("team/app:3",), "a tag alone is no name"
    assert content(engine, "team/app:3") == "x"
    assert engine.image(f"oci:{path}:1.0") == loaded


def test_platforms_through_nested_indexes_past_attestations(engine, tmp_path):
    layout = Layout()
    ours, other = tar({"file": b"ours"}), tar({"file": b"other"})
    foreign = "s390x" if HOST.architecture != "s390x" else "riscv64"
    inner = layout.index(
        layout.blob(b'{"schemaVersion": 2}', MANIFEST, platform=on("unknown")),
        layout.image(other, platform=on(foreign)),
        layout.image(ours, platform=on(HOST.architecture)),
    )
    layout.add(layout.index(inner), name="app:1")
    (image,) = engine.load(layout.folder(tmp_path / "layout"))
    assert content(engine, image) == "ours"
    assert image.config.architecture == HOST.architecture


def test_another_platform_is_loaded_when_asked_for(engine, tmp_path):
    foreign = "s390x" if HOST.architecture != "s390x" else "riscv64"
    layout = Layout()
    images = [layout.image(tar({"file": name.encode()}), platform=on(name)) for name in (HOST.architecture, foreign)]
    layout.add(layout.index(*images), name="app:1")
    (image,) = engine.load(layout.folder(tmp_path / "layout"), platform=f"linux/{foreign}")
    assert (image.config.architecture, image.tags, image.digest) == (foreign, ("app:1",), images[1]["digest"])
    with pytest.raises(ImageNotFound, match=f"nothing for linux/mips64le; it is for linux/{HOST.architecture}"):
        engine.load(tmp_path / "layout", platform="linux/mips64le")


def test_blobs_of_other_platforms_need_not_be_there(engine, tmp_path):
    layout = Layout()
    absent = {"mediaType": MANIFEST, "digest": str(Digest.of(b"absent")), "size": 6, "platform": on("s390x")}
    layout.add(layout.index(absent, layout.image(tar({"file": b"x"}), platform=on(HOST.architecture))), name="app:1")
    assert content(engine, engine.load(layout.folder(tmp_path / "layout"))[0]) == "x"


def test_several_platforms_under_one_name_at_the_top(engine, tmp_path):
    layout = Layout()
    layout.add(layout.image(tar({"file": b"other"}), platform=on("s390x")), name="app:1")
    layout.add(layout.image(tar({"file": b"ours"}), platform=on(HOST.architecture)), name="app:1")
    (image,) = engine.load(layout.folder(tmp_path / "layout"))
    assert (content(engine, image), image.tags) == ("ours", ("app:1",))


def test_nothing_for_this_platform_says_what_there_is(engine, tmp_path):
    layout = Layout()
    layout.add(layout.index(*(layout.image(tar({"file": b"x"}), platform=on(name)) for name in ("s390x", "ppc64le"))))
    with pytest.raises(ImageNotFound, match="it is for linux/s390x, linux/ppc64le"):
        engine.load(layout.folder(tmp_path / "layout"))


def damaged(layout, change):
    files = layout.finish()
    change(files)
    return tar(files)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda files: files.pop("index.json"), MalformedImage, "neither index.json"),
        (lambda files: files.update({"index.json": b"{"}), MalformedImage, "not valid JSON"),
        (lambda files: files.update({name: b"changed" for name in files if "blobs" in name}), ContentMismatch, "blob"),
        (lambda files: [files.pop(name) for name in list(files) if "blobs" in name], MalformedImage, "is not in it"),
    ],
)  # fmt: skip
def test_damaged_layouts(engine, tmp_path, change, error, message):
    layout = Layout()
    layout.add(layout.image(tar({"file": b"x"})), name="app:1")
    (tmp_path / "layout.tar").write_bytes(damaged(layout, change))
    with pytest.raises(error, match=message):
        engine.load(tmp_path / "layout.tar")
    assert [image.tags for image in engine.images()] == [("hello-world",)]


@pytest.mark.parametrize("name", ["../{}", "{}", "link", "blobs/../../{}"])
def test_a_layout_names_no_file_outside_it(engine, tmp_path, name):
    """A manifest.json may say anything, and a file of this machine would be in the image."""
    outside = tmp_path / "backup.tar"
    outside.write_bytes(tar({"file": b"private"}))
    layout = tmp_path / "layout"
    layout.mkdir()
    (layout / "link").symlink_to(outside)
    (layout / "config.json").write_bytes(config(outside.read_bytes()))
    given = name.format(outside if name == "{}" else outside.name)
    (layout / "manifest.json").write_text(json.dumps([{"Config": "config.json", "Layers": [given]}]))
    with pytest.raises(MalformedImage, match="is not in it"):
        engine.load(layout)
    (layout / "manifest.json").write_text(json.dumps([{"Config": "/etc/passwd", "Layers": []}]))
    with pytest.raises(MalformedImage, match="/etc/passwd is not in it"):
        engine.load(layout)


def test_a_manifest_without_end(engine):
    with pytest.raises(MalformedImage, match="not valid JSON"):
        engine.load(io.BytesIO(tar({"manifest.json": b"[" * 100_000})))
    sparse = io.BytesIO()
    with tarfile.open(fileobj=sparse, mode="w:gz") as archive:
        info = tarfile.TarInfo("manifest.json")
        info.size = 100 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    sparse.seek(0)
    with pytest.raises(StoreError, match="larger than any manifest or config"):
        engine.load(sparse)


def test_what_is_no_archive(engine, tmp_path):
    (tmp_path / "text").write_text("no archive " * 100)
    with pytest.raises(MalformedImage, match="this is no tar"):
        engine.load(tmp_path / "text")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        engine.load(tmp_path / "missing")
    (tmp_path / "rootfs.tar").write_bytes(tar({"etc/passwd": b""}))
    with pytest.raises(MalformedImage) as caught:
        engine.load(tmp_path / "rootfs.tar")
    assert "capsule import" in caught.value.hint
    (tmp_path / "folder").mkdir()
    with pytest.raises(ImageNotFound, match="no OCI layout"):
        engine.image(f"oci:{tmp_path / 'folder'}")


# -- save ------------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded_the_same(engine, another, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM hello-world\nCOPY file /file\nENV A=b\n")
    (tmp_path / "file").write_text("content")
    engine.build(tmp_path, tag="app:1")
    engine.tag("app:1", "app:2")
    engine.save(["app:1", "hello-world"], tmp_path / "images.tar")
    app, hello = another.load(tmp_path / "images.tar")
    assert (app.tags, hello.tags) == (("app:1",), ("hello-world:latest",)), "the names by which they were given"
    assert app.id == engine.image("app:1").id
    assert app.digest == engine.image("app:1").digest
    assert content(another, app) == "content"
    another.save(app, tmp_path / "again.tar")
    engine.save(["app:1"], tmp_path / "first.tar")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "first.tar").read_bytes()


def test_an_image_is_saved_with_all_its_names(engine, another, tmp_path):
    image = engine.tag(engine.tag("hello-world", "one:1"), "two:2")
    engine.save(image, tmp_path / "image.tar")
    assert another.load(tmp_path / "image.tar")[0].tags == ("one:1", "two:2")


def test_through_a_pipe(engine, another):
    read, write = os.pipe()
    with open(read, "rb") as source, open(write, "wb") as target:
        engine.save("hello-world", target)
        target.close()
        (image,) = another.load(source)
    assert image.id == engine.image("hello-world").id


def test_a_layout_as_a_folder_gathers_images(engine, another, tmp_path):
    folder = tmp_path / "layout"
    engine.tag("hello-world", "one:1")
    engine.tag("hello-world", "two:2")
    for name in ("one:1", "two:2", "one:1"):
        engine.save(name, folder, format="oci-dir")
    assert len(json.loads((folder / "index.json").read_bytes())["manifests"]) == 2
    assert another.load(folder)[0].tags == ("one:1", "two:2")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(UsageError, match="something else in it"):
        engine.save("one:1", tmp_path / "other", format="oci-dir")
    with pytest.raises(UsageError, match="no such format") as caught:
        engine.save("one:1", folder, format="zip")
    assert "docker-archive or oci-dir" in caught.value.hint


def test_nothing_half_written_is_left(engine, tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        engine.save("hello-world", tmp_path / "missing/image.tar")
    with pytest.raises(ImageNotFound):
        engine.save(["hello-world", "nothing"], tmp_path / "image.tar")
    assert not [path for path in tmp_path.iterdir() if path.name not in ("cache", "another")]


def test_what_is_no_file_is_written_to_where_it_is(engine, another, tmp_path):
    """``-o /dev/stdout`` replaced the device, as root, and gave a reader nothing."""
    engine.image("hello-world")
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        engine.save("hello-world", fifo)
        os.set_blocking(reader, True)
        with open(reader, "rb", closefd=False) as file:
            (tmp_path / "read").write_bytes(file.read())
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(os.lstat(fifo).st_mode)
    link.symlink_to("file")
    engine.save("hello-world", link)
    assert os.readlink(link) == "file"
    for path in (tmp_path / "read", tmp_path / "file"):
        assert [image.tags for image in another.load(path)] == [("hello-world:latest",)]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_an_image_on_this_machine_comes_back_on_this_machine(engine, another, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM capsule/host\nRUN echo made > /srv/file && rm /etc/passwd\n")
    engine.build(tmp_path, tag="app")
    engine.save("app", tmp_path / "app.tar")
    (image,) = another.load(tmp_path / "app.tar")
    assert image.host_directories == engine.image("app").host_directories
    with another.run(image, command=["cat", "/srv/file"]) as container:
        assert (container.wait(timeout=60), container.logs()) == (0, "made\n")
        assert not container.exists("/etc/passwd")


def test_an_image_on_another_machine_is_refused(engine, tmp_path, monkeypatch):
    engine.save("capsule/host", tmp_path / "host.tar")
    monkeypatch.setattr(engine._packing, "_host_directories", lambda: ("/usr",))
    with pytest.raises(ImageNotFound, match="capsule/host of another machine"):
        engine.load(tmp_path / "host.tar")


# -- import ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["file", "pipe", "folder"])
def test_a_root_filesystem(engine, tmp_path, form):
    rootfs = tmp_path / "rootfs"
    (rootfs / "dir").mkdir(parents=True)
    (rootfs / "file").write_text("x")
    os.link(rootfs / "file", rootfs / "dir/hard")
    (rootfs / "link").symlink_to("file")
    rootfs.chmod(0o711)
    packed = subprocess.run(
        ["tar", "-C", rootfs, "--owner=0", "--group=0", "-czf", "-", "."], check=True, capture_output=True
    ).stdout
    (tmp_path / "rootfs.tar.gz").write_bytes(packed)
    source = {"file": tmp_path / "rootfs.tar.gz", "pipe": io.BytesIO(packed), "folder": rootfs}[form]
    changes = ['CMD ["run", "it"]', "ENV A=1 B=$A", "WORKDIR /dir", "EXPOSE 80", "LABEL a=b", "USER 7"]
    image = engine.import_rootfs(source, "base:1", changes=changes, message="from here")
    assert image.tags == ("base:1",)
    run = image.config.config
    assert (run.cmd, run.working_dir, run.exposed_ports, run.labels, run.user) == (
        ("run", "it"), "/dir", ("80/tcp",), {"a": "b"}, "7",
    )  # fmt: skip
    assert run.env_dict() == {"A": "1", "B": ""}, "as in a Dockerfile: what a line sets is for the next"
    assert engine.history("base:1")[0].comment == "from here"
    with engine.run("base:1", command=[]) as container:
        stat = container._call({"op": "stat", "path": "/dir/hard", "follow": False})[0]["stat"]
        assert (container.read_text("/link"), stat["size"]) == ("x", 1)
        assert container._call({"op": "stat", "path": "/", "follow": False})[0]["stat"]["mode"] & 0o777 == 0o711
    assert len(image.diff_ids) == 1


def test_what_cannot_be_imported(engine, tmp_path):
    (tmp_path / "text").write_text("no tar" * 200)
    with pytest.raises(MalformedImage, match="this is no tar"):
        engine.import_rootfs(tmp_path / "text")
    wrong = {"RUN true": "RUN makes a layer", "NONSENSE": "unknown instruction", "ENV": "change 'ENV'"}
    for change, message in wrong.items():
        with pytest.raises(UsageError, match=message):
            engine.import_rootfs(tmp_path / "text", changes=[change])


@pytest.mark.identities("range", "single")
def test_a_folder_of_somebody_else_is_refused_with_the_way_out(engine, debian_rootfs):
    with pytest.raises(UsageError, match="belongs to another user") as caught:
        engine.import_rootfs(debian_rootfs)
    assert "--numeric-owner" in caught.value.hint


# -- killed ----------------------------------------------------------------------------------------------------------


def test_a_load_that_is_killed_leaves_nothing_and_can_be_repeated(engine, tmp_path):
    """Killed at a hundred moments of it, by whichever byte of its input it has read."""
    engine.save("hello-world", tmp_path / "image.tar")
    data = (tmp_path / "image.tar").read_bytes()
    program = "import sys; from pytest_capsule import Engine; Engine(sys.argv[1]).load(sys.stdin.buffer)"
    cache = tmp_path / "killed"
    for part in (1, 300, 1000, 1700, len(data) - 10, len(data)):
        process = subprocess.Popen([sys.executable, "-c", program, str(cache)], stdin=subprocess.PIPE)
        process.stdin.write(data[:part])
        process.stdin.flush()
        process.kill()
        process.wait()
        process.stdin.close()
    with Engine(cache_dir=cache) as other:
        assert other.load(io.BytesIO(data))[0].id == engine.image("hello-world").id
        assert len(list((other._store.root / "tmp").glob("*.lock"))) == 1
        assert other.image("hello-world:latest").diff_ids
