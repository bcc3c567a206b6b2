"""Help and mistakes are answered without what computes: torch, xarray and the rest load later."""

import subprocess
import sys

import pytest

import softrsa
from softrsa.cli.parser import COMMANDS, build_parser

HEAVY = ("torch", "xarray", "pandas", "scipy", "matplotlib", "numpy", "pooch", "requests")
LINE = """
import sys
from softrsa.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*sys.modules, file=sys.stderr)
"""


def loaded(*words, line=LINE):
    """Run a line of Python and give what it wrote, its mistakes and the modules it imported."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", line, *words], capture_output=True, text=True, check=True
    )
    *mistakes, modules = done.stderr.splitlines()
    return done.stdout, mistakes, {*modules.split()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "align a model's layers"),
        (["--version"], softrsa.__version__),
        (["datasets", "list"], "kriegeskorte92"),
        (["datasets", "show", "nsd"], "Licence"),
        (["completion", "bash"], "--leave-one-subject-out"),
    ],
)
def test_help_and_cards_are_light(words, said):
    written, mistakes, modules = loaded(*words)
    assert said in written
    assert not mistakes
    assert not {*HEAVY} & modules


@pytest.mark.parametrize(
    "words", [["aling"], ["--helpp"], ["align", "--demo", "--out", "x", "--foldss", "3"]]
)
def test_mistakes_are_light(words):
    written, mistakes, modules = loaded(*words)
    assert not written
    assert len(mistakes) == 1
    assert mistakes[0].startswith("softrsa: error: ")
    assert not {*HEAVY} & modules


def test_importing_softrsa_is_light_and_its_names_are_there():
    line = "import sys, softrsa; softrsa.datasets.card('nsd'); print(*sys.modules, file=sys.stderr)"
    assert not {*HEAVY} & loaded(line=line)[2]
    for name in softrsa.__all__:
        assert getattr(softrsa, name) is not None
    assert {*softrsa.__all__} <= {*dir(softrsa)}
    assert softrsa.rsm.build_rsms is not None  # a room, though nothing here imported it
    with pytest.raises(AttributeError, match="'nothing'"):
        softrsa.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("command", "listed"),
    [("align", "geo_topological, global"), ("align", "rbf_cka"), ("identify", "centered"),
     ("predict", "diabetes")],
)  # fmt: skip
def test_the_help_of_a_command_lists_what_there_is(command, listed, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args([command, "--help"])
    assert listed in " ".join(capsys.readouterr().out.split())


def test_every_command_has_options_only_when_named():
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            build_parser([]).parse_args([name, "--quiet"])
