"""Files that people hand over: lists, tables and pictures, as editors, spreadsheets and cameras write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import pairs_from_csv
from t2iprobe.core.pictures import on_white, opened
from t2iprobe.core.seeds import SEEDS, check_seed
from t2iprobe.core.textfile import read_entries, read_text

PROMPTS = 'a red sign "OPEN"\r\n# comment\r\n  #\r\n#1 fan sign "SHUT"\r\n\r\n  a \u2028 line \r#\ttab\ra "#"'
SAID = ['a red sign "OPEN"', '#1 fan sign "SHUT"', "a \u2028 line", 'a "#"']


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_list_has_neither_blank_lines_nor_remarks(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(PROMPTS.encode(encoding))
    assert read_entries(file, "prompts") == SAID


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("a sign".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("a sign".encode("utf-16-be"), "not UTF-8 text: a NUL in line 1"),
        (b"\xfe\xff\0a", "is UTF-16 text"),
        ("a sign".encode("utf-32"), "is UTF-32 text"),
        (b"one\ntwo\0", "a NUL in line 2"),
        (b"caf\xe9", "not UTF-8 text: unexpected end of data at byte 3"),
        (b"# only\n\n", "holds no prompts; write one per line"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, raw: bytes, said: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(raw)
    with pytest.raises(ConfigError, match=said):
        read_entries(file, "prompts")
    with pytest.raises(ConfigError, match=r"cannot read the prompts in .*none"):
        read_text(tmp_path / "none", "the prompts in")


def table(folder: Path, seed: str, head: str = "source,target,seed", separator: str = ",") -> Path:
    file = folder / "pairs.csv"
    line = separator.join(['a sign "OPEN"', 'a sign "SHUT"', seed])
    file.write_text(f"{head.replace(',', separator)}\n{line}\n", encoding="utf-8-sig")
    return file


@pytest.mark.parametrize(("seed", "number"), [("1.0", 1), ("1E+05", 100_000), ("4294967295", SEEDS - 1), ("007", 7)])
def test_a_seed_as_a_spreadsheet_writes_it(tmp_path: Path, seed: str, number: int) -> None:
    assert [pair.seed for pair in pairs_from_csv(table(tmp_path, seed))] == [number]


@pytest.mark.parametrize("seed", ["99999999999999999999", "4294967296", "1.5", "-1", "1e999999999", "nan", "one", "∞"])
def test_a_seed_that_is_none_is_named_with_its_line_and_the_bound(tmp_path: Path, seed: str) -> None:
    with pytest.raises(ConfigError, match=f"line 2: a seed is a whole number from 0 to 4294967295, found '{seed}'"):
        pairs_from_csv(table(tmp_path, seed))


def test_seeds_are_whole_numbers_that_give_noise_of_their_own() -> None:
    import torch

    def noise(seed: int) -> torch.Tensor:
        return torch.randn(4, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(noise(1), noise(1 + SEEDS))  # why there is a bound
    assert check_seed(np.int64(7)) == 7 and type(check_seed(np.int64(7))) is int
    for wrong in (-1, SEEDS, 1.0, True, "1", None):
        with pytest.raises(ConfigError, match="from 0 to 4294967295"):
            check_seed(wrong)


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_another_separator_is_named(tmp_path: Path, separator: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"line 1: the columns are separated by {name}.*save the file with commas"):
        pairs_from_csv(table(tmp_path, "1", separator=separator))


def test_a_quote_inside_a_quoted_cell_is_explained(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text('source,target\n"a sign "OPEN"","a sign ""SHUT"""\n')
    with pytest.raises(ConfigError, match=r"line 2: .*quotes inside it must be doubled"):
        pairs_from_csv(tmp_path / "pairs.csv")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_opened_as_it_is_looked_at(tmp_path: Path, orientation: int) -> None:
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turned = {  # what a camera keeps for each orientation; from the EXIF standard
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(np.asarray(opened(tmp_path / "photo.png")), upright)


def test_what_is_transparent_is_white_and_what_is_no_picture_is_said(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (1, 1), (9, 9, 9, 0))
    assert on_white(clear).getpixel((0, 0)) == (255, 255, 255)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ConfigError, match=r"--image .*cut.png is not a readable picture"):
        opened(tmp_path / "cut.png", f"--image {tmp_path / 'cut.png'}")
    with pytest.raises(ConfigError, match="there is no such file"):
        opened(tmp_path / "none.png")
