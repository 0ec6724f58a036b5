# %% [markdown]
# # From results to a paper's figures
# Change a figure of a run, quote numbers with their errors, and pack what a referee needs.

# %%
import json
import os
import tempfile
from pathlib import Path

import shearbench as sb
from shearbench.evaluation.rounding import shown
from shearbench.figures.style import save
from shearbench.tools.archive import pack

# %matplotlib inline
run = sb.load_run(os.environ.get("RUN", "../results/quick"))
output = Path(tempfile.mkdtemp())
run.figures

# %% [markdown]
# ## A figure with changes
# They are matplotlib figures; `save` writes PDF and PNG in the style of the run, without dates, so equal figures are equal
# files.

# %%
figure = run.figure("efficiency")
figure.axes[0].set_title("A survey")
save(figure, output / "efficiency.pdf", output / "efficiency.png")
figure

# %% [markdown]
# ## Numbers
# `paper/macros.tex` has a LaTeX macro for each number, `paper/numbers.json` its value, error, unit and source.

# %%
numbers = json.loads((run.folder / "paper/numbers.json").read_text(encoding="utf-8"))
name = next(name for name in numbers if name.startswith("RmseOverBound"))
print(f"\\{name}", numbers[name])

# %%
row = run.accuracy.sort_values("rmse_over_crb").iloc[0]
print(row["label"], shown(row["rmse_over_crb"], row["rmse_over_crb_err"]))

# %% [markdown]
# ## The archive
# Figures, tables, metrics, configuration and manifest in one file, with an RO-Crate description; `make archive` does the
# same.

# %%
path = pack(run.folder, path=output / f"{run.config.run}.tar.gz")
print(path.name, f"{path.stat().st_size / 1e6:.1f} MB")
