"""Ray Serve applications by name: `serve run services.generation:app`. The program is polyray/serving/."""
