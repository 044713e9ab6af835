"""The reward service: app.py is the deployment, run.py starts and stops it on a Ray cluster."""
