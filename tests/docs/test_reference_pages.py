"""The pages of the reference, before Sphinx reads them."""

import types

import pytest
from built_site import SITE
from public_names import modules

reference_pages = pytest.importorskip("reference_pages", reason="sphinx is not installed")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Keep the largest |w·g|, of all.", r"Keep the largest \|w·g\|, of all."),
        ("Σ_:q Σ_q:/Σ_qq", r"Σ\_:q Σ_q:/Σ_qq"),
        ("`'layer' | 'global'` and |w|", r"``'layer' | 'global'`` and \|w\|"),
        ("`params` of `jax.ShapeDtypeStruct`s", r"`params` of `jax.ShapeDtypeStruct`\ s"),
        ("`.npz`, ``a|b``", "``.npz``, ``a|b``"),
        ("a_name, `a_name`", "a_name, `a_name`"),
    ],
)
def test_marks_in_docstrings_stay_what_they_are(line, shown):
    assert reference_pages.escaped(line) == shown


def test_a_page_per_module():
    expected = {f"{module.__name__}.rst" for module in modules()} | {"index.rst"}
    assert set(reference_pages.pages()) == expected
    assert all((SITE / "reference" / name).with_suffix(".html").is_file() for name in expected)


@pytest.mark.parametrize("lacking", [None, "bmrpruner.optimizers.ivon", "bmrpruner.api.ALGORITHMS"])
def test_a_name_without_an_entry_is_a_warning(lacking, monkeypatch):
    warned = []
    logger = types.SimpleNamespace(warning=lambda text, *args: warned.append(text % args))
    monkeypatch.setattr(reference_pages, "logger", logger)
    shown = set(reference_pages.other_names().values()) | {m.__name__ for m in modules()}
    domain = types.SimpleNamespace(objects=shown - {lacking})
    reference_pages.check_names(None, types.SimpleNamespace(get_domain=lambda name: domain))
    assert all("no entry in the reference" in text for text in warned)
    assert bool(warned) == bool(lacking)
    assert all(text.split(":")[0].endswith(lacking.rpartition(".")[2]) for text in warned)
