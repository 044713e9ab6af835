"""From files to records, from text to tensors.

json_lines.py      JSON Lines, one object a line           fields.py          checked fields of one row
sources.py         builtin sets and where to get others    social.py          replies with engagement: own exports
stack_exchange.py  threads as social replies               headlines.py       randomised headline tests
stories.py         writing prompts and stories             builtin/           small sets written for polyray
tables.py          rows of JSON Lines, CSV, Parquet and `datasets` directories
records.py         rows of the user's own SFT files, without a tokenizer
chat.py            tokenisation of prompts and demonstrations
demonstrations.py  what SFT trains on, by row number
packing.py         padding, several rows in one sequence
"""
