"""Properties of trained and untrained networks: layers, size, cost, receptive field."""
