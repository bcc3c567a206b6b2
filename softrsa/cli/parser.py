"""The parser of the command line: light, so that help and mistakes are answered at once.

What a command does is `run` of the module of its name, which is imported once the line is parsed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import softrsa
from softrsa import datasets

SHELLS = ("bash", "zsh", "fish", "tcsh")
SURFACES = "surfaces"  # of `softrsa predict --data`: made, not a data set

EXAMPLES = {
    "softrsa": """\
example:
  softrsa align --demo --transform identity,geo_topological --out results/
  softrsa report results/result.nc --out results/report.html
  softrsa datasets list
  softrsa COMMAND --help      every command has an example of its own
""",
    "align": """\
example, simulated data:
  $ softrsa align --demo --transform identity,geo_topological --out results/
  writes report.html (open it first), scores.csv, result.nc and alignment.png, and says
    early: best layer layer1 (identity 0.866, noise ceiling 0.902 to 0.945, corrected p 0.001)
    ...

real images and a pretrained network (extra `demo`):
  $ softrsa align --dataset kriegeskorte92 --model efficientnet-lite0 --out results/

your own files, joined by stimulus id:
  $ softrsa align LAYERS.nc RECORDINGS.nc --by layer --region region --subject subject \\
        --transform identity,metric,instance,metric+instance --folds 5 --out results/

a file for each subject, of any format:
  $ softrsa align LAYERS.nc --recordings sub-*/betas.mat --stimuli IDS.txt --out results/

betas of fMRI, a file per subject and run, and masks of regions:
  $ softrsa align LAYERS.nc sub-*_run-*_betas.nii.gz --mask V1=V1.nii.gz IT=IT.nii.gz \\
        --events "sub-{subject}_run-{run}_events.tsv" --distance crossnobis --out results/

what the network's layers add to pixels:
  $ softrsa align LAYERS.nc RECORDINGS.nc --control PIXELS.nc --transform identity --out results/
""",
    "extract": """\
example, images and a network of timm:
  $ softrsa extract --model timm:resnet50 --images stimuli/ --list-layers
  $ softrsa extract --model timm:resnet50 --images stimuli/ --layers "layer4*,global_pool" \\
        --out layers.nc
  $ softrsa align layers.nc RECORDINGS.nc --out results/

sentences, one a line, and an encoder that the extra `text` carries:
  $ softrsa extract --model all-minilm-l6-v2 --sentences SENTENCES.txt --out layers.nc

your own network: a function `make` that gives a module, or (module, preprocess)
  $ softrsa extract --model mine.py:make --images stimuli/ --layers "conv*" --out layers.nc

A run that was stopped goes on where it ended when it is given again.
""",
    "time": """\
example, your own files, joined by stimulus id:
  $ softrsa time LAYERS.nc MEG.nc --subject subject --measure spearman --out results-time/
  writes report.html, courses.csv (a row per layer, region and time), latencies.csv,
  differences.csv, result.nc and courses.png, and says when each curve begins and peaks
""",
    "searchlight": """\
