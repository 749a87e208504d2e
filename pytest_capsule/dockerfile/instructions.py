"""The instructions of a Dockerfile as typed values, and what expanding variables does to each.

``expand`` gives the instruction with its variables replaced, exactly where BuildKit replaces them: in ``RUN``, ``CMD``,
``ENTRYPOINT``, ``HEALTHCHECK``, ``SHELL``, ``MAINTAINER`` and ``ONBUILD`` nothing is (but for the values of
``RUN --mount``), the shell of the image does it when the command runs. Source: ``commands.go`` in BuildKit's
``frontend/dockerfile/instructions``, and ``dockerfile2llb/convert.go``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Final

from pytest_capsule.dockerfile.dockerignore import IgnoreRules
from pytest_capsule.dockerfile.heredoc import Heredoc, heredoc_mark
from pytest_capsule.dockerfile.mounts import Device, Mount, parse_mount
from pytest_capsule.dockerfile.origin import Origin
from pytest_capsule.dockerfile.scalars import check_signal, parse_ports
from pytest_capsule.dockerfile.text import did_you_mean, quote
from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_capsule.dockerfile.words import Expander

_PLATFORM: Final = re.compile(r"[\w.-]+(?:/[\w.-]+){0,2}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What all instructions have; two are equal if they ask for the same, wherever they stand."""

    keyword: ClassVar[str] = ""
    origin: Origin = field(default=Origin(), repr=False, compare=False)

    @property
    def line(self) -> int:
        """The first line, from 1."""
        return self.origin.line

    @property
    def end_line(self) -> int:
        """The last line, that of a heredoc included."""
        return self.origin.end_line

    @property
    def source(self) -> str:
        """The instruction as written, continued lines joined in one: what BuildKit shows in progress and history."""
        return self.origin.source

    def expand(self, expander: Expander) -> Instruction:
        """The instruction with its variables replaced; raise ``DockerfileError`` where BuildKit refuses."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """``FROM [--platform=…] base [AS name]``. ``alias`` is in lower case; ``platform`` is empty where not given.

    To be expanded with the global arguments only. ``comment`` is the doc comment above it, see ``Stage``.
    """

    keyword: ClassVar[str] = "FROM"
    base: str
    alias: str | None = None
    platform: str = ""
    comment: str = ""

    def expand(self, expander: Expander) -> From:
        """Expand base and platform, neither of which may come out empty."""
        with self.origin.placing():
            base = expander.word(self.base)
            if not base:
                hint = _misspelt(expander) or "give the ARG a default"
                raise DockerfileError(f"base name ({self.base}) should not be blank", hint=hint)
            platform = expander.word(self.platform)
            if self.platform and not platform:
                raise DockerfileError(f"empty platform value from expression {self.platform}", hint=_misspelt(expander))
            if platform and not _PLATFORM.fullmatch(platform):
                hint = _misspelt(expander) or "write os/architecture, as in linux/amd64 or linux/arm/v7"
                raise DockerfileError(f"FROM --platform={self.platform}: {quote(platform)} is no platform", hint=hint)
        return replace(self, base=base, platform=platform)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One name of an ``ARG``; ``default`` is ``None`` where none is given, which differs from an empty one."""

    name: str
    default: str | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """``ARG name[=default] …``."""

    keyword: ClassVar[str] = "ARG"
    declarations: tuple[Declaration, ...]

    def expand(self, expander: Expander) -> Arg:
        """Expand the defaults. A build has build arguments too: it wants ``resolve``."""
        values = self.resolve(expander, {})
        resolved = zip(self.declarations, values, strict=True)
        return replace(self, declarations=tuple(replace(one, default=value) for one, (_, value) in resolved))

    def resolve(
        self, expander: Expander, build_args: Mapping[str, str], inherited: Mapping[str, str] | None = None
    ) -> tuple[tuple[str, str | None], ...]:
        """Each name with its value: the build argument, else the default, else the inherited global, else ``None``.

        A later default sees the earlier names. Before the first ``FROM`` nothing is inherited. A default that a build
        argument replaces is not expanded, so that an error in it does no harm.
        """
        env = dict(expander.env)
        inner = expander.with_env(env)
        values: list[tuple[str, str | None]] = []
        for one in self.declarations:
            value: str | None
            if one.name in build_args:
                value = build_args[one.name]
            elif one.default is not None:
                with self.origin.placing():
                    value = inner.word(one.default)
            else:
                value = (inherited or {}).get(one.name)
            values.append((one.name, value))
            if value is not None:
                env[one.name] = value
        return tuple(values)


