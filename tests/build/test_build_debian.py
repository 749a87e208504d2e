"""A real distribution: its package manager in a RUN, and what it installed in a container of the result."""


def test_apt_get_install(project, debian_tar):
    """The one test that needs the network: packages come from where this machine's apt takes them."""
    image = project.build(
        f"FROM rootfs:{debian_tar}\n"
        "ENV DEBIAN_FRONTEND=noninteractive\n"
        "RUN apt-get update && apt-get install -y --no-install-recommends tree && rm -rf /var/lib/apt/lists/*\n"
        'ENTRYPOINT ["tree"]\nCMD ["--version"]\n'
    )
    with project.engine.run(image) as container:
        assert container.wait(timeout=60) == 0
        assert container.logs().startswith("tree v")
    project.build()
    assert project.kinds() == ["cached"]


def test_users_and_groups_of_the_image(project, debian_tar):
    image = project.build(
        f"FROM rootfs:{debian_tar}\nCOPY --chown=root:root Dockerfile /etc/copied\n"
        "RUN ls -l /etc/copied | cut -d' ' -f3,4\n"
    )
    assert project.output() == "root root\n"
    with project.engine.run(image, command=["sh", "-c", "cat /etc/debian_version; id -un"]) as container:
        assert container.wait(timeout=60) == 0
        assert container.logs().splitlines()[1] == "root"
