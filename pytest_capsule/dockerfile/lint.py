"""BuildKit's build checks: what is legal in a Dockerfile and most likely wrong, as warnings with their lines.

Source: ``dockerfile2llb/validations.go`` and ``convert.go``, ``instructions/parse.go``. What ONBUILD triggers of a base
image do is not checked: they are not in the file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pytest_capsule.dockerfile import instructions as ins
from pytest_capsule.dockerfile.dockerfile import Dockerfile, Stage, assemble
from pytest_capsule.dockerfile.dockerignore import IgnoreRules
from pytest_capsule.dockerfile.meaning import to_instruction
from pytest_capsule.dockerfile.parser import Node, Tree, parse_tree, read_directives
from pytest_capsule.dockerfile.rules import CheckOptions, LintWarning
from pytest_capsule.dockerfile.text import closest, decode, quote
from pytest_capsule.dockerfile.words import Expander
from pytest_capsule.errors import DockerfileError

OVERRIDE: Final = "BUILDKIT_DOCKERFILE_CHECK"
"""The build argument whose value replaces the ``# check=`` directive."""
_RESERVED: Final = ("context", "scratch")
_NOT_VARIABLES: Final = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
_SECRET: Final = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET: Final = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_REFERENCE: Final = re.compile(
    r"(?:(?:[a-zA-Z0-9-]+\.[a-zA-Z0-9.-]+|localhost|[a-zA-Z0-9.-]+(?=:[0-9]+/)|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::\w[\w.-]{0,127})?(?:@[A-Za-z][\w.+-]*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
_OURS: Final = ("rootfs:", "oci:", "docker-archive:")
_ARCHITECTURES: Final = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}
_SYSTEMS: Final = ("linux", "windows", "darwin", "freebsd")
_EVERYTHING: Final = ("*", "**", "**/*")


@dataclass(frozen=True, slots=True)
class BaseImage:
    """What the checks want to know of an image that FROM names; ``platform`` is ``os/architecture``."""

    env: Mapping[str, str]
    shell: tuple[str, ...] = ()
    platform: str = ""


@dataclass(frozen=True, slots=True)
class LintResult:
    """The warnings by line, and the error that ended the reading of the file, if one did.

    ``path`` and ``text`` are the Dockerfile's, ``options`` those of its ``check`` directive.
    """

    warnings: tuple[LintWarning, ...]
    error: DockerfileError | None
    options: CheckOptions
    path: str
    text: str

    def excerpt(self, line: int) -> str:
        """A line with two before and after it, as BuildKit shows it."""
        lines = self.text.split("\n")
        rule = "-" * 20
        shown = [f"{self.path}:{line}", rule]
        for number in range(max(line - 2, 1), min(line + 2, len(lines)) + 1):
            mark = ">>>" if number == line else "   "
            shown.append(f"{number:>4} | {mark} {lines[number - 1]}".rstrip())
        return "\n".join((*shown, rule))

    def violation(self) -> DockerfileError | None:
        """The error that the warnings are where the options ask for that."""
        if not (self.options.error and self.warnings):
            return None
        rules = ", ".join(dict.fromkeys(warning.rule for warning in self.warnings))
        return DockerfileError(
            f"lint violation found for rules: {rules}",
            path=self.path,
            line=self.warnings[0].line,
            hint="mend it, or leave error=true out of the check directive",
        )


def lint(
    source: bytes | str,
    path: str = "Dockerfile",
    *,
    platforms: Mapping[str, str] | None = None,
    build_args: Mapping[str, str] | None = None,
    bases: Mapping[str, BaseImage] | None = None,
    ignore: IgnoreRules | None = None,
    target: int | None = None,
) -> LintResult:
    """Check a Dockerfile.

    ``platforms`` are the predefined arguments of FROM (``TARGETPLATFORM`` …). ``bases`` are the images that are known,
    by the reference in FROM; in a stage on another one no variable counts as undefined. With ``target``, the index of
    a stage, only those that it needs are checked, else all of them. Raise ``DockerfileError`` for check options that
    cannot be read.
    """
    given = build_args or {}
    directives = read_directives(source)
    options = check_options(directives.get("check"), given)
    findings = _Findings(options)
    found: DockerfileError | None = None
    try:
        tree = parse_tree(source, path)
        dockerfile = assemble(tree, _checked(tree, findings), directives)
        _check_names(dockerfile, findings)
        _check_casing(tree, findings)
        checker = _Checker(dockerfile, tree, findings, dict(platforms or {}), given, bases or {}, ignore)
        checker.check(target)
    except DockerfileError as error:
        found = error
    return LintResult(findings.sorted(), found, options, path, decode(source))


