"""What one pytest session has: its engine, its options, and the images that its markers have named so far."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_capsule.engine import Engine
from pytest_capsule.errors import BuildError
from pytest_capsule.settings import LENDER, SETTINGS
from pytest_capsule.spec import Build, ContainerSpec
from pytest_capsule.store.image import Image
from pytest_capsule.volumes import find_path

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence
    from pathlib import Path

    import pytest

    from pytest_capsule.build.events import BuildEvent
    from pytest_capsule.loans import Borrower
    from pytest_capsule.networks import Network
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.volumes import Volumes


_PATIENCE = 4  # containers of tests before that may still be going


@dataclass(frozen=True, slots=True)
class Start:
    """How a container was started: from which image, how long it took, and what was waited for."""

    image: str
    seconds: float
    waited_for: str | None


@dataclass(frozen=True, slots=True)
class Made:
    """An image that was asked for: how many of its steps were carried out and in how long, and what the cache saved."""

    image: str
    steps: int
    cached: int
    seconds: float
    saved: float


@dataclass(frozen=True, slots=True)
class Unmade:
    """An image that could not be built: what became of its steps, and in how many seconds each; the last one failed."""

    image: str
    steps: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True, slots=True)
class News:
    """What a session has done that nobody was told of yet."""

    starts: list[Start] = field(default_factory=list)
    images: list[Made] = field(default_factory=list)


@dataclass(slots=True)
class Ahead:
    """What was made before its test's turn: a container, and the network of its test if that has several.

    ``asked`` is what the marker says, ``wanted`` what it came to.
    """

    asked: ContainerSpec
    wanted: ContainerSpec
    container: Container
    network: Network | None

    def drop(self) -> None:
        """Nothing of it is needed."""
        self.container.close()
        if self.network is not None:
            self.network.close()


class CapsuleSession:
    """Starts the containers of markers and factories."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        settings = config.stash[SETTINGS]
        self.engine = Engine(
            settings.cache_dir,
            cache_limit=settings.cache_limit,
            pull=settings.pull,
            registry_mirrors=settings.registry_mirrors,
            insecure_registries=settings.insecure_registries,
        )
        self._no_cache = settings.no_cache
        worker = getattr(config, "workerinput", {})  # what pytest-xdist has told this process, if it is a worker
        self._run: str | None = worker.get("testrunuid")
        self._lender: str | None = worker.get(LENDER)
        self._borrower: Borrower | None = None
        self._lock = threading.Lock()
        self._locks: dict[object, threading.Lock] = {}
        self._images: dict[object, Image | BuildError] = {}
        self._renewed: set[object] = set()
        self._found: tuple[ContainerSpec, Image, ContainerSpec] | None = None
        self._ahead: Ahead | None = None
        self._ending: list[Container] = []
        self._stranded: list[Container] = []
        self._starts: dict[str, Start] = {}
        self._unmade: dict[BuildError, Unmade] = {}
        self._news = News()

    def image(self, spec: ContainerSpec, folders: Sequence[Path]) -> Image:
        """The image of a spec; what a marker builds is built, or fails, once a session."""
        if spec.build is None:
            return self.find(spec, folders, self.tell)
        key = image_key(spec, folders)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._images:
                try:
                    self._images[key] = self.find(spec, folders, self.tell)
                except BuildError as error:
                    self._images[key] = error
        found = self._images[key]
        if isinstance(found, BuildError):
            raise found
        return found

    def find(self, spec: ContainerSpec, folders: Sequence[Path], tell: Callable[[BuildEvent], None]) -> Image:
        """The image that a spec names, or what its Dockerfile gives now; anew, where asked for, the first time."""
        if isinstance(spec.image, Image):
            return spec.image
        if spec.build is None:
            chosen = self.config.hook.pytest_capsule_resolve_image(reference=spec.image)
            return self._named(spec.image if chosen is None else chosen)
        key, build = image_key(spec, folders), build_of(spec)
        no_cache = (self._no_cache or build.no_cache) and key not in self._renewed
        wanted = spec.with_changes(build=replace(build, no_cache=no_cache))
        events: list[BuildEvent] = []
        began = time.monotonic()

        def hear(event: BuildEvent) -> None:
            events.append(event)
            tell(event)

        try:
            image = self.engine.resolve(wanted, folders=folders, progress=hear)
        except BuildError as error:
            self._unmade[error] = _unmade(image_name(spec, folders), events)
            raise
        self._news.images.append(_made(image_name(spec, folders), events, time.monotonic() - began))
        self._renewed.add(key)
        return image

    def fetch(self, spec: ContainerSpec, folders: Sequence[Path], tell: Callable[[BuildEvent], None]) -> None:
        """Have the image in the store before a test asks for it: it is looked at again then, and costs little.

        Of several processes that need it at once one does the work.
        """
        key = image_key(spec, folders)
        name = f"fetch-{hashlib.sha256(repr(key).encode()).hexdigest()}"
        renewed_by = self.engine.cache_dir / "locks" / f"{name}.run"
        with self.engine.lock(name):
            if self._run is not None and renewed_by.exists() and renewed_by.read_text() == self._run:
                self._renewed.add(key)  # by another worker
            self.find(spec, folders, tell)
            if self._run is not None and self._no_cache:
                renewed_by.write_text(self._run)

    def tell(self, event: BuildEvent) -> None:
        """Tell the hooks what happened in a build."""
        self.config.hook.pytest_capsule_build_event(event=event)

    def _named(self, reference: str | Image) -> Image:
        """The image of a name; with ``--capsule-pull=always`` its registry is asked once a session."""
        known = reference in self._renewed and self.engine.when_to_pull == "always"
        image = self.engine.image(reference, pull="missing" if known else None)
        self._renewed.add(reference)
        return image

    def start(
        self, spec: ContainerSpec, folders: Sequence[Path], volumes: Volumes, *, to_keep: bool = False
    ) -> Container:
        """Start a container: the one that was prepared, if this is what it was prepared for.

        ``to_keep`` is as ``Engine.start`` has it.
        """
        wanted = self._of_image(spec, folders)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and (to_keep or ahead.wanted != wanted):
            ahead.drop()
            ahead = None
        prepared = None if ahead is None else ahead.container
        began = time.monotonic()
        container = self.engine.create(wanted, folders=folders, prepared=prepared, volumes=volumes, to_keep=to_keep)
        with self._starting(container, spec, folders, began):
            self.engine.begin(container, wanted)
        return container

    def share(self, key: Hashable, spec: ContainerSpec, folders: Sequence[Path], volumes: Volumes) -> Container:
        """The one container of the run that is called ``key``: started for the first worker that asks for it.

        Each worker waits by itself until it is ready, and so hears itself why it is not.
        """
        if self._lender is None:  # the only process
            return self.start(spec, folders, volumes)
        wanted = self._of_image(spec, folders)
        began = time.monotonic()
        container, is_first = self._borrow_from(self._lender).borrow(key, wanted.with_changes(wait=None), folders)
        with self._starting(container, spec, folders, began, is_news=is_first):
            if wanted.wait is not None:
                from pytest_capsule import wait

                wait.until(container, wanted.wait, wanted.timeout)
        return container

    def _borrow_from(self, lender: str) -> Borrower:
        if self._borrower is None:
            from pytest_capsule.loans import Borrower  # here: most runs share none

            self._borrower = Borrower(lender, self.engine)
            self.config.add_cleanup(self._borrower.close)
        return self._borrower

    @contextlib.contextmanager
    def _starting(
        self, container: Container, spec: ContainerSpec, folders: Sequence[Path], began: float, *, is_news: bool = True
    ) -> Iterator[None]:
        """Notes how a container starts; one that does not get ready is kept for the report."""
        try:
            yield
        except BaseException:
            self._stranded.append(container)
            raise
        finally:
            start = Start(image_name(spec, folders), time.monotonic() - began, _waited_for(spec))
            self._starts[container.id] = start
            if is_news:
                self._news.starts.append(start)
            container.on_close(lambda: self._starts.pop(container.id, None))

    def start_of(self, container: Container) -> Start | None:
        """How a container of this session was started; ``None`` for one that a test has started itself."""
        return self._starts.get(container.id)

    def unmade_by(self, error: BuildError) -> Unmade | None:
        """Which image an error is about; ``None`` for one that a test has built itself."""
        return self._unmade.get(error)

    def stranded(self) -> list[Container]:
        """The containers that did not get ready: kept for a look at them, until ``clear`` closes them."""
        return list(self._stranded)

    def clear(self) -> None:
        """Close the containers that did not get ready: their test has been reported."""
        while self._stranded:
            self._stranded.pop().close()

    def take_news(self) -> News:
        """What happened since the last call."""
        news, self._news = self._news, News()
        return news

    def network(self, first: ContainerSpec) -> Network:
        """A network for the containers of a test: the one that was made with the first of them, or a new one."""
        ahead = self._ahead
        if ahead is None or ahead.network is None or ahead.asked != first:
            return self.engine.network()
        network, ahead.network = ahead.network, None
        return network

    def prepare(self, spec: ContainerSpec, folders: Sequence[Path], *, of_several: bool) -> None:
        """Begin with the first container of the next test, if nothing that the current one does can change it.

        Of several it is made alone, with their network: from inside it the others are not there before their turn. What
        is wrong with it, with this machine or with somebody's hook, is left for the test itself to say.
        """
        known = spec.build is None or image_key(spec, folders) in self._images
        if self._ahead is None and known and _is_alone(spec):
            with contextlib.suppress(Exception), contextlib.ExitStack() as undo:
                wanted, network = self._of_image(spec, folders), None
                if of_several and spec.network is None:
                    network = undo.enter_context(self.engine.network())
                    wanted = wanted.with_changes(network=network)
                self._ahead = Ahead(spec, wanted, self.engine.prepare(wanted, folders=folders), network)
                undo.pop_all()

    def end(self, container: Container, spec: ContainerSpec) -> None:
        """End a test's container; what shares nothing with the next test is waited for when that runs."""
        if _is_alone(spec) and not container.published:
            container.end()
            self._ending.append(container)
        else:
            container.close()

    def bury(self) -> None:
        """Be done with the containers of tests before this one, those that have gone; a few may take their time."""
        for container in list(self._ending):
            if container.is_gone() or len(self._ending) > _PATIENCE:
                self._ending.remove(container)
                container.close()

    def _of_image(self, spec: ContainerSpec, folders: Sequence[Path]) -> ContainerSpec:
        """The spec with its image for what names one; the same object for the next of the tests that share a marker."""
        image = self.image(spec, folders)
        if self._found is None or self._found[0] is not spec or self._found[1] != image:
            self._found = spec, image, spec.with_changes(image=image)
        return self._found[2]


