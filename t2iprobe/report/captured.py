"""What the run folder of ``t2iprobe capture`` shows: sites with their shapes and sizes, prompts, and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted
from t2iprobe.core.parse import size_text
from t2iprobe.core.pictures import opened
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.checksums import check
from t2iprobe.core.runs.engine import progress_of
from t2iprobe.core.store import verify
from t2iprobe.core.store.capture import RUN
from t2iprobe.core.store.reader import ActivationStore
from t2iprobe.report.figures import mosaic
from t2iprobe.report.folder import RunView
from t2iprobe.report.page import page_of
from t2iprobe.report.sections import Cell, ReportTable, Section

if TYPE_CHECKING:
    from t2iprobe.core.store.verify import Size
    from t2iprobe.registry.manager import Plugins

IMAGES = "images"  # the folder of the pictures
SHOWN = 48  # most pictures that a capture keeps
LISTED, STEPS = 1000, 20  # most prompts and steps on the page


def picture_file(row: int) -> str:
    """Where the picture of a prompt is kept, below the run's folder."""
    return f"{IMAGES}/{row:04d}.png"


def view(path: Path, plugins: Plugins) -> RunView:
    """What a capture shows, finished or not.

    Raises:
        ConfigError: nothing was captured yet, or it was removed again.
    """
    manifest = runfolder.read_manifest(path)
    place = str(manifest.get("store") or path / runfolder.STORE)
    try:
        store = ActivationStore(place, RUN)
    except ConfigError as error:
        raise ConfigError(f"{path} has no activations: {error}") from None
    sizes = verify.table(place)
    answer = {
        "model": manifest.get("model"),
        "store": place,
        "rows": store.rows,
        "steps": list(store.layout.steps),
        "sites": len(store.sites),
        "raw_bytes": sum(size.raw for size in sizes),
        "stored_bytes": sum(size.stored for size in sizes),
        "codec": store.layout.codec.as_json(),
        "round_bits": store.layout.round_bits,
        "seconds": progress_of(path, manifest).get("spent", {}).get("seconds", 0.0),
    }
    answer["sentence"] = _sentence(answer, len(store.missing))
    rows = [row for row in range(min(SHOWN, store.rows)) if (path / picture_file(row)).is_file()]
    pictures = [(f"{row}: {store.prompts[row]}", opened(check(path / picture_file(row)))) for row in rows]
    sheet = mosaic(pictures) if pictures else None
    page = page_of(manifest, "captured activations", answer["sentence"], list(_sections(path, store, sizes, sheet)))
    return RunView(page, None if store.missing else answer, sheet)


def _sentence(answer: Mapping[str, Any], missing: int) -> str:
    counts = counted(answer["sites"], "site"), counted(len(answer["steps"]), "step"), counted(answer["rows"], "prompt")
    kept = f"{size_text(answer['raw_bytes'])} of activations, {size_text(answer['stored_bytes'])} as stored"
    return f"{' × '.join(counts)}: {kept}." + (f" {counted(missing, 'prompt')} not captured yet." if missing else "")


def _sections(path: Path, store: ActivationStore, sizes: Sequence[Size], sheet: Image | None) -> Iterator[Section]:
    if sheet is not None:
        first = f"Of the first {SHOWN} prompts of {store.rows:,}." if store.rows > SHOWN else ""
        yield Section("Pictures", first, figures=[("by number and prompt", sheet)])
    layout = store.layout
    steps = ", ".join(map(str, layout.steps[:STEPS])) + (", …" if len(layout.steps) > STEPS else "")
    packed = f"packed with {layout.codec.name}, {layout.round_bits or 'all'} mantissa bits kept"
    read = f'Steps {steps}; {packed}. In Python: t2iprobe.ActivationStore("{path}").'
    sites: list[list[Cell]] = [
        [each.site, each.branch, each.dtype, " × ".join(map(str, each.shape)), *map(size_text, (each.raw, each.stored))]
        for each in sizes
    ]
    yield Section("Activations", read, ReportTable(["site", "branch", "dtype", "shape", "raw", "stored"], sites))
    rows = zip(store.prompts[:LISTED], store.seeds, strict=False)
    prompts: list[list[Cell]] = [[row, text, seed] for row, (text, seed) in enumerate(rows)]
    listed = f"The first {LISTED:,} of {store.rows:,}." if store.rows > LISTED else ""
    yield Section("Prompts", listed, ReportTable(["row", "prompt", "seed"], prompts))