def check_options(directive: str | None, build_args: Mapping[str, str]) -> CheckOptions:
    """What the ``check`` directive of a Dockerfile says, or the build argument in its place.

    ``DockerfileError``, without a line, where that cannot be read.
    """
    return CheckOptions.parse(build_args.get(OVERRIDE, directive or ""))


@dataclass
class _Findings:
    """Collects warnings; a ``# check=`` comment right above an instruction counts for that one besides."""

    options: CheckOptions
    found: list[LintWarning] = field(default_factory=list)
    local: dict[int, CheckOptions] = field(default_factory=dict)

    def warn(self, rule: str, line: int, message: str, *, of: int | None = None) -> None:
        """Add a warning about ``line``; ``of`` is the line of the instruction at which it was found."""
        if self.local.get(line if of is None else of, self.options).makes(rule):
            self.found.append(LintWarning(rule, line, message))

    def sorted(self) -> tuple[LintWarning, ...]:
        """All of them once, by line, in the order in which they were found."""
        return tuple(sorted(dict.fromkeys(self.found), key=lambda warning: warning.line))


def _checked(tree: Tree, findings: _Findings) -> list[ins.Instruction]:
    """The instructions, each checked by itself, so that what is found is told even where a later one has no meaning."""
    instructions: list[ins.Instruction] = []
    for node in tree.nodes:
        check = read_directives("\n".join(f"# {one}" for one in node.comments if one.startswith("check"))).get("check")
        if check is not None:
            try:
                findings.local[node.origin.line] = findings.options.merged(CheckOptions.parse(check))
            except DockerfileError:  # a comment may say anything
                continue
    for warning in tree.warnings:
        findings.warn("NoEmptyContinuation", warning.line, "Empty continuation line")
    for node in tree.nodes:
        instruction = to_instruction(node, tree.escape)
        instructions.append(instruction)
        line = node.origin.line
        if isinstance(instruction, ins.From):
            _check_from(node, findings)
            _check_comment(node, [instruction.alias] if instruction.alias else [], findings)
        elif isinstance(instruction, ins.Arg):
            _check_comment(node, [one.name for one in instruction.declarations], findings)
        elif isinstance(instruction, ins.Maintainer):
            findings.warn("MaintainerDeprecated", line, "Maintainer instruction is deprecated in favor of using label")
    return instructions


def _check_from(node: Node, findings: _Findings) -> None:
    if len(node.arguments) != 3:
        return
    _, keyword, name = node.arguments
    line = node.origin.line
    if name != name.lower():
        findings.warn("StageNameCasing", line, f"Stage name '{name}' should be lowercase")
    if _is_consistent(node.name) and keyword != (keyword.lower() if node.name.islower() else keyword.upper()):
        findings.warn("FromAsCasing", line, f"'{keyword}' and '{node.name}' keywords' casing do not match")


def _check_comment(node: Node, names: list[str], findings: _Findings) -> None:
    if not names or not node.comments or node.comments[-1].split(" ")[0] in names:
        return
    example = names[0] if len(names) == 1 else "<arg_key>"
    message = f"Comment for {node.keyword.upper()} should follow the format: `# {example} <description>`"
    findings.warn("InvalidDefinitionDescription", node.origin.line, message)


