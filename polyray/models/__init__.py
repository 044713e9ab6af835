"""The base model and the adapter on it.

loading.py    the base itself, and its tokenizer (tokenizer.py)
lora.py       the adapter: attaching, the frozen reference copy, saving, reading, merging
pissa.py      principal components as its start, delivered as plain LoRA
embedder.py   sentence embeddings in batches, the same bits in any batch
text_encoder.py  how alike texts are, for classes and distances
sharding.py   the frozen base in parts on the learner's ranks
checkpointing.py  layers that are computed again in the backward pass
logprobs.py   log-probabilities of completions, without a [batch, time, vocabulary] tensor
packing.py    inputs of the backbone for them: trees of their prefixes (prefix_trees.py, tree_attention.py), or rows
"""
