"""Files of a run, and its display while it runs; needs neither torch nor Ray.

atomic.py         files and directories that are either complete or absent
jsonl.py          append-only logs that survive a kill: metrics.jsonl, rollouts.jsonl, dynamics.jsonl
run_directory.py  runs/<name>/: its layout, its lock, and whether a run may be resumed
data_record.py    data.json: hashes of the data files when the run was started
stop_request.py   a driver's stop request to workers that it cannot call
cost.py           cost.json: time, cores, GPUs, tokens, judge spend, money
progress.py       the live display of a job, or plain lines where there is no terminal
logging.py        our messages, without those of other libraries
"""
