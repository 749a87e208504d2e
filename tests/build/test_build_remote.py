"""ADD of URLs and of git references, from servers on loopback."""

import email.utils
import functools
import hashlib
import http.server
import io
import os
import pwd
import shutil
import socketserver
import stat
import subprocess
import tarfile
import threading

import pytest
from peers import peer, without

from pytest_capsule import Engine
from pytest_capsule.build.git import GitReference
from pytest_capsule.errors import BuildError, DockerfileError

CHANGED = 1_500_000_000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        answer = self.server.files.get(self.path.partition("?")[0])
        if answer is None:
            self.send_error(404)
            return
        content, headers = answer
        if headers.get("ETag") and self.headers["If-None-Match"] == headers["ETag"]:
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200 if "Location" not in headers else 302)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A web server: ``files`` by path, ``asked`` what it was asked for, ``url`` its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.files, found.asked = {}, []
        found.url = f"http://127.0.0.1:{found.server_port}"
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            found.shutdown()
            thread.join()


def tar(**files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    return data.getvalue()


def test_a_url_is_a_file_of_mode_600_and_of_its_last_change(project, server, status):
    date = email.utils.formatdate(CHANGED, usegmt=True)
    server.files["/dir/tool.bin"] = (
        b"content",
        {"Last-Modified": date, "Content-Disposition": 'attachment; filename="x"'},
    )
    server.files["/"] = (b"root", {})
    image = project.build(
        f"FROM scratch\nADD {server.url}/dir/tool.bin?version=1 /in/\nADD {server.url}/dir/tool.bin /renamed\n"
        f"ADD --chmod=755 {server.url} /in/\n"
    )
    with project.files(image) as container:
        assert container.listdir("/in") == ["__unnamed__", "tool.bin"]
        assert container.read_text("/renamed") == "content"
        info, other = status(container, "/in/tool.bin"), status(container, "/in/__unnamed__")
    assert (stat.S_IMODE(info.mode), info.uid, info.gid, info.mtime_ns) == (0o600, 0, 0, CHANGED * 10**9)
    assert (stat.S_IMODE(other.mode), other.mtime_ns) == (0o755, 0)
    assert image.config.history[-1].created_by == f"ADD --chmod=755 {server.url} /in/ # buildkit"


def test_an_archive_from_a_url_is_unpacked_only_on_demand(project, server):
    server.files["/a.tgz"] = (tar(inner="text"), {})
    image = project.build(
        f"FROM scratch\nADD {server.url}/a.tgz /kept/\nADD --unpack {server.url}/a.tgz /unpacked/\n"
        f"ADD --unpack=false {server.url}/a.tgz /kept2/\n"
    )
    with project.files(image) as container:
        assert container.listdir("/kept") == container.listdir("/kept2") == ["a.tgz"]
        assert container.read_text("/unpacked/inner") == "text"


def test_the_key_takes_what_the_server_has(project, server):
    server.files["/file"] = (b"one", {"Last-Modified": email.utils.formatdate(CHANGED, usegmt=True)})
    text = f"FROM scratch\nADD {server.url}/file /\n"
    project.build(text)
    server.files["/file"] = (b"one", {"Last-Modified": email.utils.formatdate(CHANGED + 60, usegmt=True)})
    project.build()
    assert project.kinds() == ["cached"], "a time is no content"
    server.files["/file"] = (b"two", {})
    with project.files(project.build()) as container:
        assert container.read_text("/file") == "two"


def test_an_etag_spares_the_content(project, server):
    server.files["/file"] = (b"one", {"ETag": '"v1"'})
    text = f"FROM scratch\nADD {server.url}/file /a/\n"
    project.build(text)
    project.build()
    assert project.kinds() == ["cached"]
    assert [headers.get("If-None-Match") for _, headers in server.asked] == [None, '"v1"']
    project.build(
        f"FROM scratch\nADD {server.url}/file /elsewhere/\n"
    )  # what has not changed is fetched for another step
    assert project.kinds() == ["done"]
    server.files["/file"] = (b"two", {"ETag": '"v2"'})
    with project.files(project.build()) as container:
        assert container.read_text("/elsewhere/file") == "two"


def test_a_checksum_is_checked_and_spares_the_question(project, server):
    server.files["/file"] = (b"content", {})
    right = hashlib.sha256(b"content").hexdigest()
    text = f"FROM scratch\nADD --checksum=sha256:{right} {server.url}/file /\n"
    project.build(text)
    server.asked.clear()
    project.build()
    assert (project.kinds(), server.asked) == (["cached"], [])
    with pytest.raises(
        BuildError, match=f"digest mismatch: sha256:{right} came, sha256:{'0' * 64} was expected"
    ) as caught:
        project.build(f"FROM scratch\nADD --checksum=sha256:{'0' * 64} {server.url}/file /\n")
    assert caught.value.line == 2


def test_a_redirect_is_followed_and_the_name_is_that_of_the_dockerfile(project, server):
    server.files["/short"] = (b"", {"Location": f"{server.url}/long/name"})
    server.files["/long/name"] = (b"there", {})
    with project.files(project.build(f"FROM scratch\nADD {server.url}/short /in/\n")) as container:
        assert container.read_text("/in/short") == "there"


@pytest.mark.parametrize(
    ("path", "reason", "hint"),
    [("/missing", "404 Not Found", "look whether"), (None, "Connection refused", "reachable")],
)
def test_what_cannot_be_fetched(project, server, path, reason, hint):
    url = server.url + path if path else "http://127.0.0.1:1/x"
    with pytest.raises(BuildError, match=reason) as caught:
        project.build(f"FROM scratch\nCOPY . /\nADD {url} /\n")
    assert (caught.value.line, caught.value.step) == (3, f"ADD {url} /")
    assert hint in caught.value.hint
    assert len(project.engine.image(caught.value.image).layers) == 1


def test_a_token_for_the_host_is_sent_and_kept_nowhere(project, server):
    server.files["/file"] = (b"content", {})
    text = f"FROM scratch\nADD {server.url}/file /\n"
    project.build(text, secrets={"HTTP_AUTH_TOKEN_127.0.0.1": "canary-token\n"})
    assert server.asked[0][1]["Authorization"] == "Bearer canary-token"
    assert (
        subprocess.run(["grep", "-rl", "canary-token", project.engine._store.root], capture_output=True).stdout == b""
    )


@pytest.mark.identities("root")
def test_a_download_that_fills_the_disk_leaves_nothing(project, server, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    server.files["/big"], server.files["/small"] = (bytes(12 << 20), {}), (b"small", {})
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    try:
        with Engine(cache_dir=disk / "cache") as project.engine:
            for _ in range(2):  # and so the first has left no room taken
                free = shutil.disk_usage(disk).free
                with pytest.raises(BuildError, match=f"{server.url}/big: No space left on device"):
                    project.build(f"FROM scratch\nADD {server.url}/small /\nADD {server.url}/big /\n")
            assert shutil.disk_usage(disk).free == free
            with project.files(project.build(f"FROM scratch\nADD {server.url}/small /\n")) as container:
                assert container.read_text("/small") == "small"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# -- git ---------------------------------------------------------------------------------------------------------------


def git(folder, *words):
    identity = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nowhere"}
    identity |= {
        f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *words], env={**os.environ, **identity}, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def make_bare(root):
    """What a server has of a repository, to be served as files."""
    for folder in (root / ".git").iterdir():
        shutil.move(folder, root / folder.name)
    git(root, "config", "core.bare", "true")
    git(root, "update-server-info")


@pytest.fixture
def repository(tmp_path):
    """A repository with a tag, two branches and a folder, served as files over http: its folder and its URL."""
    peer("git")
    root = tmp_path / "served" / "name.git"
    (root / "docs").mkdir(parents=True)
    (root / "run").write_text("first")
    (root / "run").chmod(0o755)
    (root / "docs/page").write_text("page")
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    git(root, "tag", "--annotate", "--message=one", "v1")
    git(root, "switch", "--quiet", "--create", "side")
    (root / "run").write_text("side")
    git(root, "commit", "--quiet", "--all", "--message=side")
    git(root, "switch", "--quiet", "main")
    (root / "run").write_text("second")
    git(root, "commit", "--quiet", "--all", "--message=second")
    git(root, "update-ref", "refs/pull/7/head", "side")
    make_bare(root)
    handler = functools.partial(_Quiet, directory=str(root.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield root, f"http://127.0.0.1:{server.server_port}/name.git"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("reference", "content"),
    [
        ("", "second"),
        ("#v1", "first"),
        ("#side", "side"),
        ("#refs/heads/side", "side"),
        ("#heads/side", "side"),
        ("#tags/v1", "first"),
        ("#pull/7/head", "side"),
        ("?branch=side", "side"),
        ("?tag=v1", "first"),
    ],
)
def test_a_git_reference_gives_the_files_of_its_commit(project, repository, status, reference, content):
    _, url = repository
    with project.files(project.build(f"FROM scratch\nADD {url}{reference} /src/\n")) as container:
        assert container.read_text("/src/run") == content
        assert container.listdir("/src") == ["docs", "run"], "and not its history"
        info = status(container, "/src/run")
    assert (stat.S_IMODE(info.mode), info.uid, info.gid) == (0o755, 0, 0)


def test_a_commit_a_folder_and_the_history(project, repository):
    root, url = repository
    commit = git(root, "rev-parse", "v1^{commit}")
    image = project.build(
        f"FROM scratch\nADD {url}#{commit} /commit\nADD {url}#v1:docs /docs\nADD --keep-git-dir=true {url}#side /kept\n"
        f"ADD --checksum={commit[:12]} --exclude=docs {url}?tag=v1 /checked\n"
    )
    with project.files(image) as container:
        assert container.read_text("/commit/run") == "first"
        assert container.listdir("/docs") == ["page"]
        assert ".git" in container.listdir("/kept")
        assert container.listdir("/checked") == ["run"]


def test_a_checksum_is_of_a_commit_or_of_the_tag_that_names_it(project, repository):
    root, url = repository
    for name in ("v1^{commit}", "v1^{tag}"):
        text = f"FROM scratch\nADD --checksum={git(root, 'rev-parse', name)} {url}#v1 /\n"
        with project.files(project.build(text)) as container:
            assert container.read_text("/run") == "first"


def test_the_first_digits_of_a_commit_say_what_the_default_branch_has_to_be(project, repository):
    root, url = repository
    main, side = (git(root, "rev-parse", name)[:8] for name in ("main", "side"))
    with project.files(project.build(f"FROM scratch\nADD {url}?commit={main} /\n")) as container:
        assert container.read_text("/run") == "second"
    with pytest.raises(BuildError, match=f"expected checksum to match {side}, got {main}"):
        project.build(f"FROM scratch\nADD {url}?commit={side} /\n")


def test_a_repository_with_submodules_on_a_server_that_only_has_files(project, repository):
    root, url = repository
    whole = root.parent / "whole.git"
    whole.mkdir()
    git(whole, "init", "--quiet", "--initial-branch=main")
    git(whole, "submodule", "--quiet", "add", url, "part")
    git(whole, "commit", "--quiet", "--message=whole")
    make_bare(whole)
    text = f"FROM scratch\nADD {url.replace('name.git', 'whole.git')} /\n"
    with project.files(project.build(text)) as container:
        assert container.read_text("/part/run") == "second"


def test_a_repository_whose_objects_are_named_by_sha256(project, repository):
    root, url = repository
    new = root.parent / "new.git"
    new.mkdir()
    git(new, "init", "--quiet", "--initial-branch=main", "--object-format=sha256")
    (new / "file").write_text("new")
    git(new, "add", "--all")
    git(new, "commit", "--quiet", "--message=new")
    make_bare(new)
    text = f"FROM scratch\nADD --checksum={git(new, 'rev-parse', 'main')} {url.replace('name.git', 'new.git')} /\n"
    with project.files(project.build(text)) as container:
        assert container.read_text("/file") == "new"


def test_the_key_takes_the_commit(project, repository):
    root, url = repository
    text = f"FROM scratch\nADD {url}#main /\n"
    project.build(text)
    project.build()
    assert project.kinds() == ["cached"]
    git(root, "update-ref", "refs/heads/main", "refs/heads/side")
    git(root, "update-server-info")
    with project.files(project.build()) as container:
        assert container.read_text("/run") == "side"


@pytest.mark.parametrize(
    ("flags", "reference", "reason"),
    [
        ("", "#nowhere", "there is no branch, tag or commit nowhere"),
        ("--checksum=0123456 ", "#v1", "expected checksum to match 0123456, got "),
        ("", "#v1:missing", "missing: No such file or directory in the repository"),
        ("", "/../other.git", "not found"),
    ],
)
def test_a_reference_that_cannot_be_had(project, repository, flags, reference, reason):
    _, url = repository
    with pytest.raises(BuildError, match=reason) as caught:
        project.build(f"FROM scratch\nADD {flags}{url}{reference} /\n")
    assert caught.value.line == 2


@pytest.fixture
def ssh_host(tmp_path, agent):
    """A server for ssh on loopback that runs as this user and lets the agent's key in: ``user@host:port``."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") or without("sshd", "openssh-server")
    if os.getuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # as the service does before it starts one
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "host")], check=True)
    settings = {
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "key.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
    }
    (tmp_path / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    class Connection(socketserver.BaseRequestHandler):
        def handle(self):
            command = [sshd, "-i", "-f", str(tmp_path / "sshd_config"), "-E", str(tmp_path / "sshd.log")]
            subprocess.run(command, stdin=self.request, stdout=self.request, check=False, timeout=60)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{pwd.getpwuid(os.getuid()).pw_name}@127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_repository_with_submodules_over_ssh(project, repository, ssh_host, agent):
    root, _ = repository
    whole = root.parent / "whole"
    whole.mkdir()
    git(whole, "init", "--quiet", "--initial-branch=main")
    allowed = ("-c", "protocol.file.allow=always")
    git(whole, *allowed, "submodule", "--quiet", "add", str(root), "part")
    git(whole, "config", "--file=.gitmodules", "submodule.part.url", "../name.git")
    git(whole, "add", "--all")
    git(whole, "commit", "--quiet", "--message=whole")
    url = f"ssh://{ssh_host}{whole}"
    text = f"FROM scratch\nADD {url}#main /with/\nADD {url}?submodules=false /without/\n"
    with project.files(project.build(text, ssh=[f"default={agent}"])) as container:
        assert container.read_text("/with/part/run") == "second"
        assert container.listdir("/with/part") == ["docs", "run"], "without what makes it a submodule"
        assert container.listdir("/without/part") == []
    with pytest.raises(BuildError, match="Permission denied") as caught:
        project.build(f"FROM scratch\nADD {url}#main /again/\n")
    assert "give the build an agent" in caught.value.hint


def test_without_git_the_error_says_what_to_install(project, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BuildError, match="the program git is not installed") as caught:
        project.build("FROM scratch\nADD https://example.invalid/name.git /\n")
    assert "apt-get install git" in caught.value.hint


REMOTE = "https://example.org/a/b.git"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (REMOTE, GitReference(REMOTE)),
        (f"{REMOTE}#ref/x:sub/dir", GitReference(REMOTE, "ref/x", "sub/dir")),
        (f"{REMOTE}?ref=v1&subdir=d", GitReference(REMOTE, "v1", "d")),
        (f"{REMOTE}?tag=v1", GitReference(REMOTE, "refs/tags/v1")),
        (f"{REMOTE}?branch=x&keep-git-dir=1", GitReference(REMOTE, "refs/heads/x", keep_git_dir=True)),
        (f"{REMOTE}?commit=abcdef0", GitReference(REMOTE, checksum="abcdef0")),
        (f"{REMOTE}?commit={'ab' * 20}", GitReference(REMOTE, "ab" * 20, checksum="ab" * 20)),
        (f"{REMOTE}?submodules=false", GitReference(REMOTE, submodules=False)),
        ("git@example.org:a/b#main", GitReference("git@example.org:a/b", "main")),
        ("ssh://git@example.org/a/b", GitReference("ssh://git@example.org/a/b")),
        ("git://example.org/a/b#x", GitReference("git://example.org/a/b", "x")),
        ("https://example.org/a/b", None),
        ("https://example.org/a/b.git/", None),
        ("github.com/a/b", None),
        ("./name.git", None),
        ("name.git", None),
        ("ftp://example.org/a.git", None),
        ("dir/file", None),
    ],
)
def test_what_is_a_git_reference(text, expected):
    assert GitReference.parse(text) == expected


@pytest.mark.parametrize("query", ["x=1", "ref=", "ref=a&ref=b", "tag=a&branch=b", "ref=a&tag=b", "keep-git-dir=maybe"])
def test_a_query_that_cannot_be_meant(query):
    with pytest.raises(DockerfileError):
        GitReference.parse(f"{REMOTE}?{query}")
