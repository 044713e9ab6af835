"""What a run is: pydantic models, frozen, unknown keys refused; nothing heavy is imported.

base.py        the model all others derive from
model.py       base model, LoRA, warm start              task.py / reward.py   the task and how it is judged
rollout.py     sampling and engines                      service.py            how rewards are served
algorithm.py   the objectives
objective.py   what objectives share before the loss     loss.py               what they share in it
sft.py         the file of polyray sft                      supervised.py         its data, objectives, evaluation
learner.py     optimisation                              delivery.py           policy delivery and its proof
evaluation.py  pass@k and friends                        run.py                the files jobs read
text_tasks.py  tasks without a verifier                 checker.py            what a pass is for them
bundles.py     what a run places on machines           placement.py           which GPU that needs; memory.py
loader.py      YAML + key=value overrides -> a model     derived.py            sizes that follow from a run
"""
