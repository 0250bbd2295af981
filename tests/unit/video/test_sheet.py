"""The contact sheet: what is on it, whatever files are called, and that nothing on it is fetched."""

import base64
import io
from html.parser import HTMLParser

import pytest
from clips import write_film
from helpers import raises_exactly
from PIL import Image

from apt_peft.errors import ConfigError
from apt_peft.video import audit, read_data
from apt_peft.video.sheet import check_sheet, write_sheet

NASTY = 'wave <script>alert(1)<b>"&amp;.mp4'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes; a copy of a clip in the test split, a clip with another class's name, one that cannot be read."""
    root = tmp_path_factory.mktemp("data")
    for number in range(3):
        write_film(root / "train" / "jump" / f"j{number}.mp4", number, num_frames=6)
        write_film(root / "train" / "wave <i>" / f"w{number}.mp4", 10 + number, num_frames=6)
    write_film(root / "test" / "jump" / "copy.mp4", 1, num_frames=6, gain=0.9)
    write_film(root / "train" / "jump" / NASTY, 20, num_frames=6)
    (root / "train" / "jump" / "broken.mp4").write_bytes(b"no video")
    splits = read_data(root)
    splits.labels = ["jump", "wave"]
    return splits


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text, self.sources = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_an_html_sheet(data, tmp_path):
    report, steps = audit(data), []
    write_sheet(tmp_path / "new" / "sheet.html", report, data, per_class=2, progress=steps.append)
    page = Page((tmp_path / "new" / "sheet.html").read_text(encoding="utf-8"))
    # Names are text: no tag comes from them.
    assert set(page.tags) == {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h2",
        "figure",
        "img",
        "figcaption",
        "br",
        "span",
    }
    assert NASTY in page.text
    assert f'"{NASTY[:-4]}" names wave, but its class is jump' in page.text
    assert page.text.count("shows the same as others: group 1") == 2
    assert page.text.index("To look at") < page.text.index("jump (5)") < page.text.index("wave (3)")
    assert "broken.mp4" not in page.text
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert len(page.sources) == 3 * page.tags.count("figure") == 3 * (3 + 2 + 2)
    picture = Image.open(io.BytesIO(base64.b64decode(page.sources[0].partition(",")[2])))
    assert picture.size == (96, 72)
    assert "default-src 'none'" in (tmp_path / "new" / "sheet.html").read_text(encoding="utf-8")
    assert sum(steps) == len(steps) > 3
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["sheet.html"]


def test_a_png_sheet(data, tmp_path):
    write_sheet(tmp_path / "sheet.png", audit(data, decode=False), data)
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.format == "PNG"
    assert sheet.width > 1000
    colours = sheet.convert("RGB").getcolors(maxcolors=10**6)
    assert len(colours) > 1000  # pictures, not only text


def test_another_suffix(data, tmp_path):
    message = f"sheet ({tmp_path}/sheet.pdf) must be named .html or .png."
    with raises_exactly(ConfigError, message):
        write_sheet(tmp_path / "sheet.pdf", audit(data, decode=False), data)


def test_a_place_that_cannot_be_written_to_is_told_before_clips_are_read(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.html").mkdir()
    for place, reason in (("file/sheet.html", "file exists"), ("folder.html", "it is a folder")):
        message = f"sheet ({tmp_path}/{place}) must be a file that can be written, but {reason}. Choose another place."
        with raises_exactly(ConfigError, message):
            check_sheet(tmp_path / place)
    check_sheet(tmp_path / "new" / "sheet.png")
    assert list((tmp_path / "new").iterdir()) == []
