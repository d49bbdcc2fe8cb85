"""The samplers of the study, all blackjax's: NUTS, HMC, MALA and tempered SMC.

The masks are arguments, so that each sampler is compiled once for all of them: what is pruned stays
in the vector, under its prior, and nothing depends on it. `bmrpruner.ravel_kept(params, masks)`
makes the shorter vector of the pruned model, for samplers that cost more for more coordinates.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
from mcmc_data import Problem

import bmrpruner
from bmrpruner.study.models import init_mlp, mlp


class Chains(NamedTuple):
    """What a sampler returns."""

    draws: Any  # a tree of arrays [chain, draw, *shape], the pruned weights zero
    log_density: Any  # [chain, draw]
    acceptance: Any  # [chain]
    divergences: Any  # [chain]; NaN where a sampler knows none
    step_size: Any  # [chain]
    log_evidence: Any = None  # [chain], by SMC alone


def init(problem: Problem) -> Any:
    """Parameters of one hidden layer; a regression has the logarithm of its noise too."""
    params = init_mlp(jax.random.key(0), problem.sizes)
    return {**params, "log_noise": jnp.zeros(())} if problem.is_regression else params


def outputs(params: Any, x: Any) -> jax.Array:
    """The network's outputs (n, outputs), with tanh in between."""
    layers = {name: leaf for name, leaf in params.items() if name != "log_noise"}
    return mlp(layers, x, jnp.tanh)


def log_likelihood(params: Any, problem: Problem) -> jax.Array:
    """Of the training targets, summed."""
    found = outputs(params, problem.x)
    if problem.is_regression:
        std = jnp.exp(params["log_noise"])
        return jnp.sum(jax.scipy.stats.norm.logpdf(problem.y, found[:, 0], std))
    chosen = jax.nn.one_hot(problem.y, found.shape[1])  # whose gradient is quicker than a look-up's
    return jnp.sum(jax.nn.log_softmax(found) * chosen)


def log_prior(z: jax.Array) -> jax.Array:
    """Standard normal for each coordinate."""
    return jnp.sum(jax.scipy.stats.norm.logpdf(z))


def sample(sampler: str, problem: Problem, masks: Any, key: Any, sizes: tuple[int, ...]) -> Chains:
    """Draw by 'nuts', 'hmc', 'mala' or 'smc'.

    Args:
      sampler: Its name.
      problem: The data.
      masks: Masks for the parameters; pruned weights are zero in all draws.
      key: JAX key.
      sizes: Chains, steps of adaptation, draws of each chain.

    Returns:
      The chains.
    """
    static = problem.name, problem.sizes, problem.is_regression
    data = problem.x, problem.y
    return _sample(sampler, static, data, masks, key, sizes)


@functools.partial(jax.jit, static_argnums=(0, 1, 5))
def _sample(sampler: str, static: Any, data: Any, masks: Any, key: Any, sizes: Any) -> Chains:
    problem = Problem(static[0], static[1], *data, None, None, 0.0, 1.0)
    vector, unravel = bmrpruner.ravel_kept(init(problem))

    def likelihood(z: jax.Array) -> jax.Array:
        return log_likelihood(bmrpruner.apply_masks(unravel(z), masks), problem)

    chains, warm_up, draws = sizes
    run = functools.partial(_RUNS[sampler], likelihood, vector.size, warm_up, draws)
    z, *rest = jax.vmap(run)(jax.random.split(key, chains))
    weights = jax.vmap(jax.vmap(lambda z: bmrpruner.apply_masks(unravel(z), masks)))(z)
    return Chains(weights, *rest)


def _hamiltonian(algorithm: Any, options: Any, likelihood: Any, size: int, *rest: Any) -> Any:
    """Steps of HMC or NUTS, after window adaptation of the step size and a diagonal metric."""
    warm_up, draws, key = rest
    start_key, warm_key, key = jax.random.split(key, 3)

    def log_density(z: jax.Array) -> jax.Array:
        return likelihood(z) + log_prior(z)

    adaptation = blackjax.window_adaptation(algorithm, log_density, **options)
    start = 0.5 * jax.random.normal(start_key, (size,))
    (state, parameters), _ = adaptation.run(warm_key, start, num_steps=warm_up)
    step = algorithm(log_density, **parameters).step

    def one(state: Any, key: Any) -> Any:
        state, info = step(key, state)
        return state, (state.position, state.logdensity, info.acceptance_rate, info.is_divergent)

    _, (z, logs, acceptance, diverged) = jax.lax.scan(one, state, jax.random.split(key, draws))
    return z, logs, acceptance.mean(), diverged.sum(), parameters["step_size"]


