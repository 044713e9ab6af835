"""From text to tensors: chat.py (tokenisation of prompts and demonstrations), packing.py (padding)."""
