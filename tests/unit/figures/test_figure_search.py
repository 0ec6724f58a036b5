"""The figure of a search shows each trial by its state, also where some have no value."""

import numpy as np
import pandas as pd
import pytest

from shearbench.figures.search import draw


@pytest.mark.parametrize("some", [True, False], ids=["importances", "no importances"])
def test_trials_by_state_and_the_lowest_so_far(some):
    trials = pd.DataFrame(
        {
            "trial": [0, 1, 2, 3, 4, 5],
            "state": ["complete", "pruned", "complete", "diverged", "refused", "complete"],
            "validation_loss": [0.3, 0.9, 0.1, np.nan, np.nan, 0.2],
        }
    )
    importances = pd.DataFrame({"option": ["a", "b"], "importance": [0.8, 0.2]})
    figure = draw(trials, importances if some else importances[:0])
    left, *others = figure.axes
    steps = max(left.lines, key=lambda line: line.get_drawstyle() == "steps-post")
    assert steps.get_xdata().tolist() == [0, 2, 5, 5]
    assert steps.get_ydata().tolist() == [0.3, 0.1, 0.1, 0.1]
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels == ["complete (3)", "pruned (1)", "lowest so far"]
    assert [len(right.patches) for right in others] == ([2] if some else [])


def test_a_search_without_a_complete_trial():
    trials = pd.DataFrame({"trial": [0], "state": ["pruned"], "validation_loss": [0.3]})
    draw(trials, pd.DataFrame({"option": [], "importance": []}))
