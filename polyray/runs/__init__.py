"""What a run leaves behind and what it shows while it runs; needs neither torch nor Ray.

atomic.py         files and directories that are either complete or not there
jsonl.py          append-only logs that survive a kill: metrics.jsonl, rollouts.jsonl, dynamics.jsonl
run_directory.py  runs/<name>/: its layout, its lock, and whether a run may be resumed
data_record.py    data.json: what the data files held when the run was started
stop_request.py   how a driver asks workers to end that it cannot call
cost.py           cost.json: time, cores, GPUs, tokens, judge spend, money
progress.py       the live display of a job, or plain lines where there is no terminal
logging.py        our messages, and silence from everyone else
"""