def _check_names(dockerfile: Dockerfile, findings: _Findings) -> None:
    seen: set[str] = set()
    for stage in dockerfile.stages:
        if stage.name is None:
            continue
        name = quote(stage.name)
        if stage.name in _RESERVED:
            message = f"Stage name should not use the same name as reserved stage {name}"
            findings.warn("ReservedStageName", stage.line, message)
        if stage.name in seen:
            message = f"Duplicate stage name {name}, stage names should be unique"
            findings.warn("DuplicateStageName", stage.line, message)
        seen.add(stage.name)


def _check_casing(tree: Tree, findings: _Findings) -> None:
    first = next(index for index, node in enumerate(tree.nodes) if node.keyword == "from")
    nodes = tree.nodes[first:]
    consistent = [node.name for node in nodes if _is_consistent(node.name)]
    lower = sum(name.islower() for name in consistent)
    majority = "lowercase" if lower > len(consistent) - lower else "uppercase"
    for node in nodes:
        if node.name != (node.name.lower() if majority == "lowercase" else node.name.upper()):
            message = f"Command '{node.name}' should match the case of the command majority ({majority})"
            findings.warn("ConsistentInstructionCasing", node.origin.line, message)


def _is_consistent(name: str) -> bool:
    return name in (name.lower(), name.upper())


@dataclass
class _State:
    """What is known behind the instructions of a stage so far."""

    env: dict[str, str]
    shell: tuple[str, ...]
    arguments: set[str]
    is_known: bool
    has_workdir: bool = False


