"""The doctor's page has the table of the code."""

from pages import DOCS

from apt_peft.doctor import KINDS


def table() -> str:
    return "".join(
        f"| `{code}` | {kind.severity} | {kind.what} | {kind.effect} | {kind.remedy} | {'yes' if kind.mended else ''} |\n"
        for code, kind in KINDS.items()
    )


def test_the_table_is_that_of_the_code():
    assert table() in (DOCS / "doctor.md").read_text(encoding="utf-8")
