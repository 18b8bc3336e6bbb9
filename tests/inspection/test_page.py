from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowsam.errors import InputError
from knowsam.inspection.check import check_folder
from knowsam.inspection.findings import CheckReport
from knowsam.inspection.page import LABELLED_SHOWN, page, write_page
from knowsam.presentation.pictures import class_colour
from support.folders import make_folder, make_image, make_nifti_folder, save_picture


class Page(HTMLParser):
    """Tags and attributes of a page, checked to be nested properly."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID and tag != "wbr":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def pictures(self) -> dict[str, np.ndarray]:
        """Alternative text -> pixels."""
        found = {}
        for tag, values in self.tags:
            if tag == "img":
                source, alt = values["src"], values["alt"]
                assert source is not None
                assert alt
                head, content = source.split(",", 1)
                assert head == "data:image/jpeg;base64"
                found[alt] = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        return found


def test_page_is_self_contained_and_draws_masks(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", n_images=8, n_masks=5, size=(64, 80))
    for i in range(8):
        save_picture(
            data / "images" / f"case_{i}.png", np.full((64, 80), 60, np.uint8) + make_image((64, 80), seed=i) // 8
        )
    out = tmp_path / "new" / "check.html"
    write_page(check_folder(data), out)
    shown = Page(out.read_text(encoding="utf-8"))
    names = {tag for tag, _ in shown.tags}
    assert not names & {"script", "iframe", "object"}
    assert "http" not in out.read_text(encoding="utf-8").replace("http-equiv", "")
    assert all(values.get("href", "data:") == "data:," for tag, values in shown.tags if tag == "link")
    pictures = shown.pictures()
    assert len(pictures) == 8
    alt = next(alt for alt in pictures if alt.startswith("case_") and "labelled image with class_1, class_2" in alt)
    # Rows 0..1/3 are background, then class 1, then class 2 (make_label), at 30 % opacity over grey of about 76.
    drawn = pictures[alt].astype(float)
    assert drawn.shape == (176, 220, 3)
    for index, row in ((1, 88), (2, 150)):
        expected = 0.7 * 76 + 0.3 * np.array(class_colour(index))
        np.testing.assert_allclose(drawn[row - 5 : row + 5, 50:150].mean(axis=(0, 1)), expected, atol=12)
    assert np.ptp(drawn[20:30, 50:150].mean(axis=(0, 1))) < 3


def test_findings_come_first_worst_first_with_pictures(tmp_path: Path) -> None:
    data = make_folder(tmp_path, n_images=6, n_masks=6)
    (data / "images" / "case_1.png").write_bytes(b"broken <b>")
    save_picture(data / "images" / "case_2.png", make_image(seed=3))
    text = page(check_folder(data))
    shown = Page(text)
    order = [
        shown.text.index(word) for word in ("1 image cannot be read", "pixel for pixel", "No unlabelled", "What is")
    ]
    assert order == sorted(order)
    assert "1 error to correct before training." in shown.text
    pair = text[text.index('class="pair"') :]
    assert pair.index("case_2") < pair.index("case_3") < pair.index("</article>")


def test_text_of_the_data_is_escaped(tmp_path: Path) -> None:
    report = CheckReport("<i>data</i>")
    report.add("error", "k", "<script>alert(1)</script>")
    shown = Page(page(report))
    assert "script" not in {tag for tag, _ in shown.tags}
    assert "<i>data</i>" in shown.text


def test_volumes_and_large_folders(tmp_path: Path) -> None:
    assert len(Page(page(check_folder(make_nifti_folder(tmp_path / "v")))).pictures()) == 4
    data = make_folder(tmp_path / "many", n_images=40, n_masks=40)
    report = check_folder(data)
    assert len(Page(page(report)).pictures()) == LABELLED_SHOWN


def test_broken_folder_still_has_a_page(tmp_path: Path) -> None:
    shown = Page(page(check_folder(tmp_path / "nowhere")))
    assert "does not exist" in shown.text
    with pytest.raises(InputError, match="a folder was found"):
        write_page(CheckReport(), tmp_path)


def test_hidden_masks_are_not_drawn(tmp_path: Path) -> None:
    data = make_folder(tmp_path, n_images=8, n_masks=8, size=(64, 80))
    report = check_folder(data, labelled=2)
    assert report.split is not None
    shown = Page(page(report))
    hidden = [alt for alt in shown.pictures() if "unlabelled image" in alt]
    assert len(hidden) == len(report.split.unlabelled)
    assert all(alt.endswith("its mask is hidden") for alt in hidden)
    # Grey everywhere: no class colour lies over it. JPEG keeps channels equal to a few steps.
    assert max(np.ptp(shown.pictures()[alt].astype(int), axis=2).max() for alt in hidden) < 12
