"""Draw the two charts that help to choose: questions to the left, answers to the right."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

FOLDER = Path(__file__).resolve().parent / "gallery"
BOX = 0.6
QUESTION, ANSWER = "#dcebf7", "#fdebd3"


@dataclass
class Node:
    """A question with the ways to answer it, or, without any, an answer."""

    text: str
    ways: dict[str, Node] = field(default_factory=dict)


MEASURE = Node(
    "What do you compare?",
    {
        "RSMs or RDMs": Node(
            "What do you trust\nof them?",
            {
                "their numbers": Node(
                    "Do row means count (one\nnumber per stimulus)?",
                    {
                        "no": Node("centered_pearson\n(the default)"),
                        "no, nor its weight": Node("balanced_pearson"),
                        "yes": Node("pearson, with its\nrow-offset share"),
                    },
                ),
                "their order only": Node(
                    "Has the model many ties\n(categories)?",
                    {"no": Node("spearman"), "yes": Node("rho_a or\nkendall_tau_a")},
                ),
                "their zero too": Node("whitened_cosine\n(crossnobis distances)"),
                "order, by gradient": Node("soft_spearman"),
            },
        ),
        "units themselves": Node(
            "Should one side\npredict the other?",
            {
                "yes": Node("ridge_predictivity,\non held-out stimuli"),
                "no": Node(
                    "More units than\nstimuli?",
                    {
                        "yes": Node("debiased_cka"),
                        "no": Node(
                            "Should components of\nsmall variance count?",
                            {
                                "little": Node("linear_cka"),
                                "more": Node("nbs, angular_procrustes"),
                                "as much as others": Node("cca, svcca"),
                            },
                        ),
                    },
                ),
            },
        ),
    },
)
TRANSFORM = Node(
    "Is there a hypothesis\nabout the transform?",
    {
        "thresholds": Node("geo_topological"),
        "none": Node(
            "How many stimuli?",
            {
                "fewer than 60": Node("centered: nothing to fit"),
                "60 or more": Node(
                    "Units of the layer?",
                    {
                        "yes": Node(
                            "Units of the brain too?",
                            {
                                "no, or few": Node("metric; does\nmetric+instance add?"),
                                "yes": Node("encoding and metric"),
                            },
                        ),
                        "no, RDMs": Node(
                            "One step for all stimuli?",
                            {
                                "yes": Node("global"),
                                "one for each": Node("instance (profile\ngates, by itself)"),
                            },
                        ),
                        "do not choose": Node("selected (on inner folds;\noften a fixed one)"),
                    },
                ),
            },
        ),
        "that of a paper": Node("identity, or the function\ngeo_topological(l, u)"),
    },
)


def leaves(node: Node) -> int:
    """Count the answers below a node."""
    return sum(map(leaves, node.ways.values())) or 1


def depth(node: Node) -> int:
    """Count the questions on the longest way."""
    return 1 + max(map(depth, node.ways.values()), default=0)


def draw(tree: Node, path: Path) -> None:
    """Draw a tree, a row for each answer; boxes are BOX of a column wide."""
    rows, columns = leaves(tree), depth(tree)
    figure = Figure(figsize=(3.3 * (columns - 1 + BOX) + 0.2, 0.72 * rows))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set_xlim(-0.03, columns - 1 + BOX + 0.03)
    ax.set_ylim(rows - 0.5, -0.5)

    def place(node: Node, column: int, top: float) -> float:
        middle = top + (leaves(node) - 1) / 2
        for way, child in node.ways.items():
            below = place(child, column + 1, top)
            top += leaves(child)
            bend = column + BOX + 0.03
            ax.plot([column + BOX, bend, bend], [middle, middle, below], color="0.4", linewidth=1)
            ax.annotate(
                "", (column + 1, below), (bend, below),
                arrowprops={"arrowstyle": "-|>", "color": "0.4", "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
            ax.text(bend + 0.015, below - 0.06, way, fontsize=8.5, va="bottom", color="#333")
        color = QUESTION if node.ways else ANSWER
        box = FancyBboxPatch(
            (column + 0.01, middle - 0.3), BOX - 0.02, 0.6, boxstyle="round,pad=0.01",
            facecolor=color, edgecolor="0.4",
        )  # fmt: skip
        ax.add_patch(box)
        ax.text(column + BOX / 2, middle, node.text, fontsize=9, ha="center", va="center")
        return middle

    place(tree, 0, 0)
    figure.savefig(path)


def main() -> None:
    """Draw both."""
    FOLDER.mkdir(exist_ok=True)
    draw(MEASURE, FOLDER / "which_measure.svg")
    draw(TRANSFORM, FOLDER / "which_transform.svg")


if __name__ == "__main__":
    main()