def _langevin(likelihood: Any, size: int, warm_up: int, draws: int, key: Any) -> Any:
    """Every 16th step of MALA; its step size is adapted to an acceptance of .574 at first."""
    thin = 16
    start_key, key = jax.random.split(key)

    def log_density(z: jax.Array) -> jax.Array:
        return likelihood(z) + log_prior(z)

    def one(state: Any, key: Any, log_step: Any) -> Any:
        state, info = blackjax.mala(log_density, jnp.exp(log_step)).step(key, state)
        return state, info.acceptance_rate

    def adapt(carry: Any, inputs: Any) -> Any:
        state, log_step = carry
        key, rate = inputs
        state, acceptance = one(state, key, log_step)
        return (state, log_step + rate * (acceptance - 0.574)), None

    def several(state: Any, key: Any) -> Any:
        keys = jax.random.split(key, thin)
        state, acceptance = jax.lax.scan(lambda s, k: one(s, k, log_step), state, keys)
        return state, (state.position, state.logdensity, acceptance.mean())

    start = 0.5 * jax.random.normal(start_key, (size,))
    state = blackjax.mala(log_density, 1e-3).init(start)
    keys = jax.random.split(key, thin * warm_up + draws)
    rates = 0.5 / jnp.sqrt(1 + jnp.arange(thin * warm_up))
    (state, log_step), _ = jax.lax.scan(
        adapt, (state, jnp.log(1e-4)), (keys[: thin * warm_up], rates)
    )
    _, (z, logs, acceptance) = jax.lax.scan(several, state, keys[thin * warm_up :])
    return z, logs, acceptance.mean(), jnp.nan, jnp.exp(log_step)


def _tempered(likelihood: Any, size: int, warm_up: int, draws: int, key: Any) -> Any:
    """Particles from the prior to the posterior, moved by HMC at each temperature."""
    start_key, key = jax.random.split(key)

    def smc(log_step: Any) -> Any:
        parameters = {
            "step_size": jnp.exp(log_step)[None],
            "inverse_mass_matrix": jnp.ones((1, size)),
            "num_integration_steps": jnp.array([16]),
        }
        return blackjax.adaptive_tempered_smc(
            log_prior,
            likelihood,
            blackjax.hmc.build_kernel(),
            blackjax.hmc.init,
            parameters,
            blackjax.smc.resampling.systematic,
            target_ess=0.7,
            num_mcmc_steps=2,
        )

    def step(carry: Any) -> Any:
        state, key, evidence, log_step, _ = carry
        key, step_key = jax.random.split(key)
        state, info = smc(log_step).step(step_key, state)
        acceptance = info.update_info.acceptance_rate.mean()
        log_step += acceptance - 0.8  # smaller steps as the posterior narrows
        return state, key, evidence + info.log_likelihood_increment, log_step, acceptance

    particles = jax.random.normal(start_key, (draws, size))
    first = jnp.log(0.2)
    carry = smc(first).init(particles), key, jnp.zeros(()), first, jnp.ones(())
    state, _, evidence, log_step, acceptance = jax.lax.while_loop(
        lambda carry: carry[0].tempering_param < 1, step, carry
    )
    logs = jax.vmap(likelihood)(state.particles) + jax.vmap(log_prior)(state.particles)
    return state.particles, logs, acceptance, jnp.nan, jnp.exp(log_step), evidence


_RUNS = {
    "nuts": functools.partial(_hamiltonian, blackjax.nuts, {"max_num_doublings": 5}),
    "hmc": functools.partial(
        _hamiltonian, blackjax.hmc, {"num_integration_steps": 16, "target_acceptance_rate": 0.7}
    ),
    "mala": _langevin,
    "smc": _tempered,
}
