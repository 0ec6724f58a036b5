"""Images of galaxies of each class, and those of which a classifier was most confidently wrong."""

from __future__ import annotations

from matplotlib.figure import Figure

from shearbench.evaluation.morphology import EXAMPLES, WRONG, read_examples
from shearbench.figures.catalogue import Entry
from shearbench.figures.style import DOUBLE, styled, wrapped

ENTRY = Entry(
    category="A. Morphology",
    caption="""\
**Images of galaxies.** Above: three test images of each class. Below: the test images of which the classifier
with the highest accuracy on the validation images was most confidently wrong, with the true class, the answer
and its probability.""",
    reads=("morphology_examples.h5",),
    each="morphology",
)


@styled
def draw(path: str) -> Figure:
    """Draw three images of each class, a column each, and the wrong answers below.

    Parameters
    ----------
    path : str
        ``metrics/morphology_examples.h5``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    about, found = read_examples(path)
    classes = about["classes"]
    columns = max(len(classes), 1)
    side = DOUBLE / columns
    wrong = len(found.get("wrong", ()))
    lines = -(-min(wrong, WRONG) // columns)
    figure = Figure(figsize=(DOUBLE, EXAMPLES * side + 0.5 + lines * (side + 0.75)), layout="constrained")
    axes = figure.subplots(EXAMPLES + lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    labels = found["examples_labels"]
    for k, name in enumerate(classes):
        axes[0, k].set_title(wrapped(name, 11), fontsize=6.5, pad=2)
        for row, image in enumerate(found["examples"][labels == k]):
            axes[row, k].imshow(image, origin="lower")
    for k in range(wrong):
        axis = axes[EXAMPLES + k // columns, k % columns]
        axis.imshow(found["wrong"][k], origin="lower")
        true, answer = (classes[int(found[f"wrong_{which}"][k])] for which in ("labels", "answers"))
        confidence = f"({found['wrong_confidence'][k]:.3f})"
        text = f"{wrapped(true, 13)}\n$\\rightarrow$ {wrapped(answer, 13)}\n{confidence}"
        axis.set_title(text, fontsize=5.5, pad=2)
    return figure
