"""Templates of ``--format``: what Go's ``text/template`` gives for each of these, and what it refuses."""

import pytest

from pytest_capsule.cli.template import Template
from pytest_capsule.errors import UsageError

IMAGE = {
    "Id": "sha256:abc",
    "RepoTags": ["app:1", "app:2"],
    "Config": {"Cmd": ["/x", "y"], "Labels": {"org.name": "v", "b": "<2>"}, "Env": [], "User": None},
    "Size": 55,
    "Shared": True,
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("{{.Id}} {{.Size}} {{.Shared}}", "sha256:abc 55 true"),
        ("{{.Config.Cmd}} {{.Config.Labels}} {{.Config.Env}}", "[/x y] map[b:<2> org.name:v] []"),
        ("{{json .Config.Labels}}", '{"org.name":"v","b":"\\u003c2\\u003e"}'),
        ("{{.Config.Cmd | json}}", '["/x","y"]'),
        ("{{ range .RepoTags }}[{{ . }}]{{ end }}", "[app:1][app:2]"),
        ("{{range $i, $tag := .RepoTags}}{{$i}}={{$tag}};{{end}}", "0=app:1;1=app:2;"),
        ("{{range $tag := .RepoTags}}{{$tag}}{{$.Size}} {{end}}", "app:155 app:255 "),
        ("{{range $key, $value := .Config.Labels}}{{$key}}:{{$value}} {{end}}", "b:<2> org.name:v "),
        ("{{range .Config.Env}}x{{else}}none{{end}}", "none"),
        ('{{index .Config.Labels "org.name"}} {{index .RepoTags 1}}', "v app:2"),
        ('{{index .Config.Labels "no"}}|', "|"),
        ('{{len .RepoTags}} {{join .RepoTags ", "}} {{split .Id ":"}}', "2 app:1, app:2 [sha256 abc]"),
        ("{{if .Config.Env}}a{{else if .Shared}}b{{else}}c{{end}}", "b"),
        ("{{if not .Shared}}a{{end}}{{if eq .Size 1 55}}b{{end}}{{if and .Shared (gt .Size 60)}}c{{end}}", "b"),
        ("{{with .Config}}{{.Cmd}}{{end}}{{with .Config.Env}}x{{else}}-{{end}}", "[/x y]-"),
        ("a  {{- .Size -}}  b", "a55b"),
        ('{{printf "%s|%5d|%-4s|%q|%v|%%" .Id .Size "x" "y" .RepoTags}}', 'sha256:abc|   55|x   |"y"|[app:1 app:2]|%'),
        ('{{.Id | upper | printf "%s!"}} {{lower "AB"}} {{title "ab"}} {{truncate .Id 3}}', "SHA256:ABC! ab Ab sha"),
        ("{{$size := .Size}}{{$size}}{{/* a note */}}", "55"),
        ("{{(index .RepoTags 0)}}{{(.Config).Cmd}}", "app:1[/x y]"),
        ('{{"}}"}}{{`a"b`}}{{"\\t"}}', '}}a"b\t'),
        ("{{println .Id}}{{print 1 2}}", "sha256:abc\n12"),
        ("{{or .Config.Env .Size}} {{ne 1 2}} {{lt 1 2}} {{le 2 2}} {{ge 1 2}}", "55 true true true false"),
    ],
)
def test_what_go_gives(text, shown):
    assert Template.parse(text).render(IMAGE) == shown


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{.Id", "not closed"),
        ("{{}}", "a value is missing"),
        ("{{.Nope}}", "there is no field .Nope; there are: Id, RepoTags"),
        ("{{.Id.More}}", "no field .More in 'sha256:abc'"),
        ("{{nope .Id}}", "function 'nope' is not defined"),
        ("{{$x}}", "undefined variable '$x'"),
        ("{{range .RepoTags}}", "'{{end}}' is missing"),
        ("{{end}}", "'end' stands alone"),
        ("{{else}}", "'else' stands alone"),
        ("{{range .Size}}{{end}}", "can't iterate over 55"),
        ("{{index .RepoTags 9}}", "index cannot be called"),
        ("{{.Id .Size}}", "is no function"),
        ("{{.Id ?}}", "'?' makes no sense"),
        ("{{(.Id}}", "bracket is not closed"),
        ("{{.Id )}}", "')' is not expected"),
        ('{{printf "%d" .Id}}', "printf cannot be called"),
        ('{{"\\z"}}', "no text as Go writes it"),
    ],
)
def test_what_is_no_template(text, reason):
    with pytest.raises(UsageError) as caught:
        Template.parse(text).render(IMAGE)
    assert reason in caught.value.message
    assert caught.value.message.startswith("--format: ")
