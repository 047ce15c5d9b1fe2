"""How the prompt shifts the prototypes: a softmax over the prompt's features (MiCRo's context-aware routing).

Fitted by ridge-penalised multinomial regression of each person's responsibilities on the mean of their prompts.
Knows nothing about where prompt features come from.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from router.types import Array

RIDGE = 1.0


def gate(gating_weights: Array, prompt: Array) -> Array:
    """Return the logits (..., K) that prompts (..., Q) add to the prototypes' log mixture weights."""
    prompt = np.asarray(prompt, dtype=np.float64)
    if prompt.shape[-1:] != (gating_weights.shape[1] - 1,):
        raise ValueError(f"prompt features must end in {gating_weights.shape[1] - 1} numbers, not {prompt.shape}")
    return np.asarray(prompt @ gating_weights[:, :-1].T + gating_weights[:, -1])


def fit_gating(prompts: Array, log_evidence: Array, log_mixture_weights: Array) -> Array:
    """Fit gating weights (K, Q + 1) from each person's mean prompt (U, Q) and evidence (U, K).

    Maximises `Σ_u log Σ_k softmax(log π + G·[prompt; 1])_k exp(log_evidence_uk) - ridge/2·|G|²`; deterministic.
    """
    U, Q = prompts.shape
    K = log_mixture_weights.shape[0]
    inputs = np.column_stack([prompts, np.ones(U)])

    def loss(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(K, Q + 1)
        log_gates = log_softmax(log_mixture_weights + inputs @ weights.T, axis=1)  # (U, K)
        joint = log_gates + log_evidence
        posterior = np.exp(log_softmax(joint, axis=1))
        total = np.logaddexp.reduce(joint, axis=1).sum()
        slope = (posterior - np.exp(log_gates)).T @ inputs
        return RIDGE / 2 * float(flat @ flat) - float(total), RIDGE * flat - slope.ravel()

    return np.asarray(minimize(loss, np.zeros(K * (Q + 1)), jac=True, method="L-BFGS-B").x.reshape(K, Q + 1))
