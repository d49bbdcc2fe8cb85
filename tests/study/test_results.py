"""results.json: what was edited by hand is told apart from what a sweep wrote."""

import json

import pytest

from bmrpruner import cli
from bmrpruner.study import results
from tests.study.points import point

GOOD = {
    "settings": {"samples": 2},
    "points": [point("snr", 0.5), point("magnitude", 0.9)],
    "version": "0.1.0",
    "complete": True,
}
GONE = object()
EDITS = {
    "settings": [3, None, [], GONE],
    "points": [3, {}, None, GONE],
    "version": [1, None, GONE],
    "complete": ["yes", 1, GONE],
    "comment": ["mine"],
    "points.1": [3, [], "snr", None],
    "points.1.rule": ["snr", None, GONE],
    "points.1.rule.prune": [1],
    "points.1.rule.sparsity": ["0.5", True],
    "points.1.rule.seed": [1.5, "0"],
    "points.1.rule.include": ["a*", [1], 3],
    "points.1.algorithm": [3, None, GONE],
    "points.1.label": [3, GONE],
    "points.1.sparsity": ["0.9", None, GONE],
    "points.1.leaf_sparsity": [[], GONE],
    "points.1.leaf_sparsity.head/kernel": ["0.9", None],
    "points.1.nonzeros": [1.5, "3", 2**63, GONE],
    "points.1.seconds": ["1", GONE],
    "points.1.mean": [3, None, GONE],
    "points.1.mean.nll": ["0.3", None, [], 10**400, GONE],
    "points.1.mean.nll_se": ["0.3", None],
    "points.1.averaged": [3, GONE],
    "points.0.averaged.accuracy": ["1", GONE],
    "points.0.mean.reliability": [[], None, GONE],
    "points.0.mean.reliability.counts": [3, ["1"], [1], GONE],
}


def edited(path, value):
    """The good results with another value at a path such as `'points.1.label'`."""
    content = json.loads(json.dumps(GOOD))
    *parents, last = path.split(".")
    node = content
    for parent in parents:
        node = node[int(parent) if isinstance(node, list) else parent]
    if value is GONE:
        del node[last]
    else:
        node[int(last) if isinstance(node, list) else last] = value
    return content


def test_what_a_sweep_wrote_is_read(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(GOOD))
    assert vars(results.load(tmp_path)) == GOOD


def test_results_that_are_not_finite_are_read(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(edited("points.1.mean.nll", float("nan"))))
    assert len(results.load(tmp_path).points) == 2


@pytest.mark.parametrize("path", EDITS)
def test_the_edited_entry_is_named(tmp_path, path):
    for value in EDITS[path]:
        (tmp_path / "results.json").write_text(json.dumps(edited(path, value)))
        with pytest.raises(ValueError, match=r"results\.json: .*expected .*got ") as raised:
            results.load(tmp_path)
        # Unknown entries are named behind their parent.
        parts = path.replace("head/kernel", "['head/kernel']").split(".")
        named = parts[-1] if path in ("comment", "points.1.rule.prune") else ".".join(parts)
        named = named.replace("points.1", "points[1]").replace("points.0", "points[0]")
        assert named.replace(".[", "[").removesuffix(".counts") in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{", "[" * 100_000, '{"a": 1}', "\ud800"])
def test_other_texts_are_no_results(tmp_path, text):
    (tmp_path / "results.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"results\.json: "):
        results.load(tmp_path)


@pytest.mark.parametrize("path", ["settings", "points.1", "points.1.rule.prune", "points.1.mean"])
def test_commands_end_in_one_line(tmp_path, capsys, monkeypatch, path):
    from tests.cli.commands import SWEEP, write_idx, write_posterior

    monkeypatch.chdir(tmp_path)
    write_posterior(tmp_path / "posterior.npz")
    write_idx(tmp_path / "data")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results.json").write_text(json.dumps(edited(path, 3)))
    for words in (("report", "results"), (*SWEEP, "--resume")):
        assert cli.run(words) == 2
        err = capsys.readouterr().err
        assert err.startswith("bmrpruner: results/results.json: ")
        assert err.count("\n") == 1
