"""The backbone's licence, read off its card."""

import pytest

from apt_peft.card import Licence, licence_of


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("license: cc-by-nc-4.0", Licence("cc-by-nc-4.0")),
        ("license: apache-2.0\ntags: [a]", Licence("apache-2.0")),
        ("license: [mit]", Licence("mit")),
        (
            "license: other\nlicense_name: my-nc-licence\nlicense_link: https://example.org/l",
            Licence("other", "my-nc-licence", "https://example.org/l"),
        ),
        ("license: unknown", None),
        ("license: 7", None),
        ("license: 'a b'", None),
        ("license: {a: b}", None),
        ("tags: [a]", None),
        ("license: [", None),
        ("- a", None),
        ("? " * 50_000, None),
        ("license: !!python/object/apply:os.system ['touch ran']", None),
    ],
)
def test_cards(tmp_path, monkeypatch, metadata, licence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\n# A backbone\n")
    assert licence_of(str(tmp_path)) == licence
    assert not (tmp_path / "ran").exists()


def test_no_card_and_no_metadata(tmp_path):
    assert licence_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("# A backbone\n")
    assert licence_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00")
    assert licence_of(str(tmp_path)) is None


def test_a_hub_that_cannot_be_asked_leaves_it_unknown():
    assert licence_of("me/base") is None


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        (Licence("cc-by-nc-4.0"), True),
        (Licence("cc-by-nc-sa-4.0"), True),
        (Licence("other", "Some Non-Commercial Licence"), True),
        (Licence("apache-2.0"), False),
        (Licence("ncsa"), False),
        (Licence("cc-by-4.0"), False),
    ],
)
def test_which_forbid_commercial_use(licence, forbids):
    assert licence.is_non_commercial is forbids
