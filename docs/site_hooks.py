"""Hooks of MkDocs: add pages that are elsewhere in the repository, turn links to files into links of the site.

`page_of` and `converted` need no package, so that the tests can check all links without MkDocs.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOVED = {
    "README.md": "index.md",
    "config/README.md": "reference/configuration.md",
    "results/README.md": "reference/files.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that are not in docs/, and where the site has them."""

API = """# Python

What `import shearbench` offers; [python.md](../python.md) explains it with examples.

::: shearbench.api.runs.load_run
::: shearbench.api.runs.FinishedRun
::: shearbench.api.networks.load_network
::: shearbench.api.networks.Network

## Contracts

An architecture and an estimator are classes with these methods; [extend.md](../extend.md) has examples.

::: shearbench.networks.base.Architecture
::: shearbench.estimators.base.Estimator
::: shearbench.data.stamps.StampBatch
::: shearbench.data.shapes.Shapes
"""

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)|!\[([^\]]*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(```.*?```)", re.DOTALL)


def page_of(path: str) -> str | None:
    """Return where the site has a file of the repository, or None if it has not."""
    if path in MOVED:
        return MOVED[path]
    inside = path.startswith("docs/") and (ROOT / path).is_file()
    return path.removeprefix("docs/") if inside else None


def converted(text: str, source: str) -> str:
    """Return the text of a page with its links turned into those of the site.

    A link to a file that the site does not have becomes the path of the file.

    Parameters
    ----------
    text : str
    source : str
        Path of the page in the repository.

    Raises
    ------
    ValueError
        A link leads to no file of the repository.
    """
    here = posixpath.dirname(page_of(source) or "")

    def new(match: re.Match[str]) -> str:
        image = match[4] is not None
        words, link = (match[3], match[4]) if image else (match[1], match[2])
        if re.match(r"[a-z]+:|#", link):
            return match[0]
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        page = page_of(target)
        if not (ROOT / target).exists():
            raise ValueError(f"{source}: the link to {link} leads to no file")
        if page is None:
            return f"`{target}`" if target in words else f"{words} (`{target}`)"
        link = posixpath.relpath(page, here or ".") + (f"#{anchor}" if anchor else "")
        return f"{'!' if image else ''}[{words}]({link})"

    parts = _CODE.split(text)
    return "".join(part if part.startswith("```") else _LINK.sub(new, part) for part in parts)


def on_files(files, config):
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    pages = {page: (ROOT / path).read_text(encoding="utf-8") for path, page in MOVED.items()}
    for page, text in {**pages, "reference/api.md": API}.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Convert the links of a page."""
    source = next((path for path, where in MOVED.items() if where == page.file.src_uri), None)
    if page.file.src_uri == "reference/api.md":
        return markdown
    return converted(markdown, source or f"docs/{page.file.src_uri}")
