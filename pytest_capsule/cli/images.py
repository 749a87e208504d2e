"""``capsule images``, ``history``, ``tag``, ``rmi``, ``prune`` and ``inspect``: what is in the store."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from typing import TYPE_CHECKING, Any

from pytest_capsule.cli.filters import chosen
from pytest_capsule.cli.listing import Listing
from pytest_capsule.cli.table import age, size
from pytest_capsule.cli.template import Template
from pytest_capsule.errors import CapsuleError, ImageNotFound, UsageError
from pytest_capsule.oci.reference import Reference, familiar
from pytest_capsule.store.image import moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_capsule.cli.invocation import Invocation
    from pytest_capsule.cli.parser import Commands
    from pytest_capsule.engine import Engine
    from pytest_capsule.oci.config import History
    from pytest_capsule.store.image import Image

_NONE = "<none>"
_MISSING = "<missing>"
_UNKNOWN = "N/A"
_NO_TIME = "0001-01-01T00:00:00Z"  # the first of Go's
_NO_LOCAL_TIME = "0001-01-01 00:00:00 +0000 UTC"
_SHOWN_COMMAND = 45  # docker/cli, formatter/history.go
_IMAGE_COLUMNS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "SIZE",
}
_HISTORY_COLUMNS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
# What docker inspect always shows of a config, even if it is nothing.
_NO_CONFIG: dict[str, Any] = {
    "User": "",
    "Env": [],
    "Cmd": [],
    "Volumes": {},
    "WorkingDir": "",
    "Entrypoint": [],
    "OnBuild": [],
    "Labels": {},
}


def add_commands(commands: Commands) -> None:
    """Tell the parser of them."""
    parser = commands.add("images", images, "list the images of the store")
    parser.add_argument(
        "repository", nargs="?", metavar="REPOSITORY[:TAG]", help="only images of that name, which may have * in it"
    )
    parser.add_argument("-a", "--all", action="store_true", help="taken for Docker's sake: all are listed")
    parser.add_argument("--digests", action="store_true", help="show their digests in registries")
    parser.add_argument(
        "-f",
        "--filter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only those: dangling=true|false, label=KEY[=VALUE], reference=PATTERN, before=IMAGE, since=IMAGE, "
        "until=TIME; repeatable",
    )
    _add_listing_options(parser)

    parser = commands.add("history", history, "list the steps that an image was made in")
    parser.add_argument("image", metavar="IMAGE")
    _add_listing_options(parser)
    parser.add_argument(
        "-H",
        "--human",
        nargs="?",
        type=_flag,
        const=True,
        default=True,
        metavar="true|false",
        help="sizes and times for people (default: true)",
    )

    parser = commands.add("tag", tag, "give an image one more name")
    parser.add_argument("image", metavar="IMAGE[:TAG]")
    parser.add_argument("target", metavar="NAME[:TAG]")

    parser = commands.add("rmi", rmi, "remove images, or names of images")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("-f", "--force", action="store_true", help="remove an image with all of its names")

    parser = commands.add(
        "prune",
        prune,
        "remove what nobody needs",
        description="Remove images without a name, and layers and blobs that no image has, and say how much room that "
        "made. Nothing goes that a running container or build uses.",
    )
    parser.add_argument("-a", "--all", action="store_true", help="images with names and the build cache too")
    parser.add_argument("--build-cache", action="store_true", help="the build cache too: steps are then run anew")
    parser.add_argument("--keep", metavar="SIZE", help="only until the store is this small, the longest unused first")
    parser.add_argument("-f", "--force", action="store_true", help="taken for Docker's sake: nothing is asked")

    parser = commands.add("inspect", inspect, "print all that is known of images, as JSON")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("-f", "--format", metavar="FORMAT", help="json, or a template of Go's, such as '{{.Id}}'")
    parser.add_argument("--type", choices=("image",), help="taken for Docker's sake: images are all that there is")


def _add_listing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="only print image ids")
    parser.add_argument("--no-trunc", action="store_true", help="print everything in full")
    parser.add_argument(
        "--format", metavar="FORMAT", default="table", help="table, json, or a template of Go's, such as '{{.ID}}'"
    )


def _flag(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    value = values.get(text.lower().removeprefix("="))
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return value


# -- images -------------------------------------------------------------------------------------------------------


def images(call: Invocation) -> int:
    """The images of the store, one line a name."""
    options = call.options
    columns = ["Repository", "Tag", "ID", "CreatedSince", "Size"]
    listing = Listing.parse(options.format, _IMAGE_COLUMNS, columns[:2] + ["Digest"] * options.digests + columns[2:])
    wanted = [*options.filter, *([f"reference={options.repository}"] if options.repository else [])]
    with call.engine() as engine:
        found = chosen(engine, wanted)
        digests = {image.id: engine.repo_digests(image) for image, _ in found}
    if options.quiet and listing.is_plain:
        for image_id in dict.fromkeys(_id(image, options) for image, _ in found):
            print(image_id)
        return 0
    now = datetime.datetime.now(datetime.timezone.utc)
    rows = []
    for image, name in found:
        repository, tag = _repository_and_tag(name)
        made = moment(image.config.created)
        how_much = size(image.size)
        rows.append(
            {
                "Repository": repository,
                "Tag": tag,
                "Digest": _digest(digests[image.id], repository),
                "ID": _id(image, options),
                "CreatedSince": age(image.config.created, now),
                "CreatedAt": made.astimezone().strftime("%Y-%m-%d %H:%M:%S %z %Z") if made else _NO_LOCAL_TIME,
                "Size": how_much,
                "Containers": _UNKNOWN,
                "SharedSize": _UNKNOWN,
                "UniqueSize": _UNKNOWN,
                "VirtualSize": how_much,
            }
        )
    listing.print(rows)
    return 0


def _repository_and_tag(name: str) -> tuple[str, str]:
    if not name:
        return _NONE, _NONE
    reference = Reference.parse(name)
    return reference.familiar_name, reference.tag or _NONE


def _digest(digests: Sequence[str], repository: str) -> str:
    """That under which a repository has an image."""
    for text in digests:
        reference = Reference.parse(text)
        if reference.familiar_name == repository:
            return str(reference.digest)
    return _NONE


def _id(image: Image, options: argparse.Namespace) -> str:
    return image.id if options.no_trunc else image.short_id


# -- history ------------------------------------------------------------------------------------------------------


def history(call: Invocation) -> int:
    """The steps of an image, the last first."""
    options = call.options
    when = "CreatedSince" if options.human else "CreatedAt"
    listing = Listing.parse(options.format, _HISTORY_COLUMNS, ["ID", when, "CreatedBy", "Size", "Comment"])
    with call.engine() as engine:
        image = engine.image(options.image, pull="never").settled()
    now = datetime.datetime.now(datetime.timezone.utc)
    rows = []
    for number, (entry, bytes_added) in enumerate(_sized(image)):
        created_by = entry.created_by.replace("\t", " ")
        if not options.no_trunc and len(created_by) > _SHOWN_COMMAND:
            created_by = created_by[: _SHOWN_COMMAND - 1] + "…"
        rows.append(
            {
                "ID": _id(image, options) if number == 0 else _MISSING,
                "CreatedSince": age(entry.created, now),
                "CreatedAt": _timestamp(entry.created),
                "CreatedBy": created_by,
                "Size": size(bytes_added) if options.human else str(bytes_added),
                "Comment": entry.comment,
            }
        )
    if options.quiet and listing.is_plain:
        for row in rows:
            print(row["ID"])
        return 0
    listing.print(rows)
    return 0


def _timestamp(text: str) -> str:
    """A time for programs, in RFC 3339 and this machine's zone; where there is none, the first of Go's."""
    made = moment(text)
    return _NO_TIME if made is None else made.astimezone().isoformat().replace("+00:00", "Z")


def _sized(image: Image) -> list[tuple[History, int]]:
    """Each step, the last first, with the bytes of its layer: the layers belong to the steps that made one, in order.

    An image that was unpacked from a root filesystem has a layer at its bottom that no step made.
    """
    sizes = [layer.size for layer in image.layers]
    return [(entry, 0 if entry.empty_layer or not sizes else sizes.pop()) for entry in reversed(image.config.history)]


# -- names --------------------------------------------------------------------------------------------------------


def tag(call: Invocation) -> int:
    """One more name for an image."""
    with call.engine() as engine:
        engine.tag(call.options.image, call.options.target)
    return 0


def rmi(call: Invocation) -> int:
    """Remove names, and images with their last name; goes on after one that is not there, as Docker does."""
    failed = 0
    with call.engine() as engine:
        for reference in call.options.images:
            try:
                _remove(engine, reference, force=call.options.force)
            except CapsuleError as error:
                print(f"capsule: {error}", file=sys.stderr)
                failed = 1
    return failed


def _remove(engine: Engine, reference: str, *, force: bool) -> None:
    image = _stored(engine, reference).settled()
    names = _names(image)
    if len(names) > 1 and familiar(reference) in names:
        engine.remove(reference)
        print(f"Untagged: {familiar(reference)}")
        return
    if len(names) > 1 and not force:
        raise UsageError(
            f"{reference} has several names: {', '.join(names)}", hint="remove them by name, or all with rmi -f"
        )
    engine.remove(image)
    for name in names:
        print(f"Untagged: {name}")
    print(f"Deleted: {image.id}")


def _stored(engine: Engine, reference: str) -> Image:
    """The image, which must be in the store already: what is built in is not made only to be removed."""
    for image in engine.images():
        if familiar(reference) in _names(image):
            return image
    if reference.startswith("rootfs:"):
        raise ImageNotFound(f"{reference} is no image of the store", reference=reference)
    return engine.image(reference, pull="never")


def _names(image: Image) -> list[str]:
    """All names of an image, each with its tag."""
    return [familiar(name) for name in image.tags]


def prune(call: Invocation) -> int:
    """What went, and how much room that made, as Docker tells it."""
    options = call.options
    with call.engine() as engine:
        gone = engine.prune(all=options.all, build_cache=options.build_cache, keep=options.keep)
    if gone.images:
        print("Deleted Images:")
        for name in gone.names:
            print(f"untagged: {familiar(name)}")
        for image_id in gone.images:
            print(f"deleted: {image_id}")
        print()
    if gone.steps:
        print(f"Deleted build cache: {gone.steps} steps\n")
    print(f"Total reclaimed space: {size(gone.size)}")
    return 0


# -- inspect ------------------------------------------------------------------------------------------------------


def inspect(call: Invocation) -> int:
    """Everything about images; what is found is printed even if another is not, as Docker does."""
    found, failed = [], 0
    format = call.options.format
    template = Template.parse(format) if format and format != "json" else None
    with call.engine() as engine:
        for reference in call.options.images:
            try:
                found.append(_described(engine, engine.image(reference, pull="never")))
            except CapsuleError as error:
                print(f"capsule: {error}", file=sys.stderr)
                failed = 1
    if template is not None:
        for one in found:
            print(template.render(one))
        return failed
    for one in found:
        one["Config"] = {key: None if value in ([], {}) else value for key, value in one["Config"].items()}
    if format == "json":
        print(json.dumps(found, separators=(",", ":"), ensure_ascii=False))
    else:
        print(json.dumps(found, indent=4, ensure_ascii=False))
    return failed


def _described(engine: Engine, image: Image) -> dict[str, Any]:
    """``docker image inspect``'s fields, those that mean something here."""
    tags = _names(image)
    image = engine.image(image.id)  # its config has the digests of its layers now
    config = image.config
    return {
        "Id": image.id,
        "RepoTags": tags,
        "RepoDigests": engine.repo_digests(image),
        "Parent": "",
        "Comment": config.history[-1].comment if config.history else "",
        "Created": config.created,
        "Author": config.author,
        "Config": {**_NO_CONFIG, **config.config.write()},
        "Architecture": config.architecture,
        **({"Variant": config.variant} if config.variant else {}),
        "Os": config.os,
        "Size": image.size,
        "GraphDriver": {
            "Name": "overlay",
            "Data": {
                "LowerDirs": [layer.path for layer in reversed(image.layers)],
                "HostDirectories": list(image.host_directories),
            },
        },
        "RootFS": {"Type": "layers", "Layers": [str(digest) for digest in config.diff_ids]},
    }
