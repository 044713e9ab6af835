"""From text to tensors.

records.py         rows of the user's own SFT files, without a tokenizer
chat.py            tokenisation of prompts and demonstrations
demonstrations.py  what SFT trains on, by row number
packing.py         padding, several rows in one sequence
"""
