"""The generation service: app.py is the deployment, service.py one replica, run.py starts and stops it."""
