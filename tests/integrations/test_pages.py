"""Each page of docs/integrations: its program prunes, and does not without its marked line.

Not collected by default, as it needs the frameworks: `bash run.sh integrations`.
"""

import ast
import contextlib
import functools
import io
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner
from tests.integrations.pages import PAGES

FOLDER = Path(__file__).parents[2] / "docs" / "integrations"
MARK = "  # bmrpruner\n"
SPARSITY = 0.75


def text(name):
    return (FOLDER / f"{name}.md").read_text("utf-8")


def block(name):
    (found,) = re.findall(r"```python\n(.*?)```", text(name), re.DOTALL)
    return found


def run(code):
    """The names that a program leaves behind, and what it prints."""
    names = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    return names, printed.getvalue().strip()


def numbers(printed):
    """Sparsity, loss before and loss after."""
    pattern = r"pruned ([\d.]+), loss ([\d.]+) -> ([\d.]+)"
    return [float(number) for number in re.fullmatch(pattern, printed).groups()]


@functools.cache
def run_page(name):
    return run(block(name))


def is_array(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)


def check_learned(printed):
    _, first, last = numbers(printed)
    assert last < first / 2, "learned"


def check_pruned(page, names, printed):
    params = page.params(names)
    weights = [w for w in jax.tree.leaves(params) if is_array(w) and w.ndim == page.weight_ndim]
    assert len(weights) == 2
    zeros = [int(np.sum(np.asarray(w) == 0)) for w in weights]
    assert zeros == [SPARSITY * w.size for w in weights], "pruned"

    sparsity, _, last = numbers(printed)
    assert sparsity == SPARSITY
    digits = len(printed.partition("-> ")[2].partition(".")[2])
    loss = float(page.loss(names, params))
    assert loss == pytest.approx(last, abs=10**-digits), "what is evaluated is what is counted"
    dense = jax.tree.map(lambda w: jnp.where(w == 0, 1, w) if is_array(w) else w, params)
    assert float(page.loss(names, dense)) > 1.5 * loss, "the forward pass reads what is counted"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_prunes_and_does_not_without_its_line(name):
    code = block(name)
    (line,) = [line for line in code.splitlines(keepends=True) if line.endswith(MARK)]
    names, printed = run_page(name)
    check_learned(printed)
    check_pruned(PAGES[name], names, printed)

    plain = code.replace(line, "")
    if line.startswith("import"):
        with pytest.raises(NameError, match="jaxpruner"):
            run(plain)
        return
    names, printed = run(plain)
    check_learned(printed)
    with pytest.raises(AssertionError, match="pruned"):
        check_pruned(PAGES[name], names, printed)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_its_program_prints(name):
    said = re.search(r"It prints `(.*)`", text(name))[1]
    assert numbers(run_page(name)[1]) == pytest.approx(numbers(said), rel=0.2, abs=0.01)


def test_every_page_is_tested_and_in_the_table():
    assert {path.stem for path in FOLDER.glob("*.md")} == {*PAGES, "index"}
    rows = dict(re.findall(r"^\| \[.*?\]\((\w+)\.md\) \| `(.*?)`", text("index"), re.MULTILINE))
    assert rows == {name: re.search(f"^(.*){MARK}", block(name), re.MULTILINE)[1] for name in PAGES}


@pytest.mark.parametrize("name", ["flax_nnx", "haiku", "keras", "penzai"])
def test_a_page_says_what_key_paths_are(name):
    said = ast.literal_eval(re.search(r"such as\s`(\(.*?\))`", text(name))[1])
    params = PAGES[name].params(run_page(name)[0])
    assert "/".join(said) in bmrpruner.summarize_sparsity(params)


def test_orbax_resumes_to_the_same_bits():
    names, _ = run_page("orbax")
    carry = names["start"]
    for _ in range(200):
        carry = names["step"](*carry)
    chex.assert_trees_all_equal((names["params"], names["state"]), carry)


def test_t5x_settings_as_keywords_give_the_same_masks():
    names, _ = run_page("scenic_t5x")
    make = bmrpruner.create_updater_from_config
    scores = {"w": jnp.arange(16.0).reshape(4, 4)}
    masks = [
        updater.instant_sparsify(scores)[1]
        for updater in (names["updater"], make(**names["config"].sparsity_config))
    ]
    assert int(masks[0]["w"].sum()) == 4
    chex.assert_trees_all_equal(*masks)


def test_a_guide_with_standard_deviations_is_pruned_by_its_evidence():
    """As the page of NumPyro says: pruned weights keep neither mean nor variance."""
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.optim import Adam

    names, _ = run_page("numpyro")
    svi = SVI(names["model"], AutoNormal(names["model"]), Adam(1e-2), Trace_ELBO())
    fitted = svi.run(jax.random.key(0), 50, names["x"], names["y"], progress_bar=False).params
    sites = ("hidden", "output")
    loc, scale = ({s: fitted[f"{s}_auto_{kind}"] for s in sites} for kind in ("loc", "scale"))
    posterior = bmrpruner.posteriors.from_mean_field(loc, scale=scale)
    pruner = bmrpruner.BMRPruning(sparsity=SPARSITY)
    _, masks = pruner.instant_sparsify(loc, posterior=posterior)
    pruned = posterior.prune(masks)
    for site in sites:
        z2 = np.asarray((loc[site] / scale[site]) ** 2 + 2 * jnp.log(scale[site])).ravel()
        fewest = np.sort(z2)[z2.size // 4 * 3]  # -2 ΔF, but for the prior's constant
        np.testing.assert_array_equal(np.ravel(pruned.mean[site]) != 0, z2 >= fewest)
        np.testing.assert_array_equal(np.ravel(pruned.std[site]) != 0, z2 >= fewest)
