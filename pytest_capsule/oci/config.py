"""The image config: what an image is made of and how it wants to be run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_capsule.oci.digest import Digest, chain_ids
from pytest_capsule.oci.document import JsonObject, name_set, present, read_object, sorted_map, write_object
from pytest_capsule.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """Docker's HEALTHCHECK. Times are nanoseconds; 0 and an empty ``test`` mean "inherit".

    ``test`` is ("NONE",), ("CMD", arguments...) or ("CMD-SHELL", line). Source: moby/docker-image-spec, image.go.
    """

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def read(cls, source: JsonObject) -> Healthcheck:
        """Take it out of its JSON object."""
        return cls(
            test=source.texts("Test"),
            interval=source.number("Interval"),
            timeout=source.number("Timeout"),
            start_period=source.number("StartPeriod"),
            start_interval=source.number("StartInterval"),
            retries=source.number("Retries"),
            extra=source.rest(),
        )

    def write(self) -> dict[str, Any]:
        """The JSON object of it."""
        pairs = (
            ("Test", list(self.test)),
            ("Interval", self.interval),
            ("Timeout", self.timeout),
            ("StartPeriod", self.start_period),
            ("StartInterval", self.start_interval),
            ("Retries", self.retries),
        )
        return present(pairs, self.extra)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How a container of the image is run, where the caller does not say otherwise.

    ``env`` is ordered "KEY=value" text. ``exposed_ports`` ("80/tcp") and ``volumes`` are sets, kept sorted by the
    reader. ``healthcheck`` is ``None`` where the image has none. ``extra`` holds the keys that we do not know.
    Source: OCI image-spec, config.md; moby/docker-image-spec for ``healthcheck``, ``on_build`` and ``shell``.
    """

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def read(cls, source: JsonObject) -> RunConfig:
        """Take it out of its JSON object."""
        healthcheck = source.object("Healthcheck")
        return cls(
            user=source.text("User"),
            exposed_ports=source.names("ExposedPorts"),
            env=source.texts("Env"),
            entrypoint=source.texts("Entrypoint"),
            cmd=source.texts("Cmd"),
            volumes=source.names("Volumes"),
            working_dir=source.text("WorkingDir"),
            labels=source.text_map("Labels"),
            stop_signal=source.text("StopSignal"),
            args_escaped=source.flag("ArgsEscaped"),
            healthcheck=Healthcheck.read(healthcheck) if source.has("Healthcheck") else None,
            on_build=source.texts("OnBuild"),
            shell=source.texts("Shell"),
            extra=source.rest(),
        )

    def write(self) -> dict[str, Any]:
        """The JSON object of it, keys in the order of Docker's Go structure, empty ones left out."""
        pairs = (
            ("User", self.user),
            ("ExposedPorts", name_set(self.exposed_ports)),
            ("Env", list(self.env)),
            ("Entrypoint", list(self.entrypoint)),
            ("Cmd", list(self.cmd)),
            ("Volumes", name_set(self.volumes)),
            ("WorkingDir", self.working_dir),
            ("Labels", sorted_map(self.labels)),
            ("StopSignal", self.stop_signal),
            ("ArgsEscaped", self.args_escaped),
            ("Healthcheck", self.healthcheck.write() if self.healthcheck else None),
            ("OnBuild", list(self.on_build)),
            ("Shell", list(self.shell)),
        )
        return present(pairs, self.extra)

    def env_dict(self) -> dict[str, str]:
        """The environment by name. Text without "=" sets nothing, as for the kernel's getenv readers."""
        pairs = (entry.partition("=") for entry in self.env)
        return {key: value for key, equals, value in pairs if equals}

    def with_env(self, key: str, value: str) -> RunConfig:
        """Set a variable: one that is there keeps its place, a new one goes last (BuildKit's ``addEnv``)."""
        entry = f"{key}={value}"
        for position, present_entry in enumerate(self.env):
            if present_entry.partition("=")[0] == key:
                return replace(self, env=(*self.env[:position], entry, *self.env[position + 1 :]))
        return replace(self, env=(*self.env, entry))

    def with_labels(self, labels: Mapping[str, str]) -> RunConfig:
        """Add labels, or give those that are there another value."""
        return replace(self, labels={**self.labels, **labels})


