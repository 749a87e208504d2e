"""Dockerfiles: text in, values out. It reads and writes no file and runs nothing.

>>> dockerfile = parse("FROM alpine AS base\\nRUN echo hello\\n")
>>> dockerfile.stages[0].name
'base'
"""

from pytest_capsule.dockerfile.dockerfile import Dockerfile, Stage, parse, parse_trigger
from pytest_capsule.dockerfile.dockerignore import IgnoreRules, Verdict
from pytest_capsule.dockerfile.heredoc import Heredoc
from pytest_capsule.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Command,
    Copy,
    Declaration,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    InlineFile,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Pair,
    Run,
    Script,
    Shell,
    Stopsignal,
    Transfer,
    User,
    Volume,
    Workdir,
)
from pytest_capsule.dockerfile.mounts import Device, Mount
from pytest_capsule.dockerfile.origin import Origin
from pytest_capsule.dockerfile.parser import Node, ParseWarning, Tree, parse_tree
from pytest_capsule.dockerfile.patterns import Pattern
from pytest_capsule.dockerfile.words import Dialect, Expander, Expansion, expand, process_word, process_words

__all__ = [
    "Add",
    "Arg",
    "Cmd",
    "Command",
    "Copy",
    "Declaration",
    "Device",
    "Dialect",
    "Dockerfile",
    "Entrypoint",
    "Env",
    "Expander",
    "Expansion",
    "Expose",
    "From",
    "Healthcheck",
    "Heredoc",
    "IgnoreRules",
    "InlineFile",
    "Instruction",
    "Label",
    "Maintainer",
    "Mount",
    "Node",
    "Onbuild",
    "Origin",
    "Pair",
    "ParseWarning",
    "Pattern",
    "Run",
    "Script",
    "Shell",
    "Stage",
    "Stopsignal",
    "Transfer",
    "Tree",
    "User",
    "Verdict",
    "Volume",
    "Workdir",
    "expand",
    "parse",
    "parse_tree",
    "parse_trigger",
    "process_word",
    "process_words",
]