@dataclass(frozen=True, slots=True)
class Pair:
    """A name and its value in ``ENV`` or ``LABEL``; ``is_legacy`` says that it was written without ``=``."""

    name: str
    value: str
    is_legacy: bool = False

    def expand(self, expander: Expander) -> Pair:
        """Expand name and value."""
        return Pair(expander.word(self.name), expander.word(self.value), self.is_legacy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    """``ENV name=value …``. All values of one ``ENV`` see the variables as they were before it."""

    keyword: ClassVar[str] = "ENV"
    pairs: tuple[Pair, ...]

    def expand(self, expander: Expander) -> Env:
        """Expand names and values."""
        with self.origin.placing():
            return replace(self, pairs=tuple(pair.expand(expander) for pair in self.pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """``LABEL name=value …``."""

    keyword: ClassVar[str] = "LABEL"
    pairs: tuple[Pair, ...]

    def expand(self, expander: Expander) -> Label:
        """Expand names and values."""
        with self.origin.placing():
            return replace(self, pairs=tuple(pair.expand(expander) for pair in self.pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Instruction):
    """What ``RUN``, ``CMD`` and ``ENTRYPOINT`` share: a JSON array, or (``is_json`` false) one string for the shell."""

    words: tuple[str, ...]
    is_json: bool = False

    def argv(self, shell: Sequence[str]) -> tuple[str, ...]:
        """The program and its arguments; ``shell`` is the stage's, as in ``["/bin/sh", "-c"]``."""
        return self.words if self.is_json else (*shell, " ".join(self.words))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Command):
    """``CMD``."""

    keyword: ClassVar[str] = "CMD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Command):
    """``ENTRYPOINT``. ``ENTRYPOINT []`` has no words and takes the base image's away."""

    keyword: ClassVar[str] = "ENTRYPOINT"


@dataclass(frozen=True, slots=True)
class Script:
    """A heredoc with a ``#!`` line: ``content`` is to be an executable file (mode 755) at ``path`` while it runs."""

    path: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Command):
    """``RUN``.

    ``mounts`` is filled by ``expand``, for the values of ``mount_flags`` may hold variables. ``mount_sources`` are the
    stages or images that they take files from (``""`` for none), which may not. ``network`` is ``default``, ``none``
    or ``host``; ``security`` is ``sandbox`` or ``insecure``.
    """

    keyword: ClassVar[str] = "RUN"
    heredocs: tuple[Heredoc, ...] = ()
    mount_flags: tuple[str, ...] = ()
    mount_sources: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    network: str = "default"
    security: str = "sandbox"

    def expand(self, expander: Expander) -> Run:
        """Read the mounts, their values expanded. The command itself is the shell's."""
        if not self.mount_flags:
            return self
        with self.origin.placing():
            return replace(self, mounts=tuple(parse_mount(flag, expander.word) for flag in self.mount_flags))

    def argv(self, shell: Sequence[str]) -> tuple[str, ...]:
        """The program and its arguments, with the heredocs put back for the shell to read."""
        if not self.heredocs:
            return self.words if self.is_json else (*shell, " ".join(self.words))
        script = self.script()
        if script:
            return (*shell, script.path)
        if self.is_all_heredoc():
            return (*shell, self.heredocs[0].body)
        return (*shell, self.words[0] + "".join(f"\n{one.content}{one.name}" for one in self.heredocs))

    def script(self) -> Script | None:
        """The file that must be there for ``argv``, if the command is one heredoc that begins with ``#!``."""
        if self.is_all_heredoc() and self.heredocs[0].body.startswith("#!"):
            return Script(f"/dev/pipes/{self.heredocs[0].name}", self.heredocs[0].body)
        return None

    def is_all_heredoc(self) -> bool:
        """Whether the command is one heredoc and nothing else."""
        return bool(self.heredocs) and heredoc_mark(self.words[0]) is not None


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A heredoc as a source of ``COPY`` or ``ADD``: the file's name, and whether variables in it are replaced."""

    name: str
    content: str
    expand: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Instruction):
    """What ``COPY`` and ``ADD`` share. ``chown`` and ``chmod`` are empty where not given; ``files`` are heredocs."""

    sources: tuple[str, ...]
    dest: str
    files: tuple[InlineFile, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()

    def exclude_rules(self) -> IgnoreRules:
        """The ``--exclude`` patterns, to be asked with paths relative to a source; raise ``DockerfileError``."""
        with self.origin.placing():
            return IgnoreRules.of(self.exclude)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Transfer):
    """``COPY``. ``from_`` is a stage's name or number or an image, empty for the build context."""

    keyword: ClassVar[str] = "COPY"
    from_: str = ""
    parents: bool = False

    def expand(self, expander: Expander) -> Copy:
        """Expand sources, destination, owner, mode and heredocs; not ``--from`` and not ``--exclude``."""
        with self.origin.placing():
            return replace(
                self,
                chown=expander.word(self.chown),
                chmod=expander.word(self.chmod),
                sources=tuple(map(expander.word, self.sources)),
                dest=expander.word(self.dest),
                files=_expand_files(self.files, expander),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Transfer):
    """``ADD``. ``keep_git_dir`` and ``unpack`` are ``None`` where not given, which leaves the choice to the source."""

    keyword: ClassVar[str] = "ADD"
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None

    def expand(self, expander: Expander) -> Add:
        """Expand sources, destination, owner, mode, checksum and heredocs; not ``--exclude``."""
        with self.origin.placing():
            return replace(
                self,
                chown=expander.word(self.chown),
                chmod=expander.word(self.chmod),
                checksum=expander.word(self.checksum),
                sources=tuple(map(expander.word, self.sources)),
                dest=expander.word(self.dest),
                files=_expand_files(self.files, expander),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """``EXPOSE``. ``ports`` are sorted, as BuildKit sorts them before it expands."""

    keyword: ClassVar[str] = "EXPOSE"
    ports: tuple[str, ...]

    def expand(self, expander: Expander) -> Expose:
        """Expand; a variable may hold several ports."""
        with self.origin.placing():
            return replace(self, ports=tuple(port for text in self.ports for port in expander.words(text)))

    def exposed(self) -> tuple[str, ...]:
        """The ports as the image's config names them, ``80/tcp``, ranges resolved; of an expanded instruction."""
        with self.origin.placing():
            return parse_ports(self.ports)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    """``VOLUME``."""

    keyword: ClassVar[str] = "VOLUME"
    paths: tuple[str, ...]

    def expand(self, expander: Expander) -> Volume:
        """Expand; no path may come out empty."""
        with self.origin.placing():
            paths = tuple(map(expander.word, self.paths))
            if "" in paths:
                raise DockerfileError("VOLUME specified can not be an empty string")
        return replace(self, paths=paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    """``WORKDIR``. A relative path counts from the working directory so far."""

    keyword: ClassVar[str] = "WORKDIR"
    path: str

    def expand(self, expander: Expander) -> Workdir:
        """Expand the path."""
        with self.origin.placing():
            return replace(self, path=expander.word(self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    """``USER``: ``name``, ``uid``, ``name:group`` or ``uid:gid``."""

    keyword: ClassVar[str] = "USER"
    user: str

    def expand(self, expander: Expander) -> User:
        """Expand."""
        with self.origin.placing():
            return replace(self, user=expander.word(self.user))


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    """``MAINTAINER``: the image's author."""

    keyword: ClassVar[str] = "MAINTAINER"
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Onbuild(Instruction):
    """``ONBUILD``. ``expression`` is the instruction for later, with its heredocs; ``parse_trigger`` reads it."""

    keyword: ClassVar[str] = "ONBUILD"
    expression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopsignal(Instruction):
    """``STOPSIGNAL``: a name or a number, as written."""

    keyword: ClassVar[str] = "STOPSIGNAL"
    signal: str

    def expand(self, expander: Expander) -> Stopsignal:
        """Expand; it must then be a signal that Linux has."""
        with self.origin.placing():
            signal = expander.word(self.signal)
            check_signal(signal)
        return replace(self, signal=signal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """``HEALTHCHECK``.

    ``test`` is as in the image's config: ``("NONE",)``, ``("CMD", program, …)`` or ``("CMD-SHELL", command)``. Times
    are in nanoseconds; 0, also of ``retries``, means the default.
    """

    keyword: ClassVar[str] = "HEALTHCHECK"
    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    """``SHELL``: the words before the command of every shell form that follows."""

    keyword: ClassVar[str] = "SHELL"
    words: tuple[str, ...]


def sources(instruction: Instruction) -> tuple[str, ...]:
    """The stages or images that an instruction takes files from: ``COPY --from``, ``RUN --mount=from=``."""
    if isinstance(instruction, Run):
        return tuple(filter(None, instruction.mount_sources))
    return (instruction.from_,) if isinstance(instruction, Copy) and instruction.from_ else ()


def _expand_files(files: tuple[InlineFile, ...], expander: Expander) -> tuple[InlineFile, ...]:
    return tuple(replace(one, content=expander.heredoc(one.content)) if one.expand else one for one in files)


def _misspelt(expander: Expander) -> str | None:
    """The hint for a text that came out wrong: a variable that it asks for, and nobody knows, is nearly one that is."""
    hints = (did_you_mean(name, expander.env) for name in sorted(expander.unset))
    return next(filter(None, hints), None)
