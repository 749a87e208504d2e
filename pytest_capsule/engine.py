"""The engine: where Dockerfiles, images, layers and containers meet.

``Engine.start`` is the data path of one test, from left to right: what is asked for → image (built or found) → layers →
root filesystem → container → its main process → ready.
"""

from __future__ import annotations

import contextlib
import functools
import os
import posixpath
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# What a test with a container of a local image needs. All else is imported by the method that uses it: see "What a
# process pays" in docs/architecture.md.
from pytest_capsule import launch
from pytest_capsule.errors import UnsupportedHost, UsageError
from pytest_capsule.images import DOCKER_FORMAT, Images, refuse_scratch
from pytest_capsule.locations import location_of
from pytest_capsule.network import names, outbound
from pytest_capsule.network.ports import parse_ports
from pytest_capsule.networks import Network, Ports
from pytest_capsule.oci.platform import Platform
from pytest_capsule.oci.reference import Reference, familiar
from pytest_capsule.outbound import Outbound, installed, on_host_instead
from pytest_capsule.registry.settings import RegistrySettings
from pytest_capsule.runtime import changes
from pytest_capsule.runtime.cgroups import Cgroups
from pytest_capsule.runtime.container import Container
from pytest_capsule.runtime.limits import Limits, parse_size
from pytest_capsule.runtime.logs import LogPump
from pytest_capsule.runtime.spec import RuntimeSpec
from pytest_capsule.runtime.supervisor import Supervisor, host_ids
from pytest_capsule.runtime.worker import Crew, Worker
from pytest_capsule.spec import Build, ContainerSpec
from pytest_capsule.stacking import Stacking, Writable
from pytest_capsule.store import host, trees
from pytest_capsule.store.image import Image, Tree
from pytest_capsule.store.store import Store, claim_of_layer
from pytest_capsule.volumes import Volume, Volumes, find_path, mounts_of

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_capsule.archives import Archives, Source
    from pytest_capsule.build.events import BuildEvent
    from pytest_capsule.build.secrets import Secret
    from pytest_capsule.check import HostReport
    from pytest_capsule.distribution import Distribution, TransferEvent
    from pytest_capsule.dockerfile.lint import LintResult
    from pytest_capsule.oci.config import History
    from pytest_capsule.runtime.borrowed import Lent
    from pytest_capsule.shared_cache import SharedCache
    from pytest_capsule.store.collection import Pruned
    from pytest_capsule.store.packing import Packing
    from pytest_capsule.store.verification import Verified
    from pytest_capsule.workshop import ContainerWorkshop

Progress = Callable[["BuildEvent"], None]
Transfer = Callable[["TransferEvent"], object]


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/pytest-capsule``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytest-capsule"


