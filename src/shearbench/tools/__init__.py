"""Programs beside the workflow: benchmarks, generated documentation, estimates of cost."""