@dataclass(frozen=True, slots=True)
class History:
    """One line of ``docker history``. ``created`` is RFC 3339 text, "" where unknown; ``empty_layer`` made no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def read(cls, source: JsonObject) -> History:
        """Take it out of its JSON object."""
        return cls(
            created=source.text("created"),
            created_by=source.text("created_by"),
            author=source.text("author"),
            comment=source.text("comment"),
            empty_layer=source.flag("empty_layer"),
            extra=source.rest(),
        )

    def write(self) -> dict[str, Any]:
        """The JSON object of it."""
        pairs = (
            ("created", self.created),
            ("created_by", self.created_by),
            ("author", self.author),
            ("comment", self.comment),
            ("empty_layer", self.empty_layer),
        )
        return present(pairs, self.extra)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The config of an image; the digest of its JSON is the image's id.

    ``created`` is RFC 3339 text as it stands in the JSON (nanoseconds kept), "" where there is none. ``diff_ids`` are
    the digests of the layers' uncompressed tars, the bottom first. ``extra`` holds the keys that we do not know, and
    ``rootfs_extra`` those of ``rootfs``; ``to_json`` writes them back.
    Source: OCI image-spec, config.md.
    """

    architecture: str
    os: str = "linux"
    variant: str = ""
    created: str = ""
    author: str = ""
    config: RunConfig = field(default_factory=RunConfig)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    rootfs_extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, data: bytes) -> ImageConfig:
        """Read a config blob. Raises ``MalformedImage`` that names the field."""
        source = read_object(data, "image config")
        if not source.has("rootfs"):
            source.fail("missing; an image config must list its layers", "rootfs")
        rootfs = source.object("rootfs")
        kind = rootfs.text("type")
        if kind != "layers":
            # "Implementations MUST generate an error if they encounter a unknown value" (config.md).
            rootfs.fail(f"must be 'layers', not {kind!r}", "type")
        return cls(
            architecture=source.text("architecture"),
            os=source.text("os"),
            variant=source.text("variant"),
            created=source.text("created"),
            author=source.text("author"),
            config=RunConfig.read(source.object("config")),
            diff_ids=rootfs.digests("diff_ids"),
            history=tuple(History.read(entry) for entry in source.objects("history")),
            extra=source.rest(),
            rootfs_extra=rootfs.rest(),
        )

    def to_json(self) -> bytes:
        """The config blob: compact, top-level keys sorted as BuildKit writes them, the same bytes for equal values."""
        rootfs = {"type": "layers", "diff_ids": [str(diff_id) for diff_id in self.diff_ids]}
        pairs = (("author", self.author), ("created", self.created), ("variant", self.variant))
        values = {
            "architecture": self.architecture,
            "os": self.os,
            "config": self.config.write(),
            "rootfs": {**rootfs, **present((), self.rootfs_extra)},
            "history": [entry.write() for entry in self.history],
            **present(pairs, self.extra),
        }
        return write_object({key: values[key] for key in sorted(values)})

    @property
    def platform(self) -> Platform:
        """What the image was built for, in canonical words."""
        return Platform(self.os, self.architecture, self.variant).normalized()

    def chain_ids(self) -> tuple[Digest, ...]:
        """The name of each stack of layers, the bottom first."""
        return chain_ids(self.diff_ids)

    def with_config(self, **changes: Any) -> ImageConfig:
        """The same image with some fields of ``config`` changed: ``config.with_config(user="app", cmd=("run",))``."""
        return replace(self, config=replace(self.config, **changes))

    def with_env(self, key: str, value: str) -> ImageConfig:
        """The same image with one environment variable set; see ``RunConfig.with_env``."""
        return replace(self, config=self.config.with_env(key, value))

    def with_history(self, entry: History) -> ImageConfig:
        """The same image after a step that made no layer. ``created`` follows the entry's, where it has one."""
        return replace(self, history=(*self.history, replace(entry, empty_layer=True))).with_created(entry.created)

    def with_created(self, created: str) -> ImageConfig:
        """The same image made at ``created`` (RFC 3339); "" leaves the time as it is."""
        return replace(self, created=created) if created else self
