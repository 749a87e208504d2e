"""One stage of a build: what each instruction does to the image in the making.

Most change the config only. RUN, COPY, ADD and WORKDIR change files: each has a cache key, made of the key before it
and of what BuildKit takes (never a time). Source: ``dockerfile2llb/convert.go``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, singledispatchmethod
from pathlib import Path
from typing import Any

from pytest_capsule.build import history
from pytest_capsule.build.configuration import DEFAULT_SHELL, configured, working_directory
from pytest_capsule.build.context import Context
from pytest_capsule.build.epoch import Epoch
from pytest_capsule.build.execution import Execution, Output, StepFailed, Work, step_key
from pytest_capsule.build.failure import StageFailed
from pytest_capsule.build.labels import Label, Numbering, shown
from pytest_capsule.build.mounts import RunMounts
from pytest_capsule.build.reasons import Reasons, StageReasons, Step
from pytest_capsule.build.remotes import Remotes
from pytest_capsule.build.secrets import Secret
from pytest_capsule.build.steps import Command, Workshop
from pytest_capsule.build.transfer import Placement, owner
from pytest_capsule.dockerfile import instructions as ins
from pytest_capsule.dockerfile.text import quote_all
from pytest_capsule.dockerfile.words import Expander
from pytest_capsule.oci.config import History, ImageConfig
from pytest_capsule.store.caches import Caches
from pytest_capsule.store.image import Image, Tree
from pytest_capsule.store.store import Store

_NOT_FOUND = 127  # what a shell, and Docker, say of a command that is not there
_HOSTNAME = "BUILDKIT_SANDBOX_HOSTNAME"  # a build argument: what the host is called that a RUN sees
# Build arguments that need no ARG: a RUN sees them, and neither its cache key nor the history does.
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


@dataclass(frozen=True)
class Surroundings:
    """What all stages of one build share."""

    store: Store
    workshop: Workshop
    execution: Execution
    context: Context
    named_context: Callable[[str], Context | None]
    """The folder that stands for what ``from`` calls by a name, if one does."""
    build_args: Mapping[str, str]
    global_args: Mapping[str, str]
    """What an ARG without a value inherits."""
    escape: str
    find_tree: Callable[[str, ins.Instruction], Tree]
    """The tree that ``COPY --from`` names."""
    reasons: Reasons
    caches: Caches
    secrets: Mapping[str, Secret]
    agents: Mapping[str, str]
    """The sockets of SSH agents by id."""
    epoch: Epoch | None = None


@dataclass
class Stage:
    """A stage while it is built: its files, its config, and the cache key of what was done so far.

    ``variables`` are what ``$NAME`` means and a RUN gets: ENV and ARG, of which the later wins. ``declared`` are the
    arguments among them, in the order of their declaration.
    """

    around: Surroundings
    numbering: Numbering
    reasons: StageReasons
    tree: Tree
    config: ImageConfig
    key: str
    created: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    declared: dict[str, str] = field(default_factory=dict)
    command_set: bool = False
    in_trigger: bool = False

    def image(self, labels: Mapping[str, str] | None = None) -> Image:
        """The image as it is now, with these labels besides its own."""
        config = self.config.with_created(self.created)
        if labels:
            config = config.with_config(labels={**config.config.labels, **labels})
        if self.around.epoch is not None:
            config = self.around.epoch.clamped(config)
        return self.around.store.put(config, self.tree.layers, self.tree.host_directories)

    def carry_out(self, instruction: ins.Instruction, *, is_trigger: bool = False) -> None:
        """Expand one instruction and apply it."""
        self.in_trigger = is_trigger
        expander = Expander(self.variables, escape=self.around.escape)
        try:
            if isinstance(instruction, ins.Arg):
                self._declare(instruction, expander)
            else:
                self._apply(instruction.expand(expander))
        except StepFailed as failure:
            raise self._failed(instruction, failure) from None

    def _declare(self, instruction: ins.Arg, expander: Expander) -> None:
        values = instruction.resolve(expander, self.around.build_args, self.around.global_args)
        for name, value in values:
            self.declared[name] = value or ""
            if value is not None:
                self.variables[name] = value
        self._note(history.arguments(values))

    # -- instructions that change the config --------------------------------------------------------------------------

    @singledispatchmethod
    def _apply(self, instruction: ins.Instruction) -> None:
        raise instruction.origin.error(f"{instruction.keyword} is not supported here")

    def _configure(self, instruction: ins.Instruction, said: str) -> None:
        self.config = replace(self.config, config=configured(instruction, self.config.config))
        self._note(said)

    def _note(self, said: str, *, layer: bool = False) -> None:
        entry = History(created=self.created, created_by=said, comment=history.COMMENT, empty_layer=not layer)
        self.config = replace(self.config, history=(*self.config.history, entry))

    @_apply.register
    def _(self, instruction: ins.Env) -> None:
        self.variables.update({pair.name: pair.value for pair in instruction.pairs})
        self._configure(instruction, history.pairs(instruction))

    @_apply.register
    def _(self, instruction: ins.Label) -> None:
        self._configure(instruction, history.pairs(instruction))

    @_apply.register
    def _(self, instruction: ins.Maintainer) -> None:
        self.config = replace(self.config, author=instruction.name)
        self._note(f"MAINTAINER {instruction.name}")

    @_apply.register
    def _(self, instruction: ins.Cmd) -> None:
        self.command_set = True
        self._configure(instruction, f"CMD {quote_all(instruction.argv(self._shell()))}")

    @_apply.register
    def _(self, instruction: ins.Entrypoint) -> None:
        command = self.config.config.cmd
        self._configure(instruction, f"ENTRYPOINT {quote_all(instruction.argv(self._shell()))}")
        if self.command_set:  # by this stage itself, and not by the base image
            self.config = self.config.with_config(cmd=command)

    @_apply.register
    def _(self, instruction: ins.Expose) -> None:
        self._configure(instruction, history.listed("EXPOSE", instruction.exposed()))

    @_apply.register
    def _(self, instruction: ins.Volume) -> None:
        self._configure(instruction, history.listed("VOLUME", instruction.paths))

    @_apply.register
    def _(self, instruction: ins.User) -> None:
        self._configure(instruction, f"USER {instruction.user}")

    @_apply.register
    def _(self, instruction: ins.Stopsignal) -> None:
        self._configure(instruction, f"STOPSIGNAL {instruction.signal}")

    @_apply.register
    def _(self, instruction: ins.Shell) -> None:
        self._configure(instruction, history.listed("SHELL", instruction.words))

    @_apply.register
    def _(self, instruction: ins.Onbuild) -> None:  # BuildKit's history does not tell of it
        self.config = replace(self.config, config=configured(instruction, self.config.config))

    @_apply.register
    def _(self, instruction: ins.Healthcheck) -> None:
        self._configure(instruction, history.healthcheck(instruction))

    # -- instructions that change files -------------------------------------------------------------------------------

    @_apply.register
    def _(self, instruction: ins.Workdir) -> None:
        path = working_directory(self.config.config.working_dir, instruction.path)
        self.config = replace(self.config, config=configured(instruction, self.config.config))
        if path == "/":
            self._note("WORKDIR /")
            return
        user = owner(self.config.config.user)

        def work(scratch: Path, output: Output) -> None:
            _warn(self.around.workshop.make_directory(self.tree, scratch, path, user), output)

        self._change_files(instruction, f"WORKDIR {path}", {"mkdir": path, "user": user}, work)

    @_apply.register
    def _(self, instruction: ins.Run) -> None:
        if instruction.devices:
            raise instruction.origin.error(
                "RUN --device: device feature is only supported in Dockerfile frontend 1.14.0-labs or later",
                hint="the stable frontend is followed here; RUN --security=insecure shows the devices of the host",
            )
        script = instruction.script()
        mounts = RunMounts(instruction, self.around, self._workdir())
        command = Command(
            argv=instruction.argv(self._shell()),
            env={**_proxies(self.around.build_args), **self.variables},
            user=self.config.config.user,
            workdir=self._workdir(),
            network=instruction.network,
            hostname=self.around.build_args.get(_HOSTNAME) or "buildkitsandbox",
            privileged=instruction.security == "insecure",
            scripts={script.path: script.content} if script else {},
        )
        inputs = {
            "run": command.argv,
            "platform": str(self.config.platform),
            "env": self.variables,
            "user": command.user,
            "workdir": command.workdir,
            "network": command.network,
            "hostname": command.hostname,
            "security": instruction.security,
            "scripts": command.scripts,
            "mounts": mounts.inputs(),
        }
        work = partial(_run, self.around.workshop, self.tree, command, mounts)
        self._change_files(instruction, history.run(command.argv, self.declared), inputs, work, has_own_times=True)

    @_apply.register
    def _(self, instruction: ins.Transfer) -> None:
        with Remotes(self.around.store, self.around.secrets, self.around.agents) as remotes:
            try:
                placement = Placement.of(instruction, self.around, remotes, self._workdir(), self.tree)
                inputs = placement.inputs()
            except StepFailed as failure:
                self.around.execution.tell_failure(self._label(instruction), failure)
                raise

            def work(scratch: Path, output: Output) -> None:
                _warn(placement.carry_out(self.around.workshop, scratch), output)

            said = history.transfer(instruction)
            self._change_files(
                instruction,
                said,
                inputs,
                work,
                placement.contents,
                link=placement.link,
                has_own_times=placement.unpacks,
            )

    def _change_files(
        self,
        instruction: ins.Instruction,
        said: str,
        inputs: Mapping[str, Any],
        work: Work,
        contents: Callable[[], Mapping[str, str]] = dict,
        *,
        link: bool = False,
        has_own_times: bool = False,
    ) -> None:
        """Take the step's layer from the cache, or carry the step out and let what it wrote become one.

        ``link``: the layer is the same on whatever lies below. ``has_own_times``: the files' times mean something, and
        an epoch changes only later ones.
        """
        if self.around.epoch is not None:
            seconds = self.around.epoch.seconds
            inputs = {**inputs, "epoch": seconds}
            work = partial(_dated, self.around.store, work, seconds, older=not has_own_times)
        key = step_key(self.key, inputs)
        link_key = step_key("", inputs) if link else ""
        step = Step(self.key, key, instruction.source, inputs, frozenset(self.declared), contents, link_key)
        result = self.around.execution.obtain(step, self._label(instruction), work, self.reasons)
        self.reasons.is_done(step)
        self.key = key
        self.created = result.created if self.around.epoch is None else self.around.epoch.text
        if result.layer is not None:
            self.tree = replace(self.tree, layers=(*self.tree.layers, result.layer))
        self._note(said, layer=result.layer is not None)

    def _label(self, instruction: ins.Instruction) -> Label:
        name = shown(instruction, self.variables, self.around.escape)
        return self.numbering.next(name, instruction.line, is_trigger=self.in_trigger)

    def _failed(self, instruction: ins.Instruction, failure: StepFailed) -> StageFailed:
        """What is left of the stage: it as it was, and with what the command has written and the variables it saw."""
        before, after = self.image(), None
        if failure.layer is not None:
            config = before.config.with_config(env=tuple(f"{name}={self.variables[name]}" for name in self.variables))
            after = self.around.store.put(config, (*before.layers, failure.layer), before.host_directories)
        return StageFailed(instruction, failure, before, after)

    def _shell(self) -> tuple[str, ...]:
        return self.config.config.shell or DEFAULT_SHELL

    def _workdir(self) -> str:
        return self.config.config.working_dir or "/"


def _dated(store: Store, work: Work, seconds: int, scratch: Path, output: Output, *, older: bool) -> None:
    work(scratch, output)
    store.date(scratch / "fs", seconds, older=older)


def _warn(lacks: Sequence[str], output: Output) -> None:
    """Say what an image lacks to know an owner."""
    for lack in lacks:
        output(f"warning: {lack}: root is taken, as BuildKit does\n")


def _run(workshop: Workshop, tree: Tree, command: Command, mounts: RunMounts, scratch: Path, output: Output) -> None:
    with mounts.opened(scratch) as ready:
        env = {**ready.defaults, **command.env, **ready.env}
        code = workshop.run(tree, scratch, replace(command, env=env, mounts=tuple(ready.mounts)), output)
    if code:
        raise StepFailed(f"exit code {code}", code, hint=_hint(code, tree, command))


def _hint(code: int, tree: Tree, command: Command) -> str | None:
    """What may be wrong where a command was not found."""
    if code != _NOT_FOUND:
        return None
    if not tree.layers and not tree.host_directories:
        return "in scratch there is nothing that could run; begin FROM an image, or COPY a program into it"
    if command.argv[-1].startswith("["):
        return 'a shell was to run this, since it is no valid JSON: write ["program", "argument"], with double quotes'
    return None


def _proxies(build_args: Mapping[str, str]) -> dict[str, str]:
    """The predefined arguments as a RUN's environment has them, in both cases (``llb.WithProxy``)."""
    given = {name.lower(): value for name, value in build_args.items() if name.lower() in _PROXIES}
    return {**given, **{name.upper(): value for name, value in given.items()}}