class Engine:
    """Builds images and runs containers. Close it, or use it in a ``with`` block: all it has started is gone then.

    ``cache_dir`` holds its images and layers (default: ``default_cache_dir``); any number of engines, in any number of
    processes, may share it. Safe to use from any thread. ``cache_limit`` is a size (bytes, or a text such as ``20g``):
    when it is closed it cuts what no image with a name has, the build cache and images without one, down to that.

    ``pull`` says when a registry is asked for an image: "missing" (the default), "always" or "never".
    ``registry_mirrors`` are places to ask before a registry, by its name (``{"docker.io": ["mirror.local:5000"]}``);
    ``insecure_registries`` those that are spoken to without TLS, or with a certificate that nobody vouches for. What is
    not given is taken from ``CAPSULE_PULL``, ``CAPSULE_REGISTRY_MIRRORS`` and ``CAPSULE_INSECURE_REGISTRIES``.
    """

    def __init__(
        self,
        cache_dir: str | os.PathLike[str] | None = None,
        *,
        cache_limit: int | str | None = None,
        pull: str | None = None,
        registry_mirrors: Mapping[str, Sequence[str]] | None = None,
        insecure_registries: Sequence[str] | None = None,
    ) -> None:
        self.when_to_pull = _pull_policy(pull or os.environ.get("CAPSULE_PULL") or "missing")
        self._registry_settings = RegistrySettings.read(registry_mirrors, insecure_registries, os.environ)
        self.ids = host_ids()
        self._cache_dir = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        self._store = Store(self._cache_dir.absolute() / self.ids.label, call=self._call_in_store)
        self._supervisor = Supervisor(self.ids, self._store.mountpoint)
        self._worker = Worker(self._supervisor)
        self._wires = Worker(self._supervisor)
        self._stacking = Stacking(self._store, self._worker)
        self._processors = len(os.sched_getaffinity(0))
        self._crew = Crew(self._supervisor, self._processors)
        self._store.packer = lambda: self._packing
        self._pump = LogPump()
        self._ports = Ports(self._supervisor)
        self._outbound = Outbound(self._supervisor)
        self._cgroups = Cgroups()
        self._images = Images(
            self._store,
            foreign=self.ids.kind != "root",
            unpack=self._unpack_rootfs,
            find_in_archive=lambda reference: self._archives.find(reference),
        )
        self._distribution: Distribution | None = None
        self._lock = threading.Lock()
        self._open: dict[str, Container] = {}
        self._writable: dict[str, Writable] = {}
        self._networks: list[Network] = []
        self._volumes = Volumes(self._store.scratch)
        self._closed = False
        self._process = os.getpid()
        self._cache_limit = None if cache_limit is None else _bytes(cache_limit)
        self._store.collect()
        self._cgroups.remove_leftovers()

    def _call_in_store(self, function: str, *paths: str) -> Any:
        if self.ids.kind == "root":
            return trees.call(function, *paths)
        if function in ("move", "remove"):  # most of what goes is this user's own, and needs no other process
            with contextlib.suppress(PermissionError):
                return trees.call(function, *paths)
        with contextlib.suppress(UnsupportedHost):  # where no container can run, there is nothing of its users
            # What those own, or have closed to themselves (a folder of mode 600), this process may not even look at.
            return self._worker.call(trees.__name__, function, *paths)
        return trees.call(function, *paths)

    @functools.cached_property
    def _packing(self) -> Packing:
        from pytest_capsule.store.packing import Packing

        return Packing(self._store, self._crew.call, parallel=self._processors, host_directories=host.directories)

    @functools.cached_property
    def _archives(self) -> Archives:
        from pytest_capsule.archives import Archives

        return Archives(self._store, self._packing, self._crew.call)

    # -- images -------------------------------------------------------------------------------------------------------

    def build(
        self,
        context: str | os.PathLike[str],
        *,
        dockerfile: str | os.PathLike[str] | None = None,
        tag: str | None = None,
        target: str | None = None,
        build_args: Mapping[str, str] | None = None,
        secrets: Mapping[str, Secret] | None = None,
        ssh: Sequence[str] = (),
        platform: str | None = None,
        build_contexts: Mapping[str, str | os.PathLike[str]] | None = None,
        labels: Mapping[str, str] | None = None,
        no_cache: bool = False,
        pull: bool = False,
        cache_from: str | Sequence[str] = (),
        cache_to: str | Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Image:
        """Build an image from a Dockerfile, a step from the cache where nothing that it takes has changed.

        ``context`` is the folder that COPY takes from; ``dockerfile`` is relative to it. ``tag`` is the image's name,
        ``target`` the stage to stop at, ``build_args`` are values for ARG, and with ``no_cache`` every step runs, and
        its cache mounts begin anew. ``secrets`` are for ``RUN --mount=type=secret``, by id: a ``str`` or ``bytes`` is
        the value itself, a ``Path`` a file that holds it.
        ``ssh`` names agents for ``RUN --mount=type=ssh``: ``default`` (that of ``$SSH_AUTH_SOCK``) or ``ID=SOCKET``.
        ``platform``, such as ``linux/arm64``, is what the image is to be for (default: this host). ``build_contexts``
        stand for the stages and images of their names: a folder, ``docker-image://REFERENCE`` or
        ``oci-layout://FOLDER[:TAG]``. ``labels`` are put on the image besides those of the Dockerfile. ``pull`` asks
        the registry anew for what FROM names; ``progress`` is called with each ``BuildEvent``.
        ``DockerfileError`` for a Dockerfile that is wrong, ``BuildError`` for a step that failed.

        ``cache_from`` and ``cache_to`` are where steps and their layers are shared with other machines, as BuildKit
        writes it: ``type=registry,ref=NAME[,mode=max]``, ``type=local,src=FOLDER`` (to write ``dest=``), or a reference
        alone. A cache that cannot be read is a warning; one that cannot be written ends the build (``RegistryError``).
        """
        from pytest_capsule.build import builder
        from pytest_capsule.build.request import request

        self._check_open()
        if tag is not None:
            Reference.to_give(tag)
        wanted = request(
            context,
            dockerfile,
            target=target,
            build_args=build_args,
            no_cache=no_cache,
            secrets=secrets,
            ssh=ssh,
            platform=platform,
            contexts=build_contexts,
            labels=labels,
        )
        tell = progress or _tell_nobody
        with self._store.claims.working(), self._shared_cache(cache_from, cache_to, tell) as sharing:
            image = builder.build(
                wanted,
                store=self._store,
                workshop=self._new_workshop(),
                find_image=functools.partial(self._find_base, pull="always" if pull else None),
                tell=progress,
                sharing=sharing,
            )
            return self._store.tag(image, tag) if tag is not None else image

    @contextlib.contextmanager
    def _shared_cache(
        self, cache_from: str | Sequence[str], cache_to: str | Sequence[str], tell: Progress
    ) -> Iterator[SharedCache | None]:
        """The cache that a build shares: read before, and written when the block ends well."""
        if not cache_from and not cache_to:
            yield None
            return
        from pytest_capsule.shared_cache import SharedCache, parse_places

        sources, targets = parse_places(cache_from, "from"), parse_places(cache_to, "to")
        shared = SharedCache(self._store, self._packing, self._registries, tell)
        try:
            shared.load(sources)
            yield shared
            shared.save(targets)
        finally:
            shared.warn()

    def _find_base(self, reference: str, platform: Platform, note: Callable[[str], None], *, pull: str | None) -> Image:
        from pytest_capsule.progress import in_words

        when = pull or self.when_to_pull
        fetch = functools.partial(self._pull, progress=in_words(note), platform=platform, is_name=False)
        return self._images.obtain(reference, when, fetch, platform)

    def lint(
        self,
        context: str | os.PathLike[str],
        *,
        dockerfile: str | os.PathLike[str] | None = None,
        target: str | None = None,
        build_args: Mapping[str, str] | None = None,
    ) -> LintResult:
        """Check a Dockerfile as BuildKit's build checks do, without building or pulling anything.

        The arguments are those of ``build``. What is wrong is in the result, never raised, but for options of the
        checks that cannot be read (``DockerfileError``).
        """
        from pytest_capsule.build.checks import check
        from pytest_capsule.build.request import request

        self._check_open()
        return check(request(context, dockerfile, target=target, build_args=build_args), self._images.find)

    def image(self, reference: str | Image, *, pull: str | None = None, progress: Transfer | None = None) -> Image:
        """The image that a reference, an id or the beginning of one names, pulled if it is not here.

        ``pull`` is "missing", "always" or "never" (default: the engine's); ``progress`` is that of ``pull()``.
        ``ImageNotFound`` when there is none.
        """
        self._check_open()
        if isinstance(reference, Image):
            return reference
        when = self.when_to_pull if pull is None else _pull_policy(pull)
        return self._images.obtain(reference, when, functools.partial(self._pull, progress=progress))

    def _local(self, image: str | Image) -> Image:
        return self.image(image, pull="never")

    def pull(self, reference: str, *, platform: str | None = None, progress: Transfer | None = None) -> Image:
        """Fetch an image from its registry; what is here already is not fetched again.

        Of an image for several platforms it is that for ``platform``, such as ``linux/arm64`` (default: this host's).
        ``progress`` is called with each ``TransferEvent``, from several threads, one at a time. ``ImageNotFound`` where
        the registry has no such image for this machine, ``RegistryError`` where it does not give it.
        """
        self._check_open()
        refuse_scratch(reference)
        return self._pull(Reference.parse(reference), progress=progress, platform=Platform.named(platform))

    def _pull(
        self, reference: Reference, *, progress: Transfer | None, platform: Platform | None = None, is_name: bool = True
    ) -> Image:
        """Pull; with ``is_name`` false the name stays this host's image's, where it is pulled for another platform."""
        here = Platform.here()
        platform = platform or here
        with self._store.claims.working():
            image = self._registries().pull(reference, platform, progress or _tell_nobody)
            if is_name or platform == here:
                return self._store.tag(image, str(reference))
            self._images.keep_pulled_for(platform, reference, image)
            return image

    def push(self, image: str | Image, reference: str | None = None, *, progress: Transfer | None = None) -> str:
        """Bring an image to a registry under ``reference`` (default: its own name); returns its digest there.

        What was pulled goes out with the digests that it came in with. ``RegistryError`` where the registry does not
        take it.
        """
        found = self._local(image)
        target = Reference.parse(reference or (image if isinstance(image, str) else found.name))
        with self._store.claims.working():
            return str(self._registries().push(found, target, progress or _tell_nobody))

    def _registries(self) -> Distribution:
        from pytest_capsule.distribution import Distribution

        with self._lock:
            if self._distribution is None:
                self._distribution = Distribution.of(self._store, self._packing, self._registry_settings)
            return self._distribution

    def repo_digests(self, image: str | Image) -> list[str]:
        """``NAME@DIGEST`` for each repository that it was pulled from or pushed to, as ``docker inspect`` has them."""
        return self._store.digests(self._local(image).id)

    def images(self) -> list[Image]:
        """All images of the store, the newest first."""
        self._check_open()
        return self._images.all()

    def history(self, image: str | Image) -> list[History]:
        """How an image came about, the last step first, as ``docker history`` lists it."""
        return list(reversed(self._local(image).config.history))

    def tag(self, image: str | Image, reference: str) -> Image:
        """Give an image one more name."""
        return self._store.tag(self._local(image), str(Reference.to_give(reference)))

    def remove(self, image: str | Image) -> None:
        """Take a name away, or, given an id or an ``Image``, the image with all its names."""
        found = self._local(image)
        if not (isinstance(image, str) and self._store.untag(image)):
            self._store.remove(found)

    def prune(self, *, all: bool = False, build_cache: bool = False, keep: int | str | None = None) -> Pruned:
        """Remove what nobody needs; returns what went, and its size in bytes.

        Images without a name, and layers and blobs that no image has; with ``build_cache`` also the steps of builds and
        what cache mounts hold, and with ``all`` both and the images with names. With ``keep``, a size such as ``10g``,
        only as much of it as makes the store that small, what was not used for longest first. Nothing goes that a
        container or a build uses, here or in another process.
        """
        self._check_open()
        return self._prune(all=all, build_cache=build_cache, keep=None if keep is None else _bytes(keep))

    def _prune(self, **what: Any) -> Pruned:
        from pytest_capsule.store import collection

        images = [container.image for container in list(self._open.values())]
        in_use = {claim_of_layer(layer.id) for image in images for layer in image.layers}
        return collection.prune(self._store, keep_images=self._images.built_in(), in_use=in_use, **what)

    def verify(self) -> Verified:
        """Look at every digest and record of the store, and mend what is broken, or name it."""
        from pytest_capsule.store import verification

        self._check_open()
        return verification.verify(self._store, self._crew.call)

    def load(self, path: Source, *, platform: str | None = None) -> list[Image]:
        """The images of an archive that ``docker save`` or this wrote, or of an OCI layout, with their names there.

        ``path`` is a file, the folder of a layout, or a binary file that is open for reading, a pipe too. Of an image
        for several platforms it is that for ``platform``, such as ``linux/arm64`` (default: this host's); the others
        stay behind. ``ImageNotFound`` where there is none for it, ``MalformedImage`` or ``ContentMismatch`` for a
        damaged one.
        """
        self._check_open()
        with self._store.claims.working():
            return self._archives.load(path, platform=Platform.named(platform))

    def save(self, images: str | Image | Sequence[str | Image], path: Source, *, format: str = DOCKER_FORMAT) -> None:
        """Write images to a file, or to a binary file that is open for writing.

        The ``format`` ``docker-archive`` is a tar that Docker, podman, skopeo and umoci can read, and an OCI layout as
        well; ``oci-dir`` is a layout as a folder. An image is saved with the name by which it is given; an ``Image``,
        or one given by its id, with all its names.
        """
        self._check_open()
        wanted = [images] if isinstance(images, (str, Image)) else images
        with self._store.claims.working():
            self._archives.save([self._named(image) for image in wanted], path, format=format)

    def _named(self, given: str | Image) -> tuple[Image, tuple[str, ...]]:
        """An image, and the names under which it is saved."""
        image = self._local(given)
        if isinstance(given, Image):
            return image, self._store.get(image.key).tags or image.tags
        name = familiar(given)
        return image, (name,) if name in map(familiar, image.tags) else image.tags

    def import_rootfs(
        self, path_or_tar: Source, ref: str | None = None, *, changes: Sequence[str] = (), message: str = ""
    ) -> Image:
        """A root filesystem as an image of one layer, named ``ref``: a folder, a tar, or a binary file that is open.

        ``changes`` are instructions such as ``CMD ["run"]``: Docker's ``--change``; ``message`` goes into the history.
        """
        self._check_open()
        if ref is not None:
            Reference.to_give(ref)
        with self._store.claims.working():
            image = self._archives.import_rootfs(path_or_tar, changes=changes, message=message)
            return self._store.tag(image, ref) if ref is not None else image

    def commit(
        self,
        container: Container,
        tag: str | None = None,
        *,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        change: Sequence[str] = (),
        end: bool = False,
    ) -> Image:
        """What a container has written, as a layer on its image. Its files are copied, and it goes on.

        With ``end`` it is closed, and what was started with ``to_keep`` has its files moved instead, however many they
        are. ``command`` and ``env`` are the new image's; ``change`` are instructions such as ``USER app``: Docker's
        ``--change``. ``UsageError`` for one that is none of these.
        """
        from pytest_capsule.commits import commit, copied, moved

        if tag is not None:
            Reference.to_give(tag)
        writable = self._writable.get(container.id) if end else None
        if writable is not None:
            written = functools.partial(moved, self._store, container, self._stacking, writable)
        else:
            written = functools.partial(copied, self._store, container, end=end)
        with self._store.claims.working():
            image = commit(self._store, container, written, command=command, env=env, change=change)
            return self._store.tag(image, tag) if tag is not None else image

    # -- containers ---------------------------------------------------------------------------------------------------

    def run(self, image: str | Image | None = None, **spec: Any) -> Container:
        """Start a container; the keywords are those of the marker (``ContainerSpec``).

        ``UsageError`` for one that is wrong, ``ImageNotFound`` or ``BuildError`` without its image, ``ContainerExited``
        or ``WaitTimeout`` when what it waits for does not come, ``UnsupportedHost`` where containers cannot run.
        """
        return self.start(ContainerSpec.of(image, **spec) if image is not None else ContainerSpec.of(**spec))

    def start(
        self,
        spec: ContainerSpec,
        *,
        folders: Sequence[Path] = (),
        no_cache: bool = False,
        progress: Progress | None = None,
        prepared: Container | None = None,
        volumes: Volumes | None = None,
        to_keep: bool = False,
    ) -> Container:
        """Start the container that ``spec`` asks for and wait until it is ready.

        ``folders`` are where its relative paths start from, the first that has them (default: the current one);
        ``prepared`` is what ``prepare`` gave for the same spec; ``volumes`` has the named ones (default: the engine's).
        With ``to_keep`` it writes to the store's disk and not to memory: see ``commit``.
        """
        container = self.create(
            spec,
            folders=folders,
            no_cache=no_cache,
            progress=progress,
            prepared=prepared,
            volumes=volumes,
            to_keep=to_keep,
        )
        try:
            self.begin(container, spec)
            return container
        except BaseException:
            container.close()
            raise

    def begin(self, container: Container, spec: ContainerSpec) -> None:
        """Start the main process of a container that ``create`` gave, and wait until it is ready."""
        if container.command:
            container.start(container.command, stdin=spec.stdin)
        if spec.wait is not None:
            from pytest_capsule import wait

            wait.until(container, spec.wait, spec.timeout)

    def create(
        self,
        spec: ContainerSpec,
        *,
        folders: Sequence[Path] = (),
        no_cache: bool = False,
        progress: Progress | None = None,
        prepared: Container | None = None,
        volumes: Volumes | None = None,
        to_keep: bool = False,
    ) -> Container:
        """The container that ``spec`` asks for, its ports published, its main process (``command``) not started yet."""
        container = prepared or self.prepare(
            spec, folders=folders, no_cache=no_cache, progress=progress, volumes=volumes, to_keep=to_keep
        )
        try:
            container.ready()
            if container.outbound:
                self._outbound.open(container)
            elif spec.network == "bridge":
                self._outbound.warn()
            for mapping in parse_ports(spec.ports):
                container.published[mapping.port, mapping.protocol] = self._ports.publish(container, mapping)
            return container
        except BaseException:
            container.close()
            raise

    def prepare(
        self,
        spec: ContainerSpec,
        *,
        folders: Sequence[Path] = (),
        no_cache: bool = False,
        progress: Progress | None = None,
        volumes: Volumes | None = None,
        to_keep: bool = False,
    ) -> Container:
        """Begin to make the container that ``spec`` asks for, and wait for nothing: for ``create`` or ``start``."""
        container: Container | None = None
        try:
            with self._store.claims.working(), contextlib.ExitStack() as undo:
                image = self.resolve(spec, folders=folders, no_cache=no_cache, progress=progress)
                command = launch.command_line(image, spec)
                named = volumes or self._volumes
                container = self._create(image, spec, command, folders, named, undo, to_keep=to_keep)
                undo.pop_all()
            return container
        except BaseException:  # a Ctrl-C too, which comes at any line
            if container is not None:
                container.close()
            raise

    def resolve(
        self,
        spec: ContainerSpec,
        *,
        folders: Sequence[Path] = (),
        no_cache: bool = False,
        progress: Progress | None = None,
    ) -> Image:
        """The image of a spec: built, or found."""
        if spec.build is None:
            return self.image(spec.image)
        from pytest_capsule.build.named import is_folder

        wanted = spec.build if isinstance(spec.build, Build) else Build(spec.build)
        return self.build(
            find_path(wanted.context, folders),
            dockerfile=wanted.dockerfile,
            tag=wanted.tag,
            target=spec.target or wanted.target,
            build_args={**wanted.build_args, **spec.build_args},
            secrets=wanted.secrets,
            ssh=wanted.ssh,
            build_contexts={
                name: find_path(value, folders) if is_folder(value) else value
                for name, value in wanted.build_contexts.items()
            },
            no_cache=no_cache or wanted.no_cache,
            cache_from=wanted.cache_from,
            cache_to=wanted.cache_to,
            progress=progress,
        )

    def _create(
        self,
        image: Image,
        spec: ContainerSpec,
        command: Sequence[str],
        folders: Sequence[Path],
        volumes: Volumes,
        undo: contextlib.ExitStack,
        *,
        to_keep: bool,
    ) -> Container:
        """A container with its files, its network and no process yet."""
        self._check_open()
        location = location_of(spec.network, list(self._open.values()))
        limits = Limits.parse(spec.memory, spec.cpus, spec.pids)
        identity = secrets.token_hex(32)
        name = spec.name or identity[:12]
        capabilities = launch.granted_capabilities(spec)
        if location.outbound and not installed():
            location = on_host_instead(location, spec, name)
        hostname = launch.hostname(spec, location.neighbour) or identity[:12]
        config = image.config.config
        host, attachment = None, None
        if location.membership is not None:
            host, attachment = location.membership.join(name, [hostname] if hostname != name else [])
            undo.callback(location.membership.network.abandon, name, host)
        disk = undo.enter_context(contextlib.ExitStack())
        writable = Writable(disk.enter_context(self._store.scratch()), disk) if to_keep else None
        if writable is not None:
            overlays = self._stacking.to_write(image.tree, self._store.blank, writable.folder)
        else:
            overlays = self._stacking.to_run(image.tree, disk)
        asks_for_host = names.HOST_GATEWAY in str(spec.extra_hosts) and not location.on_host
        reaches_host = bool(location.outbound) or asks_for_host
        runtime_spec = RuntimeSpec(
            overlays=overlays,
            hostname=hostname,
            env=launch.environment(config, spec, hostname),
            user=str(spec.user) if spec.user is not None else config.user,
            workdir=posixpath.join("/", spec.workdir or config.working_dir or "/"),
            shell=config.shell or ("/bin/sh", "-c"),
            files=location.files(name, hostname, host, spec.extra_hosts),
            volumes=mounts_of(spec, config.volumes, folders, volumes),
            networks=() if attachment is None else (attachment,),
            host_network=location.on_host,
            isolated=location.isolated and not reaches_host,
            reaches_host=reaches_host,
            read_only=spec.read_only,
            privileged=spec.privileged,
            capabilities=capabilities - location.withheld,
        )
        container = Container(
            self._supervisor,
            runtime_spec,
            id=identity,
            name=name,
            pump=self._pump,
            image=image,
            command=command,
            labels={**config.labels, **spec.labels},
            stop_signal=config.stop_signal or "",
            commit=self.commit,
            publish=self._ports.publish,
            classify=self._classify,
            limits=limits,
            cgroups=self._cgroups,
            neighbour=None if location.on_host else location.neighbour,
        )
        try:
            container.outbound = location.outbound
            container.on_close(disk.close)
            if writable is not None:
                self._writable[container.id] = writable
                container.on_close(lambda: self._writable.pop(container.id, None))
            self._note_open(container)
            if location.outbound:
                container.ip = outbound.ADDRESS
            if location.membership is not None and host is not None:
                container.ip, container.ip6 = host.ipv4, host.ipv6
                location.membership.network.add(container, host)
            return container
        except BaseException:
            container.close()
            raise

    def _note_open(self, container: Container) -> None:
        container.on_close(lambda: self._open.pop(container.id, None))
        self._open[container.id] = container

    def attach(self, lent: Lent, descriptors: Sequence[int], ask: Callable[..., Any]) -> Container:
        """A container that the engine of another process has started and lends: see ``BorrowedContainer``."""
        from pytest_capsule.runtime.borrowed import BorrowedContainer

        container = BorrowedContainer(self._supervisor, self._pump, lent, descriptors, ask)
        self._note_open(container)
        return container

    def _classify(self, entries: list[dict[str, str]], lowers: Mapping[str, Sequence[str]]) -> list[changes.Change]:
        if self.ids.kind == "range":
            found = self._worker.call(changes.__name__, "classify_plain", entries, dict(lowers))
            return [changes.Change(kind, path) for kind, path in found]
        return changes.classify(entries, lowers)

    def network(self, name: str | None = None, *, outbound: bool = False) -> Network:
        """A network of its own; containers started with ``network=`` it reach each other by name.

        With ``outbound`` each has a way out as well: ``UnsupportedHost`` when one is started and neither slirp4netns
        nor pasta is there.
        """
        self._check_open()
        with self._lock:
            number = len(self._networks)
            network = Network(self._supervisor, self._wires, name or f"network{number}", number, outbound=outbound)
            self._networks.append(network)
        return network

    def volume(self, name: str | None = None) -> Volume:
        """A folder for containers to share: the one of that name, made if there is none; gone with the engine."""
        self._check_open()
        return self._volumes.obtain(name)

    def volume_scope(self) -> Volumes:
        """Named volumes of a scope smaller than the engine's, such as one test: for ``start``, closed after use."""
        self._check_open()
        return Volumes(self._store.scratch, outer=self._volumes)

    # -- the host -----------------------------------------------------------------------------------------------------

    def check(self) -> HostReport:
        """What this host can do for containers and what not, each found out by doing it."""
        from pytest_capsule.check import check_host

        return check_host(self)

    def probe(self, function: str, *args: Any) -> Any:
        """Call a function of ``runtime.probes`` where containers are made: in the supervisor's user namespace."""
        self._check_open()
        return self._worker.call("pytest_capsule.runtime.probes", function, *args)

    @property
    def cache_dir(self) -> Path:
        """Where this engine keeps its images and layers."""
        return self._store.root

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """An empty folder on the disk of the store, gone when the block ends."""
        return self._store.scratch()

    def _new_workshop(self) -> ContainerWorkshop:
        from pytest_capsule.workshop import ContainerWorkshop

        return ContainerWorkshop(self._supervisor, self._store, self._pump, self._stacking)

    def lock(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Held against every other thread and process on the same store."""
        return self._store.lock(name)

    def _unpack_rootfs(self, archive: Path, scratch: Path) -> None:
        """Unpack the tar of a root filesystem: with all its owners, so in a container."""
        item = {
            "root": 0,
            "name": archive.name,
            "directory": False,
            "unpack": True,
            "entries": [[archive.name, "f", 0o644, 0, 0, 0, archive.name]],
        }
        folder = os.open(archive.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._new_workshop().place(Tree(), scratch, {"dest": "/", "user": None, "sources": [item]}, [folder])
        finally:
            os.close(folder)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this engine is closed")
        if self._process != os.getpid():
            raise UsageError("this engine belongs to the process that made it", hint="make an Engine after the fork")

    def close(self) -> None:
        """End everything that this engine has started; its images stay."""
        if self._closed or self._process != os.getpid():
            return
        for container in list(self._open.values()):
            container.end()  # all at once, before the first is waited for
        for container in list(self._open.values()):
            container.close()
        self._closed = True
        for network in self._networks:
            network.close()
        if self._cache_limit is not None:
            self._prune(build_cache=True, keep=self._cache_limit)
        self._volumes.close()
        if self._distribution is not None:
            self._distribution.close()
        self._ports.close()
        self._pump.close()
        self._store.close()
        self._worker.close()
        self._wires.close()
        self._crew.close()
        self._supervisor.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _bytes(size: int | str) -> int:
    count = parse_size(size)
    if count is None:
        raise UsageError(f"{size!r} is no size", hint="write a number of bytes, or one with a unit, such as 20g")
    return count


def _tell_nobody(event: object) -> None:
    """The progress of who wants none."""


def _pull_policy(text: str) -> str:
    if text not in ("missing", "always", "never"):
        raise UsageError(f"pull={text!r}: it is missing, always or never")
    return text
