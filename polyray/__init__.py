"""polyray trains language models for the way they are used: k candidates are generated and one is picked.

Layers, from the ground up (who may import whom is enforced by import-linter, see pyproject.toml):

    L0  types, errors, config      standard library + pydantic
    L1  algorithms, metrics        pure mathematics on arrays
    L2  everything else here       torch / transformers / peft; vLLM only in rollout/vllm_*.py
    L3  actors                     the only package here that imports ray

The command lines are in `jobs/`, the HTTP services in `services/`, both at the top of the repository.
"""

__version__ = "0.1.0"
