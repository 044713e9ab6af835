"""Configuration of every job: frozen pydantic models that refuse unknown keys. No heavy imports.

base.py        the model all others derive from
model.py       base model, LoRA, warm start              task.py / reward.py   the task and how it is judged
rollout.py     sampling and engines                      service.py            how rewards are served
algorithm.py   the objectives
objective.py   shared fields before the loss             loss.py               shared fields of the loss
sft.py         the file of polyray sft                      supervised.py         its data, objectives, evaluation
learner.py     optimisation                              delivery.py           policy delivery and its proof
evaluation.py  pass@k and friends                        run.py                the files jobs read
text_tasks.py  tasks without a verifier                 checker.py            their definition of a pass
bundles.py     parts of a run placed on machines        placement.py          the GPU that they need; memory.py
loader.py      YAML + key=value overrides -> a model     derived.py            sizes that follow from a run
"""
