"""JaxPruner's names are found where JaxPruner has them."""

import importlib
import subprocess
import sys

import pytest

import bmrpruner as jaxpruner

TOP_LEVEL = """
    MagnitudePruning SaliencyPruning RandomPruning GlobalMagnitudePruning GlobalSaliencyPruning
    StaticRandomSparse SET RigL SteMagnitudePruning SteRandomPruning
    NoPruning BaseUpdater SparseState apply_mask
    NoUpdateSchedule OneShotSchedule PeriodicSchedule PolynomialSchedule
    SparsityType summarize_sparsity summarize_intersection
    ALGORITHM_REGISTRY all_algorithm_names create_updater_from_config register_algorithm
"""
SUBMODULES = {
    "api": "ALGORITHM_REGISTRY ALGORITHMS all_algorithm_names register_algorithm "
    "create_updater_from_config",
    "base_updater": "SparseState apply_mask BaseUpdater NoPruning",
    "mask_calculator": "MASK_DTYPE get_topk_fn topk_mask_calculator topk_n_by_m_mask_calculator "
    "topk_block_mask_calculator topk_channel_mask_calculator _topk_mask_calculator_internal",
    "sparsity_distributions": "KERNEL_FILTER_FN NOT_DIM_ONE_FILTER_FN uniform erk get_n_zeros "
    "get_sparsities_erdos_renyi FilterFnType CustomSparsityMapType",
    "sparsity_schedules": "NoUpdateSchedule OneShotSchedule PeriodicSchedule PolynomialSchedule",
    "sparsity_types": "Unstructured Block NByM Channel SparsityType is_sparsity_type",
    "utils": "summarize_sparsity summarize_intersection",
    "algorithms.pruners": "MagnitudePruning SaliencyPruning RandomPruning generate_random_scores",
    "algorithms.global_pruners": "GlobalPruningMixin GlobalMagnitudePruning GlobalSaliencyPruning",
    "algorithms.sparse_trainers": "StaticRandomSparse SET RigL restart_inner_state",
    "algorithms.ste": "SteMixin SteMagnitudePruning SteRandomPruning",
    "projects.extensions.acdc": "ACDC add_to_jaxpruner",
    "projects.extensions.adam_fisher": "AdamBasedFisherPruning add_to_jaxpruner find_adamstate "
    "replace_adamstate",
    "projects.extensions.iterative_nm": "IterativeNMPruning add_to_jaxpruner",
}


@pytest.mark.parametrize("name", TOP_LEVEL.split())
def test_top_level_names(name):
    assert hasattr(jaxpruner, name)
    assert name in jaxpruner.__all__


@pytest.mark.parametrize("module", SUBMODULES)
def test_submodules_are_attributes_and_import_deeply(module):
    found = jaxpruner
    for part in module.split("."):
        found = getattr(found, part)
    assert found is importlib.import_module(f"bmrpruner.{module}")
    for name in SUBMODULES[module].split():
        assert hasattr(found, name), name


def test_star_import_of_the_sparse_trainers():
    names = {}
    exec("from bmrpruner.algorithms.sparse_trainers import *", names)
    assert {"SET", "RigL", "StaticRandomSparse", "restart_inner_state"} <= names.keys()


@pytest.mark.slow
def test_import_does_not_start_jax():
    code = (
        "import bmrpruner, dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Mine(bmrpruner.BaseUpdater): pass\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