def build_of(spec: ContainerSpec) -> Build:
    """What a spec builds."""
    return spec.build if isinstance(spec.build, Build) else Build(spec.build)


def image_key(spec: ContainerSpec, folders: Sequence[Path]) -> tuple[object, ...]:
    """What two specs have in common that mean the same image."""
    if spec.build is None:
        return (spec.image,)
    build = build_of(spec)
    return (
        *(str(part) for part in (build.context, build.dockerfile, build.target, build.tag, *folders, spec.target)),
        *sorted((name, str(value)) for name, value in build.build_contexts.items()),
        *sorted(build.build_args.items()),
        *sorted(spec.build_args.items()),
    )


def image_name(spec: ContainerSpec, folders: Sequence[Path]) -> str:
    """What to call the image of a spec: a reference, or its build's folder, with what tells it from others there."""
    if spec.build is None:
        return str(spec.image)
    build = build_of(spec)
    path = find_path(build.context, folders).resolve()
    name = build.tag or (path.name if path == folders[-1] else os.path.relpath(path, folders[-1]))
    target = spec.target or build.target
    arguments = {**build.build_args, **spec.build_args}
    details = [*([target] if target else []), *(f"{key}={value}" for key, value in arguments.items())]
    return f"{name} ({', '.join(details)})" if details else name


def _made(name: str, events: Sequence[BuildEvent], seconds: float) -> Made:
    steps = [event for event in events if event.step]
    cached = [event for event in steps if event.kind == "cached"]
    done = sum(event.kind == "done" for event in steps)
    return Made(name, done, len(cached), seconds, sum(event.seconds for event in cached))


def _unmade(name: str, events: Sequence[BuildEvent]) -> Unmade:
    ended = (event for event in events if event.step and event.kind in ("cached", "done", "failed"))
    last = sorted(ended, key=lambda event: event.kind == "failed")  # of stages that went on beside it
    return Unmade(name, tuple((event.name, event.kind, round(event.seconds, 4)) for event in last))


def _waited_for(spec: ContainerSpec) -> str | None:
    if spec.wait is None:
        return None
    from pytest_capsule import wait

    return wait.describe(spec.wait)


def _is_alone(spec: ContainerSpec) -> bool:
    """Whether a container shares neither files nor a network with anything outside."""
    return not spec.volumes and spec.network in (None, "none")