example, betas of one subject, a file per run:
  $ softrsa searchlight LAYERS.nc sub-01_run-*_betas.nii.gz --mask sub-01_mask.nii.gz \\
        --events "sub-01_run-{run}_events.tsv" --radius 8 --permutations 1000 --out results-map/
  writes report.html, peaks.csv, maps/*.nii.gz (scores, and 1 - corrected p), maps.png, result.nc

several subjects in a common space, tested by flips of signs, corrected by the largest t:
  $ softrsa searchlight LAYERS.nc sub-*_space-MNI_betas.nii.gz --mask MNI_mask.nii.gz \\
        --events "sub-{subject}_events.tsv" --radius 8 --out results-map/
""",
    "report": """\
example, after `softrsa align ... --out results/`:
  $ softrsa report results/result.nc --title "ResNet and IT" --images stimuli/
  The report is /home/you/results/report.html
  stimuli/ has a picture for each stimulus, named by its id: face_01.png for face_01
""",
    "identify": """\
example, simulated networks:
  $ softrsa identify --demo --transform identity,centered --out results-identify/
  writes accuracies.csv, by_subject.csv, identification.png, result.nc

RDMs of your own, with the dimensions (region, subject, anchor, neighbor):
  $ softrsa identify RDMS.nc --noise 0,0.5,1 --out results-identify/
""",
    "optimize": """\
example, simulated data:
  $ softrsa optimize --demo --measure nbs,linear_cka --target 0.9 --out results-optimize/
  writes a result per measure, components.csv, components.png and scores.png

neurons, and one measure; goes on where it stopped:
  $ softrsa optimize --dataset macaque-v4 --region V4 --measure nbs --target 0.95 \\
        --resume --out results-v4/
""",
    "predict": """\
example, a small data set of scikit-learn:
  $ softrsa predict --data diabetes --heads linear,ridge,nca --splits 3 --out results-predict/
  writes rows.csv (a row per head and split), table.csv, errors.png, ranks.png

the best settings of one head:
  $ softrsa predict --data diabetes --heads nca --search --out results-search/
""",
    "datasets": """\
example:
  $ softrsa datasets list
  $ softrsa datasets fetch kriegeskorte92
  kriegeskorte92: 3 files in /home/you/.cache/softrsa/datasets/kriegeskorte92
  $ softrsa datasets verify kriegeskorte92
  status  dataset         file
  ok      kriegeskorte92  kriegeskorte92/92_brainRDMs.mat
  ...

environment:
  SOFTRSA_DATA     a folder where data may already lie; files put there by hand are found
  SOFTRSA_CACHE    where downloads go (by default the system's cache)
  SOFTRSA_MIRROR   a folder or an address with a copy of the files, to work without the network:
                   each file at its path on the card, e.g. kriegeskorte92/92_brainRDMs.mat
""",
    "completion": """\
example:
  bash:  softrsa completion bash > ~/.local/share/bash-completion/completions/softrsa
  zsh:   softrsa completion zsh > "${fpath[1]}/_softrsa"
  fish:  softrsa completion fish > ~/.config/fish/completions/softrsa.fish
  tcsh:  softrsa completion tcsh > ~/.softrsa.csh, and source it
""",
}


GiveNames = Callable[[], Iterable[str]]


class Option(NamedTuple):
    """A row of the table of a command's options."""

    name: str
    text: str  # of the help
    how: dict[str, Any]  # for `add_argument`
    names_in_help: GiveNames | None
    apart: str = ""  # of the options with one such word, one at most may be given


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are one line, and whose help may list what is slow to know.

    ``lists`` has options, and what gives the names to add to their help once it is asked for.
    """

    lists: list[tuple[argparse.Action, GiveNames]]

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.lists = []

    def format_help(self) -> str:
        """Write the help with all lists of names."""
        self.complete()
        return super().format_help()

    def complete(self) -> None:
        """Put lists of names into the help."""
        while self.lists:
            action, give_names = self.lists.pop()
            action.help = (action.help or "").replace("...", ", ".join(give_names()))

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and leave with exit code 2."""
        line = one_line(message)
        say(f"softrsa: error: {line}{'' if line.endswith('.') else '.'} See `{self.prog} --help`.")
        sys.exit(2)


def _of(module: str, table: str) -> GiveNames:
    """Give the names in a table once they are asked for, as its module takes long to load."""
    return lambda: getattr(import_module(module), table)


TASKS = _of("softrsa.prediction.tasks", "TASKS")
TRANSFORMS = _of("softrsa.transforms", "TRANSFORMS")


def MEASURES() -> list[str]:
    """Give the names of measures in alphabetical order: there are many."""
    return sorted(_of("softrsa.measures", "MEASURES")())


OF_REGIONS = _of("softrsa.identification.statistics", "EVERY")


def names(text: str) -> list[str]:
    """Split names at commas."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected names separated by commas.")
    return found


def seed(text: str) -> int:
    """Take a whole number that seeds a generator."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number below 2^31.")
    return int(text)


def folds(text: str) -> int | None:
    """Take a number of folds, or none."""
    if text.lower() == "none":
        return None
    if not text.removeprefix("-").isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number, or none.")
    return int(text)


def _counts(text: str) -> list[int]:
    """Take whole numbers separated by commas."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers with commas.")
    return [int(part) for part in parts]


def _numbers(text: str) -> list[float]:
    """Take numbers separated by commas."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers separated by commas.")
    return found


def one_line(message: object) -> str:
    """Join the lines of a message."""
    return " ".join(str(message).split())


def say(line: str) -> None:
    """Write a line to stderr, if anything can be written there."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")


def option(name: str, text: str, *, names_in_help: GiveNames | None = None, **how: Any) -> Option:
    """Give a row of a table of options; names take the place of "..." in its help."""
    return Option(name, text, how, names_in_help)


def flag(name: str, text: str) -> Option:
    """Give the row of an option that is there or not."""
    return Option(name, text, {"action": "store_true"}, None)


def files_or_demo(files: str, demo: str) -> tuple[Option, ...]:
    """Give the rows of where data come from."""
    return (
        option("files", files, nargs="*", metavar="FILE", type=Path),
        flag("--demo", f"use the simulated {demo} that softrsa carries"),
        option("--dataset", "one of: ...", names_in_help=datasets.available),
    )


OUT = option("--out", "where results are written", required=True, type=Path, metavar="DIR")
OVERWRITE = flag("--overwrite", "replace results of an earlier run without saying so")
LAYERS = option("--layers", "only these layers, comma-separated", type=names)
REGIONS = option("--regions", "only these regions, comma-separated", type=names)
DEVICE = option("--device", "auto, cpu, cuda or cuda:0 (%(default)s)", default="auto")
OUTPUT = (
    flag("--quiet", "no progress and no table"),
    flag("--json", "the table as JSON on stdout, for programs"),
)
LISTED: dict[str, Any] = {"type": names, "metavar": "A,B,..."}
COUNT: dict[str, Any] = {"type": int, "metavar": "N"}
EACH: dict[str, Any] = {"action": "append", "metavar": "[FILE:]WHAT"}
SEED: dict[str, Any] = {"type": seed, "metavar": "N"}

READING = (  # what `softrsa.load` is told; of two files, with "layers:" or "recordings:" before
    option("--kind", "what numbers are: rdm, rsm or recording", **EACH),
    option("--dims", "what each axis is, e.g. time,subject,anchor,neighbor", **EACH),
    option("--variable", "the array to read, where a file holds several", **EACH),
    option("--halves", "of a square whose halves differ: mean, lower, upper or both", **EACH),
    option("--trials", "keep single trials, or their mean (the mean)", **EACH),
    flag("--drop-missing-units", "leave out units that have NaN"),
    option(
        "--limit", "memory that a file may take, in GB (what there is)", type=float, metavar="GB"
    ),
)
STIMULI = option(
    "--stimuli",
    "ids of the stimuli: a file with one a line, A,B,..., a variable, or numbered",
    **EACH,
)

FILES: dict[str, Any] = {"nargs": "+", "metavar": "FILE"}
IMAGES = (  # what belongs to images of fMRI
    option(
        "--mask",
        "of images: the voxels to read, or NAME=FILE for each of several regions; "
        "{subject}, {session}, {task} and {run} stand for what the name of each image says",
        **FILES,
    ),
    option("--atlas", "of images: an image with a number for each region", metavar="FILE"),
    option("--atlas-labels", "names of these: a table with index and name", metavar="FILE"),
    option(
        "--events",
        "of images: a table for all or for each; with a row per volume the images are "
        "betas, else time series, to which a model is fitted",
        **FILES,
    ),
    option("--events-column", "that holds the stimulus ids (trial_type)", metavar="NAME"),
    option("--volumes", "what volumes are, where events do not say", choices=("betas", "bold")),
    option("--confounds", "of time series: a table for each image", **FILES),
    option("--confound-columns", "which of them, such as trans_?,rot_?", **LISTED),
    option(
        "--t-r", "of time series: repetition time in s (of the header)", type=float, metavar="S"
    ),
    flag("--resample", "bring masks and atlas to the grid of the images"),
)

OPTIONS: dict[str, tuple[Option, ...]] = {
    "align": (
        *files_or_demo(
            "LAYERS RECORDINGS: activations, and recordings or RDMs, in any format that "
            "softrsa.load reads: netCDF, zarr, MATLAB, CSV, NumPy, rsatoolbox, BrainIO, ...; "
            "images of fMRI; several files of recordings are of a subject each, images of the "
            "subjects and runs that their names say",
            "data set",
        ),
        option(
            "--recordings", "the files of recordings, if not after LAYERS; each is a subject, "
            "named by sub-... in its path, or by its name; globs in quotes are expanded too",
            nargs="+", type=Path, metavar="FILE",
        ),
        option(
            "--model", "a pretrained network to show the data set's images (efficientnet-lite0)"
        ),
        flag("--untrained", "use the network with random weights"),
        STIMULI,
        *READING,
        *IMAGES,
        option(
            "--distance", "make RDMs of single trials first, one for each region and subject "
            "(without it trials of a stimulus are averaged)",
            choices=("crossnobis", "mahalanobis", "poisson", "poisson_cv"),
        ),
        option("--fold", "coordinate of trials that holds the folds of crossnobis and poisson_cv, "
               "or repeats:N for N folds of repeats (%(default)s)", default="run", metavar="NAME"),
        OUT,
        OVERWRITE,
        option("--by", "coordinate that holds layers (%(default)s)", default="layer"),
        option("--region", "coordinate that holds regions (%(default)s)", default="region"),
        option("--subject", "coordinate that holds subjects (%(default)s)", default="subject"),
        option(
            "--layers", "only these layers, comma-separated; or, with --recordings, the file of "
            "layers", type=names,
        ),
        REGIONS,
        option("--similarity", "between stimuli (%(default)s)", default="correlation"),
        option(
            "--measure", "between RSMs or features (%(default)s), of: ...", metavar="NAME",
            default="centered_pearson", names_in_help=MEASURES,
        ),
        option(
            "--transform", "of: ... (all that suit the data and the measure). global and instance "
            "learn a SoftStep of similarities; reweighted, metric and encoding learn the "
            "similarity itself, of the layers' units; metric+instance is one after the other",
            **LISTED, names_in_help=TRANSFORMS,
        ),
        option(
            "--sides", "whose similarities a SoftStep is learned of; with model the noise ceiling "
            "is that of the untouched brain (%(default)s)",
            choices=("both", "model", "brain"), default="both",
        ),
        option(
            "--folds", "over stimuli, or none to score all of them (%(default)s)", type=folds,
            default=5, metavar="N",
        ),
        flag("--leave-one-subject-out", "score each subject under transforms fitted on the others"),
        option(
            "--join", "whether both files must have the same stimuli (%(default)s)",
            choices=("exact", "intersection"), default="exact",
        ),
        option(
            "--ids", "normalize: ids may differ by case, folder, extension, ... (%(default)s)",
            choices=("exact", "normalize"), default="exact",
        ),
        option(
            "--control", "what is held constant, in any format that softrsa.load reads, all of it "
            "or one layer; may be given again: scores are then partial correlations", type=str,
            action="append", metavar="FILE[:LAYER]",
        ),
        option(
            "--groups", "coordinate of the stimuli that holds their groups, such as category, or a "
            "file with a label per line: folds keep groups whole; intervals and p are of groups",
            metavar="NAME",
        ),
        option(
            "--subject-groups", "coordinate beside that of subjects that holds their groups, such "
            "as family or site: these are drawn and left out together", metavar="NAME",
        ),
        flag("--permute", "a control: shuffle the brain's stimuli, so every gain must vanish"),
        option("--seed", "of folds, inner folds and --permute (%(default)s)", default=0, **SEED),
        option(
            "--resamples", "for intervals and p; 0 for none (%(default)s)", default=1000, **COUNT
        ),
        option(
            "--store", "keep each layer, region and fold here once it is done, to go on after a "
            "stop", type=Path, metavar="DIR",
        ),
        option("--workers", "share the work among N processes, with dask", **COUNT),
        DEVICE,
        *OUTPUT,
    ),
    "extract": (
        option(
            "--model", "efficientnet-lite0, all-minilm-l6-v2, torchvision:NAME, timm:NAME, "
            "transformers:NAME or FOLDER, sentence-transformers:FOLDER, FILE.py:FUNCTION or "
            "FILE.pt2", required=True,
        ),
        option("--images", "a folder of images, named by stimulus id", type=Path, metavar="DIR")
        ._replace(apart="stimuli"),
        option(
            "--sentences", "a text file with one a line, or a CSV file with the columns stimulus "
            "and text", type=Path, metavar="FILE",
        )._replace(apart="stimuli"),
        option("--dataset", "the images of one of: ...", names_in_help=datasets.available)
        ._replace(apart="stimuli"),
        option(
            "--layers", "modules by name; * stops at dots, ** does not; \"leaves\"; name[0] or "
            "name[key] of one that returns several tensors (those that are known for a model)",
            type=names, metavar="A,B,...",
        ),
        option("--out", "the file to write, such as layers.nc", type=Path, metavar="FILE"),
        OVERWRITE,
        flag("--list-layers", "list the layers and what they return for one stimulus; no more"),
        flag("--dry-run", "say how large the file would be and how long it would take; no more"),
        flag("--untrained", "use random weights"),
        option(
            "--pool", "flatten keeps all of a layer, mean averages over all but channels "
            "(%(default)s)", choices=("flatten", "mean"), default="flatten",
        ),
        option(
            "--tokens", "of sentences: which tokens make the one vector of each (mean, or what a "
            "folder of sentence-transformers says)", choices=("mean", "last", "cls"),
        ),
        option("--batch-size", "stimuli at a time (%(default)s)", default=32, **COUNT),
        option("--seed", "of random weights (%(default)s)", default=0, **SEED),
        DEVICE,
        *OUTPUT,
    ),
    "time": (
        option(
            "files", "LAYERS RECORDINGS: activations or RDMs, and recordings (stimulus, unit, "
            "time) or RDM movies, in any format that softrsa.load reads", nargs=2, metavar="FILE",
            type=Path,
        ),
        STIMULI,
        *READING,
        OUT,
        OVERWRITE,
        option("--by", "coordinate that holds layers (%(default)s)", default="layer"),
        option("--region", "coordinate that holds regions (%(default)s)", default="region"),
        option("--subject", "coordinate that holds subjects (%(default)s)", default="subject"),
        LAYERS,
        REGIONS,
        option("--similarity", "between stimuli (%(default)s)", default="correlation"),
        option(
            "--measure", "between RSMs (%(default)s), of: ...", metavar="NAME",
            default="centered_pearson", names_in_help=MEASURES,
        ),
        option(
            "--transform", "of RSMs, without a fit (%(default)s)",
            choices=("identity", "centered"), default="identity",
        ),
        option(
            "--join", "whether both files must have the same stimuli (%(default)s)",
            choices=("exact", "intersection"), default="exact",
        ),
        option("--times", "times of recordings whose file has none: START:STEP, or a file with one "
               "a line", metavar="WHAT"),
        option("--chance", "score without any relation (%(default)s)", type=float, default=0.0),
        option(
            "--alternative", "how scores differ from chance (%(default)s)",
            choices=("greater", "less", "two-sided"), default="greater",
        ),
        option(
            "--method", "of the test over times: cluster mass, threshold-free cluster "
            "enhancement or the maximum of t (%(default)s)", choices=("mass", "tfce", "max"),
            default="mass",
        ),
        option("--threshold", "t that forms clusters (of p = .05)", type=float, metavar="T"),
        option("--flips", "of signs over subjects (%(default)s)", default=1000, **COUNT),
        option("--resamples", "of subjects, for latencies (%(default)s)", default=1000, **COUNT),
        option("--seed", "of flips and resamples (%(default)s)", default=0, **SEED),
        *OUTPUT,
    ),
    "searchlight": (
        option(
            "files", "LAYERS, activations or RDMs in any format that softrsa.load reads, and "
            "IMAGES (NIfTI, GIFTI), runs and subjects told by their names (run-1, sub-01); or "
            "netCDF files of `softrsa.io.from_nifti`, one per subject", nargs="+", metavar="FILE",
            type=Path,
        ),
        option("--radius", "of spheres, or of disks on a surface, in mm", type=float,
               metavar="MM"),
        option("--rings", "of disks on a surface: edges, in place of a radius", **COUNT),
        option("--mesh", "the surface: one file per hemisphere", type=Path, **FILES),
        *IMAGES,
        STIMULI,
        *READING,
        OUT,
        OVERWRITE,
        option("--by", "coordinate that holds layers (%(default)s)", default="layer"),
        LAYERS,
        option("--similarity", "between stimuli, of layers (%(default)s)", default="correlation"),
        option(
            "--measure", "between RDMs (%(default)s), of: ...", metavar="NAME",
            default="spearman", names_in_help=MEASURES,
        ),
        option(
            "--method", "distance around each center (%(default)s)",
            choices=("correlation", "cosine", "sqeuclidean", "l2", "l1", "mahalanobis",
                     "crossnobis"), default="correlation",
        ),
        option("--fold", "coordinate of the folds of crossnobis (%(default)s)", default="run"),
        option("--smallest", "units that a center needs around it (%(default)s)", default=5,
               **COUNT),
        option(
            "--join", "whether both sides must have the same stimuli (%(default)s)",
            choices=("exact", "intersection"), default="exact",
        ),
        option("--chance", "score without any relation (%(default)s)", type=float, default=0.0),
        option(
            "--alternative", "how scores differ from chance (%(default)s)",
            choices=("greater", "less", "two-sided"), default="greater",
        ),
        option(
            "--test", "of several subjects: the maximum of t, threshold-free cluster enhancement "
            "or cluster mass (%(default)s)", choices=("max", "tfce", "mass"), default="max",
        ),
        option("--flips", "of signs over subjects (%(default)s)", default=1000, **COUNT),
        option("--permutations", "of stimuli, of one subject (%(default)s)", default=0, **COUNT),
        option("--seed", "of flips and permutations (%(default)s)", default=0, **SEED),
        *OUTPUT,
    ),
    "report": (
        option("result", "result.nc, as `softrsa align` writes it", type=Path, metavar="RESULT"),
        option(
            "--out", "the page to write (report.html beside the result)", type=Path, metavar="FILE"
        ),
        OVERWRITE,
        option("--title", "heading of the page"),
        option(
            "--images", "pictures of the stimuli, named by stimulus id", type=Path, metavar="DIR"
        ),
        option("--dataset", "take the pictures of this data set instead"),
        *OUTPUT,
    ),
    "identify": (
        *files_or_demo(
            "RDMS.nc: RDMs by region and subject, or recordings with these labels on their units",
            "networks",
        ),
        *READING,
        OUT,
        OVERWRITE,
        REGIONS,
        option("--transform", "of: ... (all)", names_in_help=OF_REGIONS, **LISTED),
        option(
            "--rule", "correlation with a region's mean, or nearest centroid as published "
            "(%(default)s)", choices=("best_match", "centroid"), default="best_match",
        ),
        option("--folds", "over stimuli; 1 holds none out (%(default)s)", type=int, default=2),
        option("--grid", "steps of l and u between 0 and 1 (%(default)s)", type=int, default=10),
        option("--resamples", "for intervals (%(default)s)", type=int, default=1000),
        flag("--published", "repeat the published procedure, which is optimistic, instead"),
        option(
            "--noise", "curves: noise added to RDMs, in their sd", type=_numbers, metavar="A,B,..."
        ),
        option("--stimuli", "curves: numbers of random stimuli", type=_counts, metavar="A,B,..."),
        option("--subsets", "for each point of a curve (%(default)s)", type=int, default=5),
        option("--seed", "of all that is random (%(default)s)", default=0, **SEED),
        *OUTPUT,
    ),
    "optimize": (
        *files_or_demo("a netCDF file of recordings or activations", "data set"),
        option("--region", "the region whose units to compare with")._replace(apart="part"),
        option("--layer", "the layer whose units to compare with")._replace(apart="part"),
        STIMULI,
        *READING,
        OUT,
        OVERWRITE,
        option(
            "--measure", "differentiable ones of softrsa.measures (nbs,linear_cka)",
            default=["nbs", "linear_cka"], **LISTED,
        ),
        option(
            "--similarity", "of RSMs, for measures on those (%(default)s)", default="correlation"
        ),
        option(
            "--average", "of predictivity, over units: by their variance, or uniform (%(default)s)",
            choices=("variance", "uniform"), default="variance",
        ),
        option("--target", "score to reach (%(default)s)", type=float, default=0.99),
        option("--restarts", "random starts (%(default)s)", default=1, **COUNT),
        option("--units", "width of the random data (as the real ones)", **COUNT),
        option("--lr", "learning rate of Adam (%(default)s)", type=float, default=0.1),
        option("--max-steps", "at most (%(default)s)", default=1000, **COUNT),
        option(
            "--record", "keep the data at about so many steps, evenly over scores (%(default)s)",
            default=50, **COUNT,
        ),
        option("--seed", "of the starts (%(default)s)", default=0, **SEED),
        DEVICE,
        flag("--resume", "go on from the files in --out, to more steps or a higher target"),
        *OUTPUT,
    ),
    "predict": (
        option("--data", f"{SURFACES}, ...", required=True, metavar="NAME", names_in_help=TASKS),
        option(
            "--heads", "heads of NeighborRegressor, ridge, knn-linear and knn-nca (all)",
            default=["all"], **LISTED,
        ),
        option("--splits", "random splits (10; 3 with --search)", **COUNT),
        option(
            "--preset", "with a learned temperature, or without, as in the papers (%(default)s)",
            choices=("softrsa", "papers"), default="softrsa",
        ),
        option("--seed", f"of the first split (0), of {SURFACES} (42)", **SEED),
        flag("--search", "search similarity, embedding and batch size of one head instead"),
        OUT,
        OVERWRITE,
        *OUTPUT,
    ),
    "completion": (option("shell", "your shell", choices=SHELLS),),
}  # fmt: skip
LIGHT_OUTPUT = (
    flag("--json", "write JSON, for machines"), flag("--quiet", "no progress, only the essential"),
)  # fmt: skip
OF_DATASETS: dict[str, tuple[str, tuple[Option, ...]]] = {
    "list": ("name, kind, presence, shapes and licence of all data sets", ()),
    "show": (
        "the card of a data set: source, licence, citation, files",
        (option("name", "as `softrsa datasets list` has it", metavar="NAME"),),
    ),
    "fetch": (
        "download a data set, or go on with a download that was stopped",
        (option("names", "one or more data sets", metavar="NAME", nargs="+"),),
    ),
    "verify": (
        "compare what is here with its sha256; exit code 2 if corrupt",
        (option("name", "one data set (all)", metavar="NAME", nargs="?"),),
    ),
}


def add_options(parser: Parser, options: Iterable[Option]) -> None:
    """Give a parser the options of a table."""
    apart: dict[str, Any] = {}  # of which one at most may be given
    for row in options:
        if row.apart and row.apart not in apart:
            apart[row.apart] = parser.add_mutually_exclusive_group()
        holder = apart.get(row.apart, parser)
        action = holder.add_argument(row.name, help=row.text, **row.how)
        if row.names_in_help is not None:
            parser.lists.append((action, row.names_in_help))


def add_command(parsers: Any, name: str, about: str, example: str) -> Parser:
    """Add a command without options."""
    return parsers.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


COMMANDS = {
    "align": "align a model's layers with a brain's regions on held-out stimuli",
    "extract": "run a network over images or sentences and keep what its layers compute",
    "time": "score a model's layers at every time of recordings",
    "searchlight": "score a model's layers around every voxel or vertex",
    "report": "write a page for readers from the result of an alignment",
    "identify": "tell which region an RDM of a left-out subject is of",
    "optimize": "change random data until a measure gives them a score",
    "predict": "compare neighbor-regression heads on the same splits",
    "datasets": "list, show, fetch and verify data sets",
    "completion": "let your shell complete commands and options",
}


def build_parser(commands: Iterable[str] | None = None) -> Parser:
    """Build the parser, with the options of the commands named (all)."""
    parser = Parser(
        prog="softrsa",
        description="Representational similarity analysis with learned transforms.",
        epilog=EXAMPLES["softrsa"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=softrsa.__version__)
    parsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, about in COMMANDS.items():
        command = add_command(parsers, name, about, EXAMPLES[name])
        if commands is not None and name not in commands:
            continue
        add_options(command, OPTIONS.get(name, ()))
        if name == "datasets":
            asked = command.add_subparsers(required=True, metavar="COMMAND", dest="asked")
            for part, (what, options) in OF_DATASETS.items():
                own = add_command(asked, part, what, EXAMPLES[name])
                add_options(own, (*options, *LIGHT_OUTPUT))
    return parser