class _Checker:
    """Walks through the stages as a build would, without doing anything."""

    def __init__(
        self,
        dockerfile: Dockerfile,
        tree: Tree,
        findings: _Findings,
        platforms: dict[str, str],
        build_args: Mapping[str, str],
        bases: Mapping[str, BaseImage],
        ignore: IgnoreRules | None,
    ) -> None:
        self._dockerfile = dockerfile
        self._written = {node.origin.line: node.name for node in tree.nodes}
        self._warn = findings.warn
        self._build_args = build_args
        self._bases = bases
        self._patterns = ignore.patterns if ignore else ()
        self._ignore = ignore
        self._platforms = platforms
        self._predefined = dockerfile.predefined(platforms)
        self._globals = self._global_arguments(build_args)
        self._states: dict[int, _State] = {}

    def check(self, target: int | None) -> None:
        self._check_defaults()
        stages = self._dockerfile.stages
        for stage in stages:
            self._check_base(stage)
        for stage in stages if target is None else stages[target : target + 1]:
            self._visit(stage)

    def _global_arguments(self, build_args: Mapping[str, str]) -> dict[str, str]:
        values = {name: build_args.get(name, value) for name, value in self._predefined.items()}
        for arg in self._dockerfile.meta_args:
            resolved = arg.resolve(self._expander(values), build_args)
            values.update({name: value for name, value in resolved if value is not None})
        return values

    def _expander(self, values: Mapping[str, str]) -> Expander:
        return Expander(values, escape=self._dockerfile.escape)

    # -- FROM -----------------------------------------------------------------------------------------------------

    def _check_defaults(self) -> None:
        """Base images must have a name without build arguments too."""
        try:
            defaults = self._global_arguments({})
            names = [self._expander(defaults).word(stage.from_.base) for stage in self._dockerfile.stages]
        except DockerfileError:  # the build itself says so
            return
        for stage, name in zip(self._dockerfile.stages, names, strict=True):
            if not (name.startswith(_OURS) or _REFERENCE.fullmatch(name)):
                message = f"Default value for ARG {stage.from_.base} results in empty or invalid base image name"
                self._warn("InvalidDefaultArgInFrom", stage.line, message)

    def _check_base(self, stage: Stage) -> None:
        from_ = stage.from_
        declared = {one.name for arg in self._dockerfile.meta_args for one in arg.declarations} | self._globals.keys()
        base = self._expander(self._globals)
        platform = self._expander(self._globals)
        with from_.origin.placing():
            base.word(from_.base)
            value = platform.word(from_.platform)
        for name in sorted((base.unset | platform.unset) - declared):
            hint = _suggestion(name, declared)
            self._warn("UndefinedArgInFrom", stage.line, f"FROM argument '{name}' is not declared{hint}")
        if not from_.platform:
            return
        if not (platform.used or platform.unset):
            system, architecture = _platform_words(value)
            if not any(word and word in (stage.name or "") for word in (system, architecture)):
                message = f"FROM --platform flag should not use constant value {quote(value)}"
                self._warn("FromPlatformFlagConstDisallowed", stage.line, message)
        elif platform.used == {"TARGETPLATFORM"} and not platform.unset and value == self._globals["TARGETPLATFORM"]:
            message = f"Setting platform to predefined {from_.platform} in FROM is redundant as this is the default "
            self._warn("RedundantTargetPlatform", stage.line, f"{message}behavior")

    def _begin(self, stage: Stage) -> _State:
        base = stage.from_.expand(self._expander(self._globals))
        earlier = self._dockerfile.base_stage(stage, base.base)
        if earlier is not None:
            below = self._visit(earlier)
            return replace(below, env=dict(below.env), arguments=set(below.arguments))
        known = BaseImage({}) if base.base == "scratch" else self._bases.get(base.base)
        if known is None:
            return _State({"PATH": ""}, (), set(), is_known=False)
        expected = base.platform or self._platforms.get("TARGETPLATFORM", "")
        if known.platform and expected and _platform_words(known.platform) != _platform_words(expected):
            message = f"Base image {base.base} was pulled with platform {quote(known.platform)}, "
            self._warn("InvalidBaseImagePlatform", stage.line, f"{message}expected {quote(expected)} for current build")
        return _State({"PATH": "", **known.env}, known.shell, set(), is_known=True)

    # -- what follows it ------------------------------------------------------------------------------------------

    def _visit(self, stage: Stage) -> _State:
        """Check a stage once, after those that it takes from."""
        if stage.index in self._states:
            return self._states[stage.index]
        for reference in (one for instruction in stage.instructions for one in ins.sources(instruction)):
            other = self._dockerfile.find_stage(reference)
            if other is not None and other.index < stage.index:
                self._visit(other)
        state = self._states[stage.index] = self._begin(stage)
        last: dict[type[ins.Instruction], ins.Instruction] = {}
        for instruction in stage.instructions:
            self._check_variables(instruction, state)
            self._check_instruction(instruction, state)
            if isinstance(instruction, (ins.Cmd, ins.Entrypoint, ins.Healthcheck)):
                self._check_once(instruction, last.get(type(instruction)))
                last[type(instruction)] = instruction
        return state

    def _check_variables(self, instruction: ins.Instruction, state: _State) -> None:
        expander = self._expander(state.env)
        if isinstance(instruction, ins.Arg):
            values = instruction.resolve(expander, self._build_args, self._globals)
            unset = expander.unset - state.arguments
            self._warn_of_unset(instruction, unset, state)
            state.arguments |= {name for name, _ in values}
            state.env.update({name: value for name, value in values if value is not None})
            return
        expanded = instruction.expand(expander)
        if isinstance(expanded, ins.Expose):
            self._check_ports(expanded)
            return
        self._warn_of_unset(instruction, expander.unset - state.arguments, state)
        if isinstance(expanded, ins.Env):
            state.env.update({pair.name: pair.value for pair in expanded.pairs})
        elif isinstance(expanded, ins.Workdir):
            self._check_workdir(expanded, state)

    def _warn_of_unset(self, instruction: ins.Instruction, unset: Iterable[str], state: _State) -> None:
        for name in sorted(unset) if state.is_known else ():
            if name not in _NOT_VARIABLES:
                hint = _suggestion(name, state.env, "$")
                self._warn("UndefinedVar", instruction.line, f"Usage of undefined variable '${name}'{hint}")

    def _check_instruction(self, instruction: ins.Instruction, state: _State) -> None:
        if isinstance(instruction, ins.Shell):
            state.shell = instruction.words
        elif isinstance(instruction, (ins.Cmd, ins.Entrypoint)):
            if not instruction.is_json and not state.shell:
                message = (
                    f"JSON arguments recommended for {self._name(instruction)} to prevent unintended behavior related "
                    "to OS signals"
                )
                self._warn("JSONArgsRecommended", instruction.line, message)
        elif isinstance(instruction, (ins.Env, ins.Label)):
            self._check_pairs(instruction)
        elif isinstance(instruction, ins.Arg):
            for one in instruction.declarations:
                self._check_secret("ARG", one.name, instruction.line)
        elif isinstance(instruction, ins.Transfer):
            self._check_sources(instruction, state)

    def _check_pairs(self, instruction: ins.Env | ins.Label) -> None:
        name = self._name(instruction)
        for pair in instruction.pairs:
            if pair.is_legacy:
                message = f'"{name} key=value" should be used instead of legacy "{name} key value" format'
                self._warn("LegacyKeyValueFormat", instruction.line, message)
            if isinstance(instruction, ins.Env):
                self._check_secret("ENV", pair.name, instruction.line)

    def _check_secret(self, keyword: str, name: str, line: int) -> None:
        if _SECRET.search(name) and not _NO_SECRET.search(name):
            message = f"Do not use ARG or ENV instructions for sensitive data ({keyword} {quote(name)})"
            self._warn("SecretsUsedInArgOrEnv", line, message)

    def _check_workdir(self, instruction: ins.Workdir, state: _State) -> None:
        if not state.has_workdir and not instruction.path.startswith("/"):
            message = (
                f"Relative workdir {quote(instruction.path)} can have unexpected results if the base image changes"
            )
            self._warn("WorkdirRelativePath", instruction.line, message)
        state.has_workdir = True

    def _check_ports(self, instruction: ins.Expose) -> None:
        instruction.exposed()
        for port in instruction.ports:
            protocol = port.partition("/")[2]
            if protocol != protocol.lower():
                message = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                self._warn("ExposeProtoCasing", instruction.line, message)
            if ":" in port.strip(":"):
                message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                self._warn("ExposeInvalidFormat", instruction.line, message)

    def _check_sources(self, instruction: ins.Transfer, state: _State) -> None:
        """Not where a pattern brings something back: what lies in an ignored directory may be kept."""
        if self._ignore is None or any(pattern.is_exception for pattern in self._patterns):
            return
        if isinstance(instruction, ins.Copy) and instruction.from_:
            return
        expanded = instruction.expand(self._expander(state.env))
        for source in expanded.sources if isinstance(expanded, ins.Transfer) else ():
            if isinstance(instruction, ins.Add) and re.match(r"https?://|git@", source):
                continue
            path = posixpath.normpath(source)
            in_root = path in (".", "/")
            everything = any(pattern.text in _EVERYTHING for pattern in self._patterns)
            if everything if in_root else self._ignore.ignores(path):
                message = f"Attempting to {instruction.keyword.capitalize()} file {quote(path)} that is excluded by "
                self._warn("CopyIgnoredFile", instruction.line, f"{message}.dockerignore")

    def _check_once(self, instruction: ins.Instruction, before: ins.Instruction | None) -> None:
        if before is not None:
            message = (
                f"Multiple {self._name(instruction)} instructions should not be used in the same stage because only "
                "the last one will be used"
            )
            self._warn("MultipleInstructionsDisallowed", before.line, message, of=instruction.line)

    def _name(self, instruction: ins.Instruction) -> str:
        return self._written.get(instruction.line, instruction.keyword)


def _suggestion(name: str, known: Iterable[str], mark: str = "") -> str:
    close = closest(name, known)
    return f" (did you mean {mark}{close}?)" if close else ""


def _platform_words(text: str) -> tuple[str, str]:
    """Operating system and architecture, as far as they are given."""
    system, slash, rest = text.partition("/")
    if not slash:
        system, rest = (system, "") if system.lower() in _SYSTEMS else ("linux", system)
    architecture = rest.partition("/")[0].lower()
    return system.lower(), _ARCHITECTURES.get(architecture, architecture)
