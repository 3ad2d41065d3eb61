"""The examples as notebooks with their outputs: ``python docs/_site/notebooks.py`` runs them and writes the notebooks.

As a MkDocs hook, it makes a page of each notebook. A cell's output is what it prints, and the PNG files that it saves.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parents[1]
NOTEBOOKS, EXAMPLES = DOCS / "notebooks", DOCS.parent / "examples"
LANGUAGE = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add a page for each notebook."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page(notebook, path.stem)))


def page(notebook: dict[str, Any], name: str) -> str:
    """A notebook as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append("".join(cell["source"]))
            continue
        parts.append(f"```python\n{''.join(cell['source'])}\n```")
        for output in cell["outputs"]:
            if "text" in output:
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            else:
                parts.append(f"![What the cell draws](data:image/png;base64,{output['data']['image/png']})")
    download = (
        f"[Download the notebook]({name}.ipynb), or take `examples/{name.replace('-', '_')}.py` from the repository. "
        "It needs Jupyter and pandas: `pip install jupyter pandas`."
    )
    return "\n\n".join([parts[0], download, *parts[1:]]) + "\n"


def cells(source: str) -> Iterator[tuple[str, str]]:
    """The title and the code of each cell of a script in the percent format."""
    about, *rest = re.split(r"^# %% ", source, flags=re.MULTILINE)
    yield about.strip().strip('".'), ""
    for cell in rest:
        title, _, code = cell.partition("\n")
        yield title, code.strip()


def executed(path: Path) -> dict[str, Any]:
    """Run an example in the current folder; returns the notebook."""
    names: dict[str, Any] = {"__name__": "__main__"}
    made: list[dict[str, Any]] = []
    for title, code in cells(path.read_text(encoding="utf-8")):
        made.append({"cell_type": "markdown", "metadata": {}, "source": f"{'## ' if code else '# '}{title}"})
        if code:
            there, printed = set(Path().glob("*.png")), io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, path.name, "exec"), names)
            new = sorted(set(Path().glob("*.png")) - there)
            outputs = (
                [{"output_type": "stream", "name": "stdout", "text": printed.getvalue()}] if printed.tell() else []
            )
            outputs += [
                {"output_type": "display_data", "metadata": {}, "data": {"image/png": coded(one)}} for one in new
            ]
            made.append(
                {"cell_type": "code", "execution_count": None, "metadata": {}, "source": code, "outputs": outputs}
            )
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(made)]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": LANGUAGE, "cells": numbered}


def coded(path: Path) -> str:
    """An image file as a notebook holds it, with few colours."""
    from PIL import Image

    small = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def main() -> None:
    """Run the examples named on the command line, or all."""
    for path in map(Path.resolve, map(Path, sys.argv[1:] or sorted(EXAMPLES.glob("*.py")))):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            notebook = executed(path)
        place = NOTEBOOKS / f"{path.stem.replace('_', '-')}.ipynb"
        place.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
