"""Which layers a build makes, and what is in them."""

import os

import pytest


def test_one_layer_an_instruction_that_changes_files(project):
    image = project.build(
        "FROM capsule/host\nENV A=1\nRUN echo 1 > /one\nRUN true\nLABEL a=b\nWORKDIR /new\nWORKDIR /new\n"
        "COPY Dockerfile /new/\nCMD true\n"
    )
    base = project.engine.image("capsule/host")
    assert len(image.layers) == len(base.layers) + 3
    assert [entry.empty_layer for entry in image.config.history] == [True, False, True, True, False, True, False, True]


def test_a_layer_holds_what_the_step_wrote_and_nothing_else(project, names_in):
    image = project.build("FROM capsule/host\nRUN mkdir /made && echo x > /made/file && echo y > /usr/local/share/y\n")
    assert names_in(image.layers[-1]) == [
        "made", "made/file", "usr", "usr/local", "usr/local/share", "usr/local/share/y",
    ]  # fmt: skip
    assert not os.path.exists("/usr/local/share/y")


def test_nothing_that_a_run_had_mounted_is_in_its_layer(project, names_in):
    image = project.build(
        "FROM capsule/host\nRUN touch /dev/x /tmp/t; ls /proc/self /sys > /dev/null; cat /etc/hosts\n"
    )
    assert names_in(image.layers[-1]) == ["tmp", "tmp/t"]


def test_deletions_reach_through_the_layers(project):
    project.write("tree/kept", "k")
    project.write("tree/gone", "g")
    project.write("tree/dir/deep", "d")
    image = project.build(
        "FROM capsule/host\nCOPY tree /tree\nRUN rm /tree/gone && rm -r /tree/dir && rm /usr/bin/env\n"
        "RUN mkdir /tree/dir && touch /tree/dir/new && ls /tree/dir\n"
    )
    assert project.output() == "new\n", "an opaque directory hides what was below it"
    with project.files(image) as container:
        assert container.listdir("/tree") == ["dir", "kept"]
        assert container.listdir("/tree/dir") == ["new"]
        assert not container.exists("/usr/bin/env")
    assert os.path.exists("/usr/bin/env")
    again = project.build("FROM capsule/host\nCOPY tree /tree\nRUN rm -r /tree\nCOPY tree/dir /tree\n")
    with project.files(again) as container:
        assert container.listdir("/tree") == ["deep"]


def test_copy_from_does_not_bring_back_what_was_deleted(project):
    project.write("tree/kept", "k")
    project.write("tree/gone", "g")
    image = project.build(
        "FROM capsule/host AS made\nCOPY tree /tree\nRUN rm /tree/gone\nFROM scratch\nCOPY --from=made /tree /\n"
    )
    with project.files(image) as container:
        assert container.exists("/kept")
        assert not container.exists("/gone")


def test_a_change_of_mode_is_a_layer(project, status):
    project.write("file", "x", mode=0o600)
    image = project.build("FROM capsule/host\nCOPY file /file\nRUN chmod 4711 /file\nRUN chmod 4711 /file\n")
    assert len(image.layers) - len(project.engine.image("capsule/host").layers) >= 2
    with project.files(image) as container:
        assert status(container, "/file").mode & 0o7777 == 0o4711
        assert container.read_text("/file") == "x"


@pytest.mark.identities("root", "range")
def test_a_change_of_owner_is_a_layer(project, status):
    project.write("file", "x")
    with project.files(project.build("FROM capsule/host\nCOPY file /file\nRUN chown 7:8 /file\n")) as container:
        assert (status(container, "/file").uid, status(container, "/file").gid) == (7, 8)


def test_the_layer_is_the_steps_own_directory(project):
    """By rename: the directory keeps its inode, so no file of it was copied."""
    inodes = []

    def look(event):
        if event.kind == "output":
            (made,) = project.engine.cache_dir.glob("tmp/*/*/fs/made")
            inodes.append(made.stat().st_ino)

    project.write("Dockerfile", "FROM capsule/host\nRUN mkdir /made && echo rename\n")
    image = project.engine.build(project.root, progress=look)
    assert [os.stat(f"{image.layers[-1].path}/made").st_ino] == inodes


def test_seventy_layers(project):
    lines = [f"RUN echo {n} > /n{n}; echo {n} > /last" for n in range(35)]
    lines += [f"COPY Dockerfile /c{n}" for n in range(35)]
    image = project.build("FROM capsule/host\n" + "\n".join(lines) + "\nRUN cat /n0 /n34 /last\n")
    assert len(image.layers) >= 71
    assert project.output() == "0\n34\n34\n"
    with project.engine.run(image, command=["sh", "-c", "cat /n17; ls -d /c[0-9]* | wc -l"]) as container:
        assert container.wait(timeout=30) == 0
        assert container.logs() == "17\n35\n"


@pytest.mark.xfail(strict=True, reason="fsconfig(2) takes 255 bytes, and mount.overlay shortens the lower names only")
def test_a_store_at_a_very_long_path(tmp_path):
    from pytest_capsule import Engine

    deep = tmp_path
    while len(str(deep)) < 700:
        deep = deep / ("long" * 25)
    context = tmp_path / "context"
    context.mkdir()
    lines = "".join(f"RUN echo {n} > /n{n}\n" for n in range(12))
    (context / "Dockerfile").write_text(f"FROM capsule/host\n{lines}COPY Dockerfile /d\nRUN cat /n0 /n11\n")
    output = []
    with Engine(cache_dir=deep) as engine:
        engine.build(context, progress=lambda event: output.append(event.text) if event.kind == "output" else None)
    assert "".join(output) == "0\n11\n"


def test_the_root_of_an_image_is_open_to_everybody(tmp_path):
    from pytest_capsule import Engine

    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /etc/d\n")
    before = os.umask(0o077)
    try:
        with Engine(cache_dir=tmp_path / "cache") as engine, engine.run(engine.build(context), command=[]) as container:
            modes = {
                path: container._call({"op": "stat", "path": path, "follow": False})[0]["stat"]["mode"] & 0o7777
                for path in ("/", "/etc", "/etc/hosts")
            }
    finally:
        os.umask(before)
    assert modes == {"/": 0o755, "/etc": 0o755, "/etc/hosts": 0o644}


def test_sixty_layers_are_built_run_and_committed(project):
    text = "FROM capsule/host\n" + "".join(f"RUN echo {n} > /layer{n}; echo {n} > /last\n" for n in range(60))
    image = project.build(text)
    assert len(image.layers) >= 60
    look = "cat /last; ls / | grep -c ^layer; rm /layer0; echo over > /layer59"
    with project.engine.run(image, command=["sh", "-c", look]) as container:
        assert container.wait(timeout=60) == 0
        assert container.logs() == "59\n60\n"
        committed = container.commit()
    with project.engine.run(committed, command=["sh", "-c", "ls / | grep -c ^layer; cat /layer59"]) as container:
        assert container.wait(timeout=60) == 0
        assert container.logs() == "59\nover\n"
    assert project.build(text + "RUN test $(ls / | grep -c ^layer) = 60\n")
    assert project.count() == {"cached": 60, "done": 1}
